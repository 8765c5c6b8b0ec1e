"""k-means for many numbers of clusters on the same images (the paper's Figure 6).

Lloyd's passes first run on a few leading axes, which hold most of what tells images apart in a
fraction of the dimensions, until they gain nothing; the last passes take every dimension. A pass
costs one matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from detransfer.features.axes import leading_axes

BLOCK = 2**18  # scores of one block: they stay in a core's cache


@dataclass(frozen=True)
class Points:
    """Centred images: all dimensions (n, d) and along the leading axes (n, r), both float32.

    ``squares`` (n,) and ``low_squares`` (n,) are their squared lengths.
    """

    values: np.ndarray
    squares: np.ndarray
    low: np.ndarray
    low_squares: np.ndarray

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class Clustering:
    """The cluster (n,) int32 of each image, the sum of squared distances, the passes it took."""

    labels: np.ndarray
    inertia: float
    passes: int


def prepare(features: np.ndarray) -> Points:
    """Return features (n, d) in the form that :func:`cluster` takes, once for all clusterings."""
    values = np.asarray(features, np.float32) - np.mean(features, 0, np.float64).astype(np.float32)
    low = values @ leading_axes(values)
    return Points(values, _squares(values), low, _squares(low))


def _squares(values: np.ndarray) -> np.ndarray:
    return np.einsum("ij,ij->i", values, values)


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
    first = starts[:count]
    rough = _lloyd(points.low, points.low_squares, points.low[first], tolerance, passes)
    centres = _means(points.values, rough.labels, points.values[first])
    left = max(passes - rough.passes, 1)
    found = _lloyd(points.values, points.squares, centres, tolerance, left)
    return Clustering(found.labels, found.inertia, rough.passes + found.passes)


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
    half = _squares(centres) / 2
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
