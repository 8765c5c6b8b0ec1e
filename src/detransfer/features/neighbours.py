"""Which images lie near to each other in a space, and whether they are of one class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detransfer.features.axes import leading_axes

BLOCK = 1024  # images at once
SHARE = 4  # one axis of the shortlist for so many dimensions: with fewer it is long
ROUNDING = 1e-5  # of a correlation in float32
CROWDED = 0.02  # of a block's pairs: with more on the shortlist a whole product is cheaper


def nearest_neighbours(
    points: np.ndarray, count: int, rows: np.ndarray | None = None
) -> np.ndarray:
    """Return the ``count`` nearest other images of each (n, count), nearest first, by distance.

    Fewer where there are not so many. With ``rows`` (m,), those of these images alone: (m, count).
    """
    points = np.asarray(points, np.float32) - np.mean(points, 0, np.float64).astype(np.float32)
    count = min(count, len(points) - 1)
    rows = np.arange(len(points)) if rows is None else rows
    half = np.einsum("ij,ij->i", points, points) / 2
    nearest = np.empty((len(rows), count), np.int64)
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK]
        near = points[part] @ points.T - half
        near[np.arange(len(part)), part] = -np.inf
        found = np.argpartition(-near, max(count - 1, 0), 1)[:, :count]
        order = np.argsort(-np.take_along_axis(near, found, 1), 1, kind="stable")
        nearest[start : start + BLOCK] = np.take_along_axis(found, order, 1)
    return nearest


def class_agreement(neighbours: np.ndarray, class_ids: np.ndarray) -> np.ndarray:
    """Return the share (n,) of each image's neighbours (n, k) that are of its class."""
    share: np.ndarray = (class_ids[neighbours] == class_ids[:, None]).mean(1)
    return share


