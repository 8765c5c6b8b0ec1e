"""Linear probes against scikit-learn on the same problem, and what may choose their penalty."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from detransfer.classification import space as space_module
from detransfer.classification.accuracy import held_out, place_in_class
from detransfer.classification.lbfgs import minimise
from detransfer.classification.probe import (
    Data,
    few_shot,
    fit_probe,
    objective,
    predict,
    training_data,
)
from detransfer.classification.space import fit_space
from detransfer.console import InputError
from detransfer.recipes.classification import ProbeRecipe

CLASSES, IMAGES = 5, 240
NAMES = [f"class {number}" for number in range(CLASSES)]


def recipe(**changes: Any) -> ProbeRecipe:
    values = {
        "task": "probe",
        "penalties": [1.0, 0.1, 0.01, 0.001],
        "tolerance": 3e-6,
        "iterations": 2000,
        "shots": [1, 5],
        "neighbours": [1],
    }
    return ProbeRecipe.model_validate({**values, **changes})


def world(dimension: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Correlated features (2 n, d), rows to learn from, the classes of these, and of all."""
    rng = np.random.default_rng(seed)
    class_ids = rng.integers(0, CLASSES, 2 * IMAGES)
    signal = rng.normal(size=(CLASSES, 12))[class_ids] + rng.normal(size=(2 * IMAGES, 12))
    mixed = signal @ rng.normal(size=(12, dimension)) + rng.normal(size=(2 * IMAGES, dimension))
    features = np.float32(3 + mixed * np.exp(rng.normal(size=dimension)))
    features[:, 3] = 7  # never changes
    rows = np.sort(rng.permutation(2 * IMAGES)[:IMAGES])
    return features, rows, class_ids[rows], class_ids


def reference_objective(
    x: np.ndarray, y: np.ndarray, w: np.ndarray, b: np.ndarray, p: float
) -> float:
    scores = x @ w + b
    loss = logsumexp(scores, axis=1) - scores[np.arange(len(y)), y]
    return float(loss.mean() + p / 2 * (w**2).sum())


def reference(x: np.ndarray, y: np.ndarray, penalty: float) -> LogisticRegression:
    model = LogisticRegression(C=1 / (len(y) * penalty), tol=1e-9, max_iter=20_000)
    return model.fit(x, y)


# Narrow: turned to the principal axes; wide: to those of the images; plain: read in blocks.
@pytest.mark.parametrize(("dimension", "turned"), [(40, 4096), (700, 4096), (40, 0), (700, 0)])
@pytest.mark.parametrize(("penalty", "tolerance"), [(1.0, 1e-5), (0.01, 3e-6), (1e-4, 1e-7)])
def test_objective_and_predictions_are_scikit_learns(
    monkeypatch: pytest.MonkeyPatch, dimension: int, turned: int, penalty: float, tolerance: float
) -> None:
    monkeypatch.setattr(space_module, "TURNED", turned)
    monkeypatch.setattr(space_module, "BLOCK", 50 * dimension)
    features, rows, known, class_ids = world(dimension)
    probe = fit_probe(
        features, rows, known, NAMES, recipe(penalties=[penalty], tolerance=tolerance), seed=0
    )
    assert probe.solution.converged and probe.solution.gradient_norm <= tolerance
    assert (probe.space.axes is None) == (turned == 0)

    scaler = StandardScaler().fit(features[rows].astype(np.float64))
    x = scaler.transform(features.astype(np.float64))
    model = reference(x[rows], known, penalty)
    best = reference_objective(x[rows], known, model.coef_.T, model.intercept_, penalty)
    assert probe.solution.objective == pytest.approx(best, rel=1e-5)
    weights = probe.solution.weights.astype(np.float64)
    axes = np.eye(dimension) if probe.space.axes is None else probe.space.axes.astype(np.float64)
    ours = reference_objective(x[rows], known, axes @ weights[:, :-1].T, weights[:, -1], penalty)
    assert ours == pytest.approx(best, rel=1e-5)

    test = np.setdiff1d(np.arange(len(features)), rows)
    data = Data(lambda: probe.space.blocks(features, test), class_ids[test], CLASSES)
    predicted, probability = predict(data, probe.solution.weights)
    assert (predicted == model.predict(x[test])).mean() > 0.99
    share = model.predict_proba(x[test])[np.arange(len(test)), class_ids[test]]
    np.testing.assert_allclose(probability, share, atol=5e-3)
    assert np.corrcoef(probability, share)[0, 1] > 0.9999


