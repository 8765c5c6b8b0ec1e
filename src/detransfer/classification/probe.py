"""Linear probes of frozen features: multinomial logistic regression with L2 (Tables 6 and 7).

The objective is the mean cross-entropy plus ``penalty`` times half the squared norm of the weights
(not of the biases) on standardised features; scikit-learn's with C = 1 / (n penalty). The penalty
is chosen on a held-out fifth of the training images, along a path from the largest to the smallest
in which each solution starts the next, and the probe is fitted on all training images. No function
here that fits or chooses ever sees a test image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from detransfer.classification.accuracy import held_out, place_in_class
from detransfer.classification.lbfgs import Minimum, Point, minimise
from detransfer.classification.space import Space, fit_space
from detransfer.console import InputError
from detransfer.recipes.classification import ProbeRecipe

Blocks = Callable[[], Iterable[tuple[slice, np.ndarray]]]


@dataclass(frozen=True, eq=False)
class Data:
    """Images of a probe: blocks of features (k, r), as often as they are asked for, and classes."""

    blocks: Blocks
    class_ids: np.ndarray
    classes: int

    def __len__(self) -> int:
        return len(self.class_ids)

    @cached_property
    def norm_at_zero(self) -> float:
        """The norm of the objective's gradient at zero weights, whatever the penalty."""
        _, block = next(iter(self.blocks()))
        zero = np.zeros((self.classes, block.shape[1] + 1), np.float32)
        return float(np.linalg.norm(objective(self, zero, 0)[1]))

    @cached_property
    def matrix(self) -> np.ndarray:
        """The features of all images (n, r), in memory."""
        return np.concatenate([block for _, block in self.blocks()])


@dataclass(frozen=True)
class Solution:
    """Weights (classes, r + 1), the last column the biases, and how they were found.

    ``gradient_norm`` is relative to that of zero weights.
    """

    weights: np.ndarray
    penalty: float
    objective: float
    gradient_norm: float
    evaluations: int
    converged: bool


@dataclass(frozen=True)
class PathPoint:
    """One penalty of the path: its solution without the held-out fifth, and its accuracies, %."""

    solution: Solution
    training_top1: float
    held_out_top1: float


@dataclass(frozen=True)
class Probe:
    """A probe of one layer, the path that chose its penalty, and the space of its features."""

    space: Space
    solution: Solution
    path: tuple[PathPoint, ...]

    def on_raw_features(self) -> tuple[np.ndarray, np.ndarray]:
        """Return weight (d, classes) and bias (classes,) float32 for features as recorded."""
        weight, bias = self.solution.weights[:, :-1].T, self.solution.weights[:, -1]
        if self.space.axes is not None:
            weight = self.space.axes @ weight
        weight = weight / self.space.scale[:, None]
        return weight, bias - self.space.mean @ weight


def fit_probe(
    features: np.ndarray,
    rows: np.ndarray,
    class_ids: np.ndarray,
    names: Sequence[str],
    recipe: ProbeRecipe,
    seed: int,
) -> Probe:
    """Fit a probe on the training images in ``rows`` of the features (n, d), with their classes.

    Raises InputError for classes without a training image, and for features that are not finite.
    """
    check_classes(class_ids, names)
    space = fit_space(features, rows)
    held = held_out(class_ids, seed) if len(recipe.penalties) > 1 else np.zeros(len(rows), bool)
    select = training_data(space, features, rows, class_ids, len(names))
    fitted, judged = select(~held), select(held)
    path: list[PathPoint] = []
    weights = np.zeros((len(names), len(space.variances) + 1), np.float32)
    for penalty in recipe.penalties:
        solution = solve(fitted, weights, penalty, space.variances, recipe)
        scores = (top1(data, solution.weights) for data in (fitted, judged))
        path.append(PathPoint(solution, *scores))
        weights = solution.weights
    best = max(path, key=lambda point: point.held_out_top1)  # of equals the largest penalty
    whole, chosen = select(np.ones(len(rows), bool)), best.solution
    final = solve(whole, chosen.weights, chosen.penalty, space.variances, recipe)
    return Probe(space, final, tuple(path))


def check_classes(class_ids: np.ndarray, names: Sequence[str]) -> None:
    """Raise InputError, naming them, where classes have no training image."""
    counts = np.bincount(class_ids, minlength=len(names))
    empty = [names[number] for number in np.flatnonzero(counts == 0).tolist()]
    if empty:
        raise InputError(
            f"{len(empty)} of {len(names)} classes have no training image, so that no probe can "
            f"know them: {', '.join(empty[:10])}; add images, or leave the classes out "
            "of the data set"
        )


