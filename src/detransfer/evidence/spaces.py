"""What frozen feature spaces say on resamples of their images (the paper's Figures 6 and 7)."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from detransfer.console import InputError
from detransfer.evidence.scores import mean_over_images
from detransfer.features.clusters import SpaceClusters, read_clusters
from detransfer.report.bootstrap import Scores, resamples
from detransfer.report.claims import Target

log = logging.getLogger(__name__)
MOST_CLUSTERS = 1000  # of Figure 6; more are what the paper calls close (Figure 5)


def read_spaces(
    target: str,
    dataset: str,
    folders: Mapping[str, tuple[Path, Path]],
    starts: Mapping[str, str],
    unfit_pretrainings: Collection[str] = (),
) -> Target:
    """Return what the spaces of a data set say, by pre-training: (clusters, embedding) files.

    ``target`` names the target on it whose controls count here as well.

    A comparison of clusters rests on the fit of both networks. Raises InputError for spaces of
    different images.
    """
    clusters = {name: read_clusters(files[0]) for name, files in folders.items()}
    ids = next(iter(clusters.values())).image_ids
    for name, found in clusters.items():
        if not np.array_equal(found.image_ids, ids):
            raise InputError(f"{folders[name][0]}: has other images than the spaces beside it")
    counts, place = resamples(len(ids)), np.arange(len(ids))
    alike = {
        name: {0: mean_over_images(shares, place, counts)}
        for name, files in folders.items()
        if not np.isnan(shares := agreement(files[1], ids)).any()
    }
    for name in folders.keys() - alike.keys():
        log.warning("%s: all images have the same features; it says nothing", folders[name][1])
    same = {
        name: same_cluster(clusters[name], clusters[start], counts)
        for name, start in starts.items()
        if name in alike and start in alike
    }
    scores = {"neighbours alike": alike, "same cluster": same}
    rests_on = {("neighbours alike", name): {name} for name in alike}
    rests_on |= {("same cluster", name): {name, starts[name]} for name in same}
    unfit = frozenset(key for key, names in rests_on.items() if names & {*unfit_pretrainings})
    return Target(target, dataset, len(ids), scores, unfit)


def agreement(path: Path, ids: np.ndarray) -> np.ndarray:
    """Return the share of each image's nearest neighbours in the space that are of its class.

    NaN for a space where all images lie in one place.
    """
    try:
        table = pd.read_parquet(path, columns=["image_id", "agreement_space"])
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable embedding ({error})") from error
    if not np.array_equal(table["image_id"], ids):
        raise InputError(f"{path}: has other images than the clusters beside it")
    return table["agreement_space"].to_numpy(float)


def same_cluster(
    given: SpaceClusters, other: SpaceClusters, counts: np.ndarray
) -> dict[int, Scores]:
    """Return P(same in ``other`` | same in ``given``) less the reverse, by seed of k-means.

    In percent, mean over the numbers of clusters up to MOST_CLUSTERS; ``counts`` (resamples, n).
    """
    both = sorted(
        key for key in given.labels.keys() & other.labels.keys() if key[0] <= MOST_CLUSTERS
    )
    weights = np.concatenate([np.ones((1, counts.shape[1])), counts])
    found: dict[int, list[np.ndarray]] = {}
    for count, seed in both:
        one, two = given.labels[count, seed], other.labels[count, seed]
        joint = one.astype(np.int64) * (int(two.max()) + 1) + two
        shared, own, reverse = (pairs(labels, weights) for labels in (joint, one, two))
        with np.errstate(invalid="ignore", divide="ignore"):
            found.setdefault(seed, []).append(100 * (shared / own - shared / reverse))
    means = {seed: np.mean(values, axis=0) for seed, values in found.items()}
    return {seed: Scores(np.asarray(mean[0]), mean[1:]) for seed, mean in means.items()}


def pairs(labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the number of ordered pairs of different images with one label, for each (r, n) row.

    An image that a row holds several times makes no pair with itself: that would be alike in every
    space.
    """
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    sums = np.add.reduceat(weights[:, order], starts, axis=1)
    total: np.ndarray = (sums**2).sum(1) - (weights**2).sum(1)
    return total