def test_the_gradient_is_that_of_the_objective() -> None:
    features, rows, known, _ = world(6)
    space = fit_space(features, rows)
    data = training_data(space, features, rows, known, CLASSES)(np.ones(len(rows), bool))
    weights = np.random.default_rng(1).normal(size=(CLASSES, len(space.variances) + 1))
    weights = weights.astype(np.float32)
    _, gradient = objective(data, weights, 0.1)
    x = data.matrix.astype(np.float64)
    for place in ((0, 0), (2, 3), (1, -1)):
        values = []
        for sign in (-1, 1):
            moved = weights.astype(np.float64)
            moved[place] += sign * 1e-5
            values.append(reference_objective(x, known, moved[:, :-1].T, moved[:, -1], 0.1))
        assert gradient[place] == pytest.approx((values[1] - values[0]) / 2e-5, rel=1e-3, abs=1e-6)


def test_a_path_is_solved_as_if_each_penalty_stood_alone() -> None:
    features, rows, known, _ = world(30)
    path = fit_probe(features, rows, known, NAMES, recipe(), seed=0).path
    held = held_out(known, 0)
    space = fit_space(features, rows)
    x = space.matrix(features, rows[~held]).astype(np.float64)
    for point in path:
        model = reference(x, known[~held], point.solution.penalty)
        best = reference_objective(
            x, known[~held], model.coef_.T, model.intercept_, point.solution.penalty
        )
        assert point.solution.objective == pytest.approx(best, rel=1e-5)
        for part, top1 in ((held, point.held_out_top1), (~held, point.training_top1)):
            expected = 100 * model.score(space.matrix(features, rows[part]), known[part])
            assert top1 == pytest.approx(expected, abs=100 / part.sum() + 1e-9)


def test_the_penalty_is_the_best_on_the_held_out_fifth_and_of_equals_the_largest() -> None:
    features, rows, known, _ = world(30, seed=3)
    probe = fit_probe(features, rows, known, NAMES, recipe(), seed=0)
    scores = [point.held_out_top1 for point in probe.path]
    penalties = [point.solution.penalty for point in probe.path]
    assert probe.solution.penalty == penalties[scores.index(max(scores))]
    assert penalties == [1.0, 0.1, 0.01, 0.001] and len(set(scores)) > 1


def test_no_test_image_chooses_or_moves_anything() -> None:
    """Whatever stands in the other rows, the probe is the same, bit for bit."""
    features, rows, known, _ = world(30)
    first = fit_probe(features, rows, known, NAMES, recipe(), seed=0)
    others = np.setdiff1d(np.arange(len(features)), rows)
    for poison in (np.nan, 1e30, 0.0):
        changed = features.copy()
        changed[others] = poison
        again = fit_probe(changed, rows, known, NAMES, recipe(), seed=0)
        assert again.solution.penalty == first.solution.penalty
        assert np.array_equal(again.solution.weights, first.solution.weights)


def test_the_seed_draws_the_held_out_fifth() -> None:
    class_ids = np.repeat(np.arange(4), [50, 10, 3, 2])
    masks = [held_out(class_ids, seed) for seed in range(4)]
    for mask in masks:
        assert np.bincount(class_ids[mask], minlength=4).tolist() == [10, 2, 1, 0]
    assert np.array_equal(held_out(class_ids, 0), masks[0])
    assert len({mask.tobytes() for mask in masks}) == 4
    with pytest.raises(InputError, match="no class has more than two training images"):
        held_out(np.array([0, 0, 1]), 0)