def training_data(
    space: Space, features: np.ndarray, rows: np.ndarray, class_ids: np.ndarray, classes: int
) -> Callable[[np.ndarray], Data]:
    """Return what selects some of the training images, by a truth value for each row.

    Turned features are kept in memory; wider ones are read anew in every pass.
    """
    kept = None if space.axes is None else space.matrix(features, rows)

    def select(chosen: np.ndarray) -> Data:
        if kept is None:
            return Data(lambda: space.blocks(features, rows[chosen]), class_ids[chosen], classes)
        part = kept if chosen.all() else kept[chosen]
        return Data(lambda: [(slice(0, len(part)), part)], class_ids[chosen], classes)

    return select


def solve(
    data: Data, start: np.ndarray, penalty: float, variances: np.ndarray, recipe: ProbeRecipe
) -> Solution:
    """Minimise the objective from ``start``.

    At zero weights the curvature along an axis is its variance over the number of classes, plus the
    penalty; the search runs in coordinates in which that is 1 for every axis.
    """
    ridge = np.append(np.full(len(variances), penalty), 0)  # none on the biases
    spread = np.append(variances, 1) / len(start) + ridge
    unit = (1 / np.sqrt(spread)).astype(np.float32)
    scale = max(data.norm_at_zero, 1e-30)  # one class alone has no gradient

    def stretched(place: np.ndarray) -> Point:
        value, gradient = objective(data, unit * place, penalty)
        return value, unit * gradient, float(np.linalg.norm(gradient)) / scale

    found: Minimum = minimise(stretched, start / unit, recipe.tolerance, recipe.iterations)
    return Solution(
        weights=unit * found.place,
        penalty=penalty,
        objective=found.value,
        gradient_norm=found.norm,
        evaluations=found.evaluations,
        converged=found.converged,
    )


def objective(data: Data, weights: np.ndarray, penalty: float) -> tuple[float, np.ndarray]:
    """Return the objective and its gradient at weights (classes, r + 1), in closed form."""
    loss, gradient = 0.0, np.zeros_like(weights)
    for place, block in data.blocks():
        truth, rows = data.class_ids[place], np.arange(place.stop - place.start)
        losses, residual, _ = _softmax(block, weights, truth)
        loss += float(losses.sum(dtype=np.float64))
        residual[rows, truth] = 0
        residual[rows, truth] = -residual.sum(1)  # not p - 1, which rounding would swallow
        gradient[:, :-1] += residual.T @ block
        gradient[:, -1] += residual.sum(0)
    gradient /= len(data)
    gradient[:, :-1] += np.float32(penalty) * weights[:, :-1]
    norm = float(np.square(weights[:, :-1], dtype=np.float64).sum())
    return loss / len(data) + penalty / 2 * norm, gradient


def predict(data: Data, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the predicted class (n,) int64 and the probability of the true one (n,) float32."""
    predicted = np.empty(len(data), np.int64)
    probability = np.empty(len(data), np.float32)
    for place, block in data.blocks():
        losses, _, predicted[place] = _softmax(block, weights, data.class_ids[place])
        probability[place] = np.exp(-losses)
    return predicted, probability


def top1(data: Data, weights: np.ndarray) -> float:
    """Return the share of images given their own class, in percent; 0 of none."""
    right = predict(data, weights)[0] == data.class_ids
    return 100 * float(right.mean()) if len(right) else 0.0


def few_shot(
    data: Data, probe: Probe, shots: int, recipe: ProbeRecipe, seed: int
) -> tuple[Solution, int] | None:
    """Fit on ``shots`` training images a class; return the solution and how many they are.

    The images of fewer shots are among those of more. The penalty is that of the whole probe as a
    prior on the weights: its share of the objective grows as the images get fewer. None where a
    class does not have so many images.
    """
    if np.bincount(data.class_ids).min() < shots:
        return None
    order = np.random.default_rng((seed, len(data))).permutation(len(data))
    chosen = place_in_class(data.class_ids, order) < shots
    matrix = data.matrix[chosen]
    part = Data(lambda: [(slice(0, len(matrix)), matrix)], data.class_ids[chosen], data.classes)
    penalty = probe.solution.penalty * len(data) / len(part)
    start = np.zeros_like(probe.solution.weights)
    return solve(part, start, penalty, probe.space.variances, recipe), len(part)


def _softmax(
    block: np.ndarray, weights: np.ndarray, truth: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return losses (k,), probabilities (k, classes) and the best class (k,) of some images.

    The losses are exact to float32 even where one class is all but certain.
    """
    scores, rows = block @ weights[:, :-1].T, np.arange(len(block))
    scores += weights[:, -1]
    best = scores.argmax(1)
    top, behind = scores[rows, best], scores[rows, best] - scores[rows, truth]
    scores -= top[:, None]
    shares = np.exp(scores, out=scores)
    shares[rows, best] = 0
    others = shares.sum(1)
    losses = np.log1p(others) + behind
    shares *= 1 / (1 + others)[:, None]
    shares[rows, best] = 1 / (1 + others)
    return losses, shares, best
