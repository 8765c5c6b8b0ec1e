"""L-BFGS (Nocedal and Wright, "Numerical Optimization", algorithms 7.4 and 7.5).

For smooth convex functions in float32: the line search asks for sufficient decrease alone (a convex
function gives curvature pairs of the right sign at any step), and knows that values carry noise.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

MEMORY = 10  # pairs kept
DECREASE = 1e-4  # of what the slope promises
NOISE = 5e-8  # relative error of a value in float32
TRIALS = 20  # step lengths of one line search
IDLE = 50  # steps that lower neither the value nor the norm: rounding is all that is left
SHORTEST, LONGEST = 0.05, 0.5  # of a step that was too long
Point = tuple[float, np.ndarray, float]  # value, gradient, and the norm that decides when to end


@dataclass(frozen=True)
class Minimum:
    """Where a minimisation ended: whether by its tolerance, and after how many evaluations."""

    place: np.ndarray
    value: float
    norm: float
    evaluations: int
    converged: bool


def minimise(
    function: Callable[[np.ndarray], Point], start: np.ndarray, tolerance: float, iterations: int
) -> Minimum:
    """Minimise a function of a float32 array; ends where its norm is at most ``tolerance``.

    It has not converged where the iterations are spent, or where no step makes it smaller.
    """
    place, evaluations = start, 1
    value, gradient, norm = function(place)
    pairs: deque[tuple[np.ndarray, np.ndarray, float]] = deque(maxlen=MEMORY)
    idle, lowest = 0, norm
    for _ in range(iterations):
        if norm <= tolerance or idle == IDLE:
            break
        direction = _direction(gradient, pairs)
        slope = _dot(direction, gradient)
        if slope >= 0:  # rounding: begin anew from here
            pairs.clear()
            direction, slope = -gradient, -_dot(gradient, gradient)
        length = 1.0
        for _ in range(TRIALS):
            there = place + np.float32(length) * direction
            found = function(there)
            evaluations += 1
            excess = found[0] - value - length * slope
            if excess <= (DECREASE - 1) * length * slope + NOISE * abs(value):
                break
            shorter = -length * slope / (2 * excess)  # where a parabola has its minimum
            length *= min(max(shorter, SHORTEST), LONGEST)
        else:
            break
        better = value - found[0] > NOISE * abs(value) or found[2] < lowest
        idle, lowest = 0 if better else idle + 1, min(lowest, found[2])
        step, change = there - place, found[1] - gradient
        place, (value, gradient, norm) = there, found
        curvature = _dot(step, change)
        if curvature > 1e-10 * _dot(change, change):
            pairs.append((step, change, curvature))
    return Minimum(place, value, norm, evaluations, norm <= tolerance)


def _direction(
    gradient: np.ndarray, pairs: deque[tuple[np.ndarray, np.ndarray, float]]
) -> np.ndarray:
    """Return minus the inverse Hessian that the pairs tell of, times the gradient."""
    result = -gradient
    shares = []
    for step, change, curvature in reversed(pairs):
        share = _dot(step, result) / curvature
        result -= np.float32(share) * change
        shares.append(share)
    if pairs:
        _, change, curvature = pairs[-1]
        result *= np.float32(curvature / _dot(change, change))
    for (step, change, curvature), share in zip(pairs, reversed(shares), strict=True):
        result += np.float32(share - _dot(change, result) / curvature) * step
    return result


def _dot(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.vdot(one, other))
