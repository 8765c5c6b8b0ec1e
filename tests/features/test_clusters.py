"""The same-cluster probability against a look at every pair of images."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.cluster import pair_confusion_matrix

from detransfer.console import InputError
from detransfer.features.clusters import (
    SpaceClusters,
    co_membership,
    read_clusters,
    sampled_pairs,
    write_clusters,
)


def every_pair(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """Pooled probability, mean over clusters of ``a``, and chance, pair by pair."""
    same = [(a[i] == a[j], b[i] == b[j], a[i]) for i, j in itertools.combinations(range(len(a)), 2)]
    close = [other for one, other, _ in same if one]
    clusters = [[other for one, other, c in same if one and c == label] for label in np.unique(a)]
    ratios = [np.mean(found) for found in clusters if found]
    nothing = float("nan")
    return (
        float(np.mean(close)) if close else nothing,
        float(np.mean(ratios)) if ratios else nothing,
        float(np.mean([other for _, other, _ in same])) if same else nothing,
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), min_size=2, max_size=25))
def test_equal_to_a_look_at_every_pair(labels: list[tuple[int, int]]) -> None:
    a, b = np.array(labels).T
    found = co_membership(a, b)
    truth = every_pair(a, b)
    assert (found.pooled, found.cluster_mean, found.chance) == pytest.approx(truth, nan_ok=True)
    assert found.pairs == sum(one == other for one, other in itertools.combinations(a, 2))


def test_equal_to_scikit_learns_pair_confusion() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 50, (2, 5000))
    (_, _), (only_a, both) = pair_confusion_matrix(a, b)
    assert co_membership(a, b).pooled == pytest.approx(both / (both + only_a))
    assert co_membership(a, b).chance == pytest.approx(1 / 50, rel=0.05)


def test_many_clusters_do_not_overflow() -> None:
    a = np.array([0, 0, 70_000, 70_000, 70_000])
    b = np.array([69_999, 69_999, 0, 69_999, 0])
    assert co_membership(a, b).pooled == pytest.approx((2 + 2) / (2 + 6))


def test_a_refinement_is_certain_one_way_only() -> None:
    fine = np.repeat(np.arange(8), 4)
    coarse = fine // 2
    assert co_membership(fine, coarse).pooled == 1
    assert co_membership(coarse, fine).pooled == pytest.approx(3 / 7)  # by hand: 3 of 7 others
    assert co_membership(coarse, coarse).cluster_mean == 1


def test_sampled_pairs_agree_within_their_error() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 9, 400) ** 2 // 9  # clusters of very different sizes
    b = np.where(rng.random(400) < 0.5, a, rng.integers(0, 5, 400))
    exact = co_membership(a, b).pooled
    deviations = []
    for seed in range(30):
        share, error = sampled_pairs(a, b, 4000, np.random.default_rng(seed))
        assert error == pytest.approx(np.sqrt(exact * (1 - exact) / 4000), rel=0.1)
        deviations.append((share - exact) / error)
    assert abs(np.mean(deviations)) < 0.6 and 0.6 < np.std(deviations) < 1.5
    assert np.isnan(sampled_pairs(np.arange(5), np.zeros(5, int), 10, rng)).all()


def test_clusters_on_disk(tmp_path: Path) -> None:
    labels = {(2, 0): np.array([0, 1, 1], np.int32), (3, 11): np.array([2, 1, 0], np.int32)}
    write_clusters(tmp_path / "c.parquet", SpaceClusters(np.array([7, 8, 9]), labels))
    found = read_clusters(tmp_path / "c.parquet")
    assert found.counts == (2, 3) and found.image_ids.tolist() == [7, 8, 9]
    assert {key: value.tolist() for key, value in found.labels.items()} == {
        (2, 0): [0, 1, 1],
        (3, 11): [2, 1, 0],
    }
    (tmp_path / "c.parquet").write_text("nothing")
    with pytest.raises(InputError, match=r"c\.parquet: not readable as clusters"):
        read_clusters(tmp_path / "c.parquet")
