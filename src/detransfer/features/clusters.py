"""Do images that are similar in one space share a cluster in another? (the paper's Figure 6)

Of two clusterings of the same images, n_ij images lie in cluster i of the first and j of the other;
everything here follows from these numbers, and no pair has to be looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from detransfer.console import InputError
from detransfer.files import atomic

DENSE = 4  # cells an image, up to which all of them are counted


@dataclass(frozen=True)
class CoMembership:
    """How probable it is that a pair of images of one cluster shares a cluster of the other space.

    ``pooled``: of all such pairs, sum n_ij (n_ij - 1) / sum n_i. (n_i. - 1); ``cluster_mean``: the
    mean of the ratio over clusters with a pair; ``chance``: of any pair, sum n_.j (n_.j - 1) /
    N (N - 1); ``pairs``: pairs of one cluster. NaN where there is no pair.
    """

    pooled: float
    cluster_mean: float
    chance: float
    pairs: int


def co_membership(given: np.ndarray, other: np.ndarray) -> CoMembership:
    """Return P(same cluster in ``other`` | same cluster in ``given``), from labels (n,) >= 0."""
    sizes, other_sizes = np.bincount(given), np.bincount(other)
    wide = len(other_sizes)
    small = len(sizes) * wide <= np.iinfo(np.int32).max  # which sort faster
    keys = given.astype(np.int32 if small else np.int64) * wide + other.astype(np.int32)
    cells, filled = _cells(keys, len(sizes) * wide)
    shared = _ordered_pairs(filled)
    pairs, other_pairs = _ordered_pairs(sizes), _ordered_pairs(other_sizes)
    of_cluster = np.bincount(cells // wide, shared, len(sizes))
    several = pairs > 0
    return CoMembership(
        pooled=_ratio(shared.sum(), pairs.sum()),
        cluster_mean=float((of_cluster[several] / pairs[several]).mean())
        if several.any()
        else np.nan,
        chance=_ratio(other_pairs.sum(), _ordered_pairs(np.array([len(given)]))[0]),
        pairs=int(pairs.sum()) // 2,
    )


def _cells(keys: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which of ``count`` cells have images, from the cell (n,) of each, and how many."""
    if count <= DENSE * len(keys):  # the whole table is filled faster than keys are sorted
        table = np.bincount(keys, minlength=count)
        cells = np.flatnonzero(table)
        return cells, table[cells]
    keys = np.sort(keys)
    begins = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return keys[begins], np.diff(begins, append=len(keys))


def sampled_pairs(
    given: np.ndarray, other: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Return the same probability from ``count`` random pairs, and its standard error.

    Each pair of one cluster of ``given`` is as likely as any other: what the paper does with
    100,000 pairs. NaN where there is no pair.
    """
    sizes = np.bincount(given)
    weight = _ordered_pairs(sizes).astype(np.float64)
    if not weight.any():
        return np.nan, np.nan
    bounds = weight.cumsum()
    cluster = np.searchsorted(bounds, rng.random(count) * bounds[-1], side="right")
    first = rng.integers(0, sizes[cluster])
    second = rng.integers(0, sizes[cluster] - 1)
    second += second >= first  # the second image is another one
    order = np.argsort(given, kind="stable")
    begins = (sizes.cumsum() - sizes)[cluster]
    share = float((other[order[begins + first]] == other[order[begins + second]]).mean())
    return share, float(np.sqrt(share * (1 - share) / count))


def _ordered_pairs(sizes: np.ndarray) -> np.ndarray:
    sizes = sizes.astype(np.int64)
    return sizes * (sizes - 1)


def _ratio(part: int, whole: int) -> float:
    return float(part / whole) if whole else np.nan


@dataclass(frozen=True)
class SpaceClusters:
    """The clusters of a space: images (n,), and labels (n,) by number of clusters and seed."""

    image_ids: np.ndarray
    labels: Mapping[tuple[int, int], np.ndarray]

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(sorted({count for count, _ in self.labels}))


def write_clusters(path: Path, clusters: SpaceClusters) -> None:
    """Write clusters.parquet: ``image_id``, int32 ``k<count>_seed<seed>`` for each clustering."""
    columns = {f"k{count}_seed{seed}": found for (count, seed), found in clusters.labels.items()}
    with atomic(path) as temporary:
        pd.DataFrame({"image_id": clusters.image_ids, **columns}).to_parquet(temporary, index=False)


def read_clusters(path: Path) -> SpaceClusters:
    """Read what :func:`write_clusters` wrote; raises InputError for a file that is none."""
    try:
        table = pd.read_parquet(path)
        labels = {}
        for name in table.columns.drop("image_id"):
            count, seed = name.removeprefix("k").split("_seed")
            labels[int(count), int(seed)] = table[name].to_numpy()
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise InputError(
            f"{path}: not readable as clusters ({error}); make it again with "
            "scripts/cluster_features.py"
        ) from error
    return SpaceClusters(table["image_id"].to_numpy(), labels)
