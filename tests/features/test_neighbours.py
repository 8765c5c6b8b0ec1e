"""Neighbours and pairs against a look at every one of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from detransfer.features import axes, neighbours
from detransfer.features.neighbours import (
    class_agreement,
    correlation_units,
    nearest_neighbours,
    nearest_pairs,
    paired,
    pairs_apart,
)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "BLOCK", 37)
    monkeypatch.setattr(axes, "LEAST", 5)


@pytest.fixture
def features() -> np.ndarray:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(40, 40)) / np.sqrt(1 + np.arange(40))[:, None]
    return np.float32(np.maximum(rng.normal(size=(150, 40)) @ mixing, 0))


def correlated(features: np.ndarray) -> list[tuple[float, int, int]]:
    """All pairs by falling correlation, from numpy's own in double precision."""
    table = np.corrcoef(features.astype(np.float64))
    pairs = itertools.combinations(range(len(features)), 2)
    return sorted(((table[i, j], i, j) for i, j in pairs), key=lambda pair: -pair[0])


@pytest.mark.parametrize("crowded", [0.0, 0.02, 1.0])
def test_nearest_pairs_are_the_most_correlated(
    features: np.ndarray, crowded: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "CROWDED", crowded)  # whole products always, or never
    found = nearest_pairs(features, 25, 0.999)
    truth = correlated(features)[:25]
    np.testing.assert_allclose(found.correlation, [pair[0] for pair in truth], atol=1e-5)
    assert {tuple(pair) for pair in found.pairs.tolist()} == {pair[1:] for pair in truth}
    assert found.near_copies == found.flat == 0


def test_copies_are_left_out_and_counted(features: np.ndarray) -> None:
    features[9] = 2 * features[140] + 1  # correlation does not see scale or shift
    features[77] = features[140]
    found = nearest_pairs(features, 10, 0.999)
    assert found.near_copies == 3
    truth = [pair for pair in correlated(features) if pair[0] <= 0.999][:10]
    np.testing.assert_allclose(found.correlation, [pair[0] for pair in truth], atol=1e-5)


def test_features_without_variance_have_no_pairs(features: np.ndarray) -> None:
    features[:5] = 0.3
    found = nearest_pairs(features, 10, 0.999)
    assert found.flat == 5 and found.pairs.min() >= 5
    nothing = nearest_pairs(np.full((40, 6), 0.1, np.float32), 10, 0.999)
    assert nothing.flat == 40 and nothing.pairs.shape == (0, 2) and nothing.near_copies == 0
    alike = nearest_pairs(np.tile(features[10], (80, 1)), 10, 0.999)
    assert alike.near_copies == 80 * 79 // 2 and not len(alike.pairs)


def test_fewer_pairs_than_asked_for() -> None:
    features = np.random.default_rng(1).normal(size=(4, 9)).astype(np.float32)
    assert len(nearest_pairs(features, 100, 0.999).pairs) == 6


def test_correlations_of_given_pairs(features: np.ndarray) -> None:
    pairs = np.array([[0, 1], [149, 3]])
    units, flat = correlation_units(features)
    truth = [np.corrcoef(features[i], features[j])[0, 1] for i, j in pairs]
    np.testing.assert_allclose(paired(units, pairs), truth, atol=1e-6)
    assert not flat.any()


def test_nearest_neighbours_are_those_of_scikit_learn(features: np.ndarray) -> None:
    model = NearestNeighbors(n_neighbors=6, algorithm="brute").fit(features.astype(np.float64))
    assert (nearest_neighbours(features + 100, 6) == model.kneighbors()[1]).all()
    assert nearest_neighbours(features[:3], 6).shape == (3, 2)


def test_agreement_by_the_definition(features: np.ndarray) -> None:
    class_ids = np.random.default_rng(0).integers(0, 3, len(features))
    found = class_agreement(nearest_neighbours(features, 10), class_ids)
    for image in range(0, len(features), 17):
        distance = ((features - features[image]) ** 2).sum(1)
        distance[image] = np.inf
        near = np.argsort(distance)[:10]
        assert found[image] == np.mean([class_ids[other] == class_ids[image] for other in near])


def test_pairs_apart_are_near_here_and_far_there(features: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    other = np.float32(rng.normal(size=(150, 12)))
    close, distant = rng.integers(0, 12, 150), rng.integers(0, 3, 150)
    one, two = np.corrcoef(features), np.corrcoef(other)
    truth = sorted(
        (
            (one[i, j] - two[i, j], i, j)
            for i, j in itertools.combinations(range(150), 2)
            if close[i] == close[j] and distant[i] != distant[j]
        ),
        reverse=True,
    )
    units = [correlation_units(space)[0] for space in (features, other)]
    found, copies = pairs_apart(close, distant, *units, 20, 0.999)
    assert not copies
    assert [tuple(sorted(pair)) for pair in found.tolist()] == [pair[1:] for pair in truth[:20]]
    assert len(pairs_apart(close, distant, *units, 10_000, 0.999)[0]) == len(truth)
    assert not len(pairs_apart(close, close, *units, 20, 0.999)[0])


def test_pairs_apart_are_no_copies_in_either_space(features: np.ndarray) -> None:
    other = np.float32(np.random.default_rng(0).normal(size=(150, 12)))
    close, distant = np.zeros(150, np.int64), np.arange(150) % 2
    features[9], other[20] = 2 * features[140] + 1, other[131]
    features[8] = features[140]  # not apart: of one cluster there
    units = [correlation_units(space)[0] for space in (features, other)]
    every, none = pairs_apart(close, distant, *units, 10_000, 1.1)
    found, copies = pairs_apart(close, distant, *units, 10_000, 0.999)
    assert (none, copies) == (0, 3)  # 9 is a copy of 8, too
    left_out = {tuple(sorted(p)) for p in every.tolist()} - {
        tuple(sorted(p)) for p in found.tolist()
    }
    assert left_out == {(9, 140), (8, 9), (20, 131)}
