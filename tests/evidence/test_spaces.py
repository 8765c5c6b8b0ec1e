"""Feature spaces on resamples, against counting pairs one by one."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from detransfer.console import InputError
from detransfer.evidence.spaces import read_spaces, same_cluster
from detransfer.features.clusters import SpaceClusters, co_membership, write_clusters
from detransfer.report.bootstrap import resamples

IMAGES = 30
IDS = np.arange(IMAGES, dtype=np.int32)


def clusters(seed: int, fine: bool) -> SpaceClusters:
    """Return clusterings; a fine space splits the clusters that a coarse one of its seed has."""
    labels = {}
    for count in (2, 3, 1001):
        for draw in (0, 1):
            rng = np.random.default_rng((seed, count, draw))
            coarse = rng.integers(0, 2, IMAGES)
            labels[count, draw] = coarse * 3 + rng.integers(0, 3, IMAGES) if fine else coarse
    return SpaceClusters(IDS, labels)


def slow(one: np.ndarray, two: np.ndarray, drawn: np.ndarray) -> float:
    """Return the difference of both probabilities from every pair of a resample's images."""
    rows = np.repeat(np.arange(IMAGES), drawn.astype(int))
    every = [(i, j) for i, j in permutations(rows, 2) if i != j]  # an image is no pair of itself
    both = sum(one[i] == one[j] and two[i] == two[j] for i, j in every)
    return 100 * (
        both / sum(one[i] == one[j] for i, j in every)
        - both / sum(two[i] == two[j] for i, j in every)
    )


def test_the_difference_of_both_directions_on_resamples() -> None:
    given, other, counts = clusters(0, True), clusters(1, False), resamples(IMAGES)[:6]
    found = same_cluster(given, other, counts)
    assert set(found) == {0, 1}
    for seed in (0, 1):
        pairs = [(given.labels[count, seed], other.labels[count, seed]) for count in (2, 3)]
        exact = [
            co_membership(one, two).pooled - co_membership(two, one).pooled for one, two in pairs
        ]
        assert float(found[seed].value) == pytest.approx(100 * np.mean(exact))
        for row, drawn in enumerate(counts):
            expected = np.mean([slow(one, two, drawn) for one, two in pairs])
            assert found[seed].resampled[row] == pytest.approx(expected)


def test_a_space_that_splits_another_is_the_finer_one() -> None:
    fine, coarse = clusters(3, True), clusters(3, False)
    found = same_cluster(fine, coarse, resamples(IMAGES))
    assert all(float(scores.value) > 40 for scores in found.values())
    assert (found[0].resampled > 0).all()


def write_space(folder: Path, name: str, found: SpaceClusters, alike: float) -> tuple[Path, Path]:
    files = folder / name / "clusters.parquet", folder / name / "embedding.parquet"
    files[0].parent.mkdir()
    write_clusters(files[0], found)
    table = pd.DataFrame({"image_id": found.image_ids, "agreement_space": alike})
    table.to_parquet(files[1], index=False)
    return files


def test_spaces_of_a_data_set(tmp_path: Path) -> None:
    folders = {
        "coco": write_space(tmp_path, "coco", clusters(3, True), 0.25),
        "cls": write_space(tmp_path, "cls", clusters(3, False), 0.75),
    }
    found = read_spaces("caltech", "caltech256", folders, {"coco": "cls", "absent": "cls"})
    assert found.images == IMAGES and found.dataset == "caltech256"
    alike = found.scores["neighbours alike"]["coco"][0]
    assert float(alike.value) == 25 and alike.images == IMAGES
    assert set(found.scores["same cluster"]) == {"coco"}
    assert found.unfit == frozenset()
    start = read_spaces("caltech", "caltech256", folders, {"coco": "cls"}, {"cls"}).unfit
    assert start == {("neighbours alike", "cls"), ("same cluster", "coco")}
    own = read_spaces("caltech", "caltech256", folders, {"coco": "cls"}, {"coco"}).unfit
    assert own == {("neighbours alike", "coco"), ("same cluster", "coco")}
    other = SpaceClusters(IDS + 1, clusters(3, True).labels)
    folders["other"] = write_space(tmp_path, "other", other, 0.5)
    with pytest.raises(InputError, match="other images"):
        read_spaces("caltech", "caltech256", folders, {})