def correlation_units(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows (n, d) float32 whose inner products are correlations, and which are constant.

    A row of one number has no correlation with any; it becomes zero.
    """
    values = np.asarray(features, np.float32)
    largest = np.abs(values).max(1)
    values = values - values.mean(1, keepdims=True, dtype=np.float64).astype(np.float32)
    length = np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64))
    flat = length <= 1e-6 * largest * np.sqrt(values.shape[1])
    values[flat] = 0
    values /= np.where(flat, 1, length)[:, None].astype(np.float32)
    return values, flat


@dataclass(frozen=True)
class NearestPairs:
    """The most correlated pairs of images of a space, the nearest first.

    ``pairs`` (m, 2) rows of the features, ``correlation`` (m,), the number of ``near_copies`` that
    were left out, and of ``flat`` images, which have no correlation.
    """

    pairs: np.ndarray
    correlation: np.ndarray
    near_copies: int
    flat: int


def nearest_pairs(features: np.ndarray, count: int, near_copy: float) -> NearestPairs:
    """Return the ``count`` most correlated pairs of rows of ``features`` (n, d), exactly.

    Pairs of a correlation above ``near_copy`` are left out and counted. A shortlist saves most of
    the work: along a few axes the correlation is known but for what the rest can add, which is at
    most the product of the lengths that are left (Cauchy and Schwarz).
    """
    units, flat = correlation_units(features)
    rows = np.flatnonzero(~flat)
    units = units[rows]
    bounds = _bound_vectors(units)
    best = _Best(count, near_copy)
    first = units[:: max(len(units) // (2 * BLOCK), 1)]
    floor = _kept_floor(first, count, near_copy)
    for top in range(0, len(units), BLOCK):
        for left in range(top, len(units), BLOCK):
            limit = max(floor, best.floor) - ROUNDING
            found = bounds[top : top + BLOCK] @ bounds[left : left + BLOCK].T > limit
            if top == left:
                found = np.triu(found, 1)
            if found.mean() > CROWDED:
                near = units[top : top + BLOCK] @ units[left : left + BLOCK].T
                copies = found & (near > near_copy + ROUNDING)
                best.near_copies += int(copies.sum())
                found &= (near > limit) & ~copies
            pairs = np.argwhere(found) + np.array([top, left])
            best.add(pairs, paired(units, pairs))
    pairs, correlation = best.sorted()
    return NearestPairs(rows[pairs], correlation, best.near_copies, int(flat.sum()))


def paired(units: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the inner product (m,) float64 of the rows of each of the pairs (m, 2)."""
    found = np.empty(len(pairs))
    for start in range(0, len(pairs), BLOCK):
        part = pairs[start : start + BLOCK]
        found[start : start + BLOCK] = np.einsum(
            "ij,ij->i", units[part[:, 0]], units[part[:, 1]], dtype=np.float64
        )
    return found


class _Best:
    """The best pairs so far."""

    def __init__(self, count: int, near_copy: float) -> None:
        self.count, self.near_copy, self.near_copies = count, near_copy, 0
        self.pairs, self.correlation = np.empty((0, 2), np.int64), np.empty(0)
        self.floor = -np.inf  # below it no pair counts any more

    def add(self, pairs: np.ndarray, correlation: np.ndarray) -> None:
        kept = correlation <= self.near_copy
        self.near_copies += int((~kept).sum())
        kept &= correlation >= self.floor
        self.pairs = np.concatenate([self.pairs, pairs[kept]])
        self.correlation = np.concatenate([self.correlation, correlation[kept]])
        if len(self.correlation) > self.count:
            self.pairs, self.correlation = self.sorted()
            self.floor = float(self.correlation[-1])

    def sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the best pairs and correlations; of equal ones the first images first."""
        order = np.lexsort((self.pairs[:, 1], self.pairs[:, 0], -self.correlation))[: self.count]
        return self.pairs[order], self.correlation[order]


def _bound_vectors(units: np.ndarray) -> np.ndarray:
    """Return vectors (n, r + 1) whose inner products no correlation of the units exceeds."""
    low = units @ leading_axes(units, SHARE)
    rest = 1 - np.einsum("ij,ij->i", low, low)
    return np.hstack([low, np.sqrt(np.maximum(rest, 0))[:, None] + np.float32(ROUNDING)])


def _kept_floor(units: np.ndarray, count: int, near_copy: float) -> float:
    """Return a correlation that ``count`` pairs of some images reach without being copies."""
    near = (units @ units.T)[np.triu_indices(len(units), 1)]
    near = near[near <= near_copy - ROUNDING]
    return float(np.partition(near, -count)[-count]) if len(near) >= count else -np.inf


def pairs_apart(
    close: np.ndarray,
    distant: np.ndarray,
    one: np.ndarray,
    other: np.ndarray,
    count: int,
    near_copy: float,
) -> tuple[np.ndarray, int]:
    """Return pairs (m, 2) that share a cluster of ``close`` (n,) and none of ``distant`` (n,).

    At most ``count``, those first whose correlation falls most from the space ``one`` to
    ``other``: both are :func:`correlation_units` (n, d). Pairs of a correlation above ``near_copy``
    in either space are left out, and their number is returned, too.
    """
    best, near_copies = _Best(count, np.inf), 0
    order = np.argsort(close, kind="stable")
    for rows in np.split(order, np.bincount(close).cumsum()[:-1]):
        if len(np.unique(distant[rows])) < 2:
            continue
        for start in range(0, len(rows), BLOCK):
            part = rows[start : start + BLOCK]
            near, far = one[part] @ one[rows].T, other[part] @ other[rows].T
            apart = np.triu(distant[part][:, None] != distant[rows], start + 1)
            copies = apart & ((near > near_copy) | (far > near_copy))
            near_copies += int(copies.sum())
            fall = near - far
            found = np.argwhere(apart & ~copies & (fall >= best.floor))
            pairs = np.stack([part[found[:, 0]], rows[found[:, 1]]], 1)
            best.add(pairs, fall[found[:, 0], found[:, 1]].astype(np.float64))
    return best.sorted()[0], near_copies
