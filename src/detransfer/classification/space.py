"""Frozen features as a probe sees them: standardised, and turned into a basis that suits them.

Standardisation takes the mean and the deviation of the training images. Where the smaller of their
number and their dimension allows it, the features are then turned to their principal axes: nothing
that a linear probe with an L2 penalty can say changes (the turn is orthogonal, and the solution
lies in the span of the training images), but along these axes its curvature is known, and where
there are fewer images than dimensions so many axes suffice. Wider features of more images stay as
they are and are read block by block from disk in every pass.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from detransfer.console import InputError

TURNED = 4096  # the most images or dimensions of which principal axes are worked out
BLOCK = 2**24  # numbers of one block: 64 MiB
RANK = 1e-9  # axes of less variance, relative to the largest, are rounding


@dataclass(frozen=True)
class Space:
    """How raw features become those of a probe.

    ``mean`` and ``scale`` (d,), ``axes`` (d, r) or None, ``variances`` (r,) along the axes.
    """

    mean: np.ndarray
    scale: np.ndarray
    axes: np.ndarray | None
    variances: np.ndarray

    def blocks(self, features: np.ndarray, rows: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield the rows' features (k, r) float32, with their places among the rows."""
        for place, block in standardised(features, rows, self.mean, self.scale):
            yield place, block if self.axes is None else block @ self.axes

    def matrix(self, features: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return all rows' features (n, r) in memory."""
        return np.concatenate([block for _, block in self.blocks(features, rows)])


def fit_space(features: np.ndarray, rows: np.ndarray) -> Space:
    """Return the space of the training images in these rows of the features (n, d).

    Raises InputError for features that are not finite, naming file and row.
    """
    mean, scale = _moments(features, rows)
    dimension = features.shape[1]
    if min(dimension, len(rows)) > TURNED:
        return Space(mean, scale, None, np.ones(dimension, np.float32))
    if dimension > len(rows):
        values, axes = _axes_of_images(features, rows, mean, scale)
    else:
        product = np.zeros((dimension, dimension))
        for _, block in standardised(features, rows, mean, scale):
            product += block.T @ block
        values, axes = np.linalg.eigh(product)
    variances = np.maximum(values / len(rows), 0).astype(np.float32)
    return Space(mean, scale, axes.astype(np.float32), variances)


def _axes_of_images(
    features: np.ndarray, rows: np.ndarray, mean: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return sums of squares (r,) and axes (d, r), from the inner products of the images."""
    images = np.concatenate([b for _, b in standardised(features, rows, mean, scale)])
    product = np.zeros((len(rows), len(rows)))
    for start in range(0, images.shape[1], TURNED):
        part = images[:, start : start + TURNED].astype(np.float64)
        product += part @ part.T
    values, vectors = np.linalg.eigh(product)
    kept = values > RANK * max(values[-1], 1e-30)
    values, vectors = values[kept], vectors[:, kept]
    return values, images.T @ (vectors / np.sqrt(values)).astype(np.float32)


def standardised(
    features: np.ndarray, rows: np.ndarray, mean: np.ndarray, scale: np.ndarray
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (features - mean) / scale of the rows, block by block, with their places."""
    for place, block in _raw(features, rows):
        yield place, (block - mean) / scale


def _raw(features: np.ndarray, rows: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    size = max(1, BLOCK // features.shape[1])
    for start in range(0, len(rows), size):
        place = slice(start, min(start + size, len(rows)))
        yield place, np.asarray(features[rows[place]], np.float32)
        if isinstance(features, np.memmap):  # lest the pages of the whole file count as ours
            features._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


def _moments(features: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation (d,) float32; a feature that never changes has deviation 1."""
    total = np.zeros(features.shape[1])
    for place, block in _raw(features, rows):
        total += block.sum(0, np.float64)
        if not np.isfinite(total).all():
            row = rows[place][~np.isfinite(block).all(1)][0]
            file = getattr(features, "filename", "features")
            raise InputError(
                f"{file}: row {row}, of the image in that row of images.parquet beside it, is not "
                "finite; delete the folder and record the features again"
            )
    mean = (total / len(rows)).astype(np.float32)
    squares = np.zeros(features.shape[1])
    for _, block in _raw(features, rows):
        squares += np.square(block - mean).sum(0, np.float64)
    scale = np.sqrt(squares / len(rows))
    constant = scale <= 1e-6 * np.maximum(np.abs(mean), 1e-30)
    return mean, np.where(constant, 1, scale).astype(np.float32)
