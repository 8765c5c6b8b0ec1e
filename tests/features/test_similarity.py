"""Alignment by its definition and invariances, and retrieval beside scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ortho_group
from sklearn.metrics import average_precision_score

from detransfer.features import similarity
from detransfer.features.similarity import linear_cka, retrieval_precision


@pytest.fixture
def spaces() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    one = np.maximum(rng.normal(size=(90, 12)), 0) + 3
    return np.float32(one), np.float32(one @ rng.normal(size=(12, 20)) + rng.normal(size=(90, 20)))


def by_definition(x: np.ndarray, y: np.ndarray) -> float:
    """HSIC of the kernels X X' and Y Y', centred by a matrix, over the root of their own."""
    centre = np.eye(len(x)) - 1 / len(x)
    k, h = (centre @ (z.astype(np.float64) @ z.T.astype(np.float64)) @ centre for z in (x, y))
    return float(np.trace(k @ h) / np.sqrt(np.trace(k @ k) * np.trace(h @ h)))


def test_alignment_is_that_of_the_kernels(spaces: tuple[np.ndarray, np.ndarray]) -> None:
    assert linear_cka(*spaces) == pytest.approx(by_definition(*spaces), abs=1e-5)
    assert 0.2 < linear_cka(*spaces) < 0.95
    assert linear_cka(*spaces) == pytest.approx(linear_cka(*spaces[::-1]), abs=1e-6)


def test_alignment_does_not_see_turns_scales_and_shifts(
    spaces: tuple[np.ndarray, np.ndarray],
) -> None:
    one, other = spaces
    turned = np.float32(1e4 * one @ ortho_group.rvs(12, random_state=0) - 70)
    assert linear_cka(one, one) == pytest.approx(1, abs=1e-6)
    assert linear_cka(one, turned) == pytest.approx(1, abs=1e-4)
    assert linear_cka(turned, other) == pytest.approx(linear_cka(one, other), abs=1e-4)
    stretched = one * np.float32([5, *[1] * 11])  # which it sees
    assert linear_cka(one, stretched) < 0.9
    assert np.isnan(linear_cka(one, np.full((90, 4), 0.1, np.float32)))


def test_retrieval_is_scikit_learns_average_precision(
    spaces: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(similarity, "BLOCK", 32)
    features = spaces[1].copy()
    features[40:44] = features[12]  # ties
    class_ids = np.random.default_rng(0).integers(0, 5, 90)
    class_ids[17] = 9  # the only one of its class
    found = retrieval_precision(features, class_ids)
    table = np.corrcoef(features.astype(np.float64)).round(5)
    for image in range(90):
        others = np.arange(90) != image
        relevant = (class_ids == class_ids[image])[others]
        if not relevant.any():
            assert image == 17 and np.isnan(found[image])
            continue
        truth = average_precision_score(relevant, table[image][others])
        assert found[image] == pytest.approx(truth, abs=1e-6)


def test_a_space_that_tells_nothing_apart_retrieves_at_the_floor() -> None:
    class_ids = np.arange(20) % 4
    found = retrieval_precision(np.ones((20, 6), np.float32), class_ids)
    np.testing.assert_allclose(found, 4 / 19)