def test_classes_without_training_images_are_named() -> None:
    features, rows, known, _ = world(30)
    with pytest.raises(InputError, match=r"2 of 5 classes have no training .*: class 1, class 4;"):
        part = (known != 1) & (known != 4)
        fit_probe(features, rows[part], known[part], NAMES, recipe(), seed=0)


def test_features_that_are_not_finite_are_named_by_file_and_row(tmp_path: Path) -> None:
    features, rows, known, _ = world(30)
    features[rows[17], 2] = np.inf
    np.save(tmp_path / "conv5.npy", features)
    mapped = np.load(tmp_path / "conv5.npy", mmap_mode="r")
    with pytest.raises(InputError, match=rf"conv5\.npy: row {rows[17]}, .*is not finite; delete"):
        fit_probe(mapped, rows, known, NAMES, recipe(), seed=0)


def test_what_did_not_converge_says_so() -> None:
    features, rows, known, _ = world(30)
    probe = fit_probe(features, rows, known, NAMES, recipe(iterations=2), seed=0)
    assert not probe.solution.converged and probe.solution.gradient_norm > 3e-6


def test_few_shot_probes_see_so_many_images_of_each_class() -> None:
    features, rows, known, _ = world(30)
    probe = fit_probe(features, rows, known, NAMES, recipe(penalties=[0.01]), seed=0)
    data = training_data(probe.space, features, rows, known, CLASSES)(np.ones(len(rows), bool))
    right = []
    for shots in (1, 5, 10):
        solution, images = few_shot(data, probe, shots, recipe(), seed=2) or pytest.fail("too few")
        assert images == shots * CLASSES
        assert solution.penalty == pytest.approx(0.01 * IMAGES / images)
        right.append((predict(data, solution.weights)[0] == known).mean())
    assert right[0] < right[1] < right[2]
    again, _ = few_shot(data, probe, 5, recipe(), seed=2) or pytest.fail("too few")
    other, _ = few_shot(data, probe, 5, recipe(), seed=3) or pytest.fail("too few")
    assert again.objective != other.objective
    assert few_shot(data, probe, 1000, recipe(), seed=2) is None


def test_few_shot_is_scikit_learns_on_the_same_images() -> None:
    features, rows, known, _ = world(30)
    probe = fit_probe(features, rows, known, NAMES, recipe(penalties=[0.01]), seed=0)
    data = training_data(probe.space, features, rows, known, CLASSES)(np.ones(len(rows), bool))
    solution, images = few_shot(data, probe, 4, recipe(), seed=0) or pytest.fail("too few")
    order = np.random.default_rng((0, len(data))).permutation(len(data))
    chosen = place_in_class(known, order) < 4
    assert chosen.sum() == images and np.bincount(known[chosen]).tolist() == [4] * CLASSES
    x = data.matrix[chosen].astype(np.float64)
    model = reference(x, known[chosen], solution.penalty)
    best = reference_objective(x, known[chosen], model.coef_.T, model.intercept_, solution.penalty)
    assert solution.objective == pytest.approx(best, rel=1e-5)


def test_l_bfgs_needs_no_more_than_scipys() -> None:
    """An ill-conditioned quadratic, in float64, where both can be exact."""
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.normal(size=(50, 50)))
    matrix = turn @ np.diag(np.logspace(0, 4, 50)) @ turn.T
    target = rng.normal(size=50)
    calls = 0

    def function(x: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal calls
        calls += 1
        away = x - target
        return 0.5 * float(away @ matrix @ away), matrix @ away

    def ours(x: np.ndarray) -> tuple[float, np.ndarray, float]:
        value, gradient = function(x)
        return value, gradient, float(np.linalg.norm(gradient))

    found = minimise(ours, np.zeros(50), 1e-6, 2000)
    assert found.converged and calls == found.evaluations
    np.testing.assert_allclose(found.place, target, atol=1e-5)
    own, calls = calls, 0
    options = {"maxiter": 5000, "maxfun": 5000, "gtol": 1e-7, "ftol": 0}
    minimize(function, np.zeros(50), jac=True, method="L-BFGS-B", options=options)
    assert own < 1.5 * calls
