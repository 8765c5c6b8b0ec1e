"""k-means for many numbers of clusters on the same images (the paper's Figure 6).

The images are turned to their principal axes once, which changes no distance. Lloyd's passes then
run on the leading axes alone, which hold most of the variance and are a fraction of the dimensions,
until they gain nothing; the last passes take every axis. A pass costs one matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

VARIANCE, AXES = 0.7, 64  # what the leading axes hold of the whole, and how many they are at least
BLOCK = 2**18  # scores of one block: they stay in a core's cache


@dataclass(frozen=True)
class Points:
    """Images (n, d) float32, centred and turned to their principal axes, the longest first.

    ``squares`` (n,) are squared lengths; the first ``leading`` axes hold most of the variance.
    """

    values: np.ndarray
    squares: np.ndarray
    leading: int

    def __len__(self) -> int:
        return len(self.values)

    @property
    def dimension(self) -> int:
        return int(self.values.shape[1])


@dataclass(frozen=True)
class Clustering:
    """The cluster (n,) int32 of each image, the sum of squared distances, the passes it took."""

    labels: np.ndarray
    inertia: float
    passes: int


def turn(features: np.ndarray) -> Points:
    """Return features (n, d) centred and along their principal axes."""
    centred = np.asarray(features, np.float32) - np.mean(features, 0, np.float64).astype(np.float32)
    values, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    order = np.argsort(-values, kind="stable")
    shares = np.maximum(values[order], 0).cumsum()
    leading = min(max(int(np.searchsorted(shares, VARIANCE * shares[-1])) + 1, AXES), len(shares))
    turned = centred @ axes[:, order].astype(np.float32)
    return Points(turned, np.einsum("ij,ij->i", turned, turned), leading)


def starting_images(images: int, seed: int) -> np.ndarray:
    """Return the images in random order: k-means into k clusters starts from the first k.

    The order knows nothing of the features, so that every space starts from the same images.
    """
    return np.random.default_rng(seed).permutation(images)


def cluster(
    points: Points, count: int, starts: np.ndarray, tolerance: float, passes: int
) -> Clustering:
    """Run k-means into ``count`` clusters from the first of the images ``starts``.

    It ends at a pass that lowers the inertia by less than the share ``tolerance``, or after so many
    ``passes`` (the last of them on every axis). A cluster that loses all its images stays where it
    is, empty. Raises ValueError if there are fewer images than clusters.
    """
    if count > len(points):
        raise ValueError(f"{count} clusters of {len(points)} images")
    used = 0
    centres = points.values[starts[:count], : points.leading]
    if points.leading < points.dimension:
        low = np.ascontiguousarray(points.values[:, : points.leading])
        first = _lloyd(low, points.squares, centres, tolerance, passes)
        centres, used = (
            _means(points.values, first.labels, points.values[starts[:count]]),
            first.passes,
        )
    found = _lloyd(points.values, points.squares, centres, tolerance, max(passes - used, 1))
    return Clustering(found.labels, found.inertia, used + found.passes)


def _lloyd(
    values: np.ndarray, squares: np.ndarray, centres: np.ndarray, tolerance: float, passes: int
) -> Clustering:
    labels, inertia = _assign(values, squares, centres)
    used, gain = 1, np.inf
    while used < passes and gain > tolerance * inertia:
        before, centres = inertia, _means(values, labels, centres)
        labels, inertia = _assign(values, squares, centres)
        used, gain = used + 1, before - inertia
    return Clustering(labels, inertia, used)


def _assign(
    values: np.ndarray, squares: np.ndarray, centres: np.ndarray
) -> tuple[np.ndarray, float]:
    """Return the nearest centre of each image, and the sum of squared distances to them."""
    half = np.einsum("ij,ij->i", centres, centres) / 2
    labels = np.empty(len(values), np.int32)
    inertia = 0.0
    rows = max(BLOCK // len(centres), 64)
    for start in range(0, len(values), rows):
        # |x - c|^2 = |x|^2 - 2 (x c - |c|^2 / 2): the nearest centre has the largest score.
        scores = values[start : start + rows] @ centres.T
        scores -= half
        nearest = scores.argmax(1)
        labels[start : start + rows] = nearest
        best = np.take_along_axis(scores, nearest[:, None], 1)[:, 0].astype(np.float64)
        inertia += float((squares[start : start + rows] - 2 * best).sum())
    return labels, max(inertia, 0.0)


def _means(values: np.ndarray, labels: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Return the mean of each cluster's images; of an empty one, where it was before."""
    shape = (len(before), len(values))
    sizes = np.bincount(labels, minlength=len(before))
    members = csr_matrix(
        (
            np.ones(len(values), np.float32),
            np.argsort(labels, kind="stable"),
            np.concatenate([[0], sizes.cumsum()]),
        ),
        shape,
    )
    means = members @ values
    means /= np.maximum(sizes, 1)[:, None].astype(np.float32)
    means[sizes == 0] = before[sizes == 0]
    return means
