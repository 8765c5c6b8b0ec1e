"""Effects: differences between runs, with intervals over test images and over trainings.

The images of a test set are resampled with replacement, the same resamples for all runs. Seeds are
too few for that: of two seeds that differ by chance alone, both fall on one side of zero in half of
all cases, and so would all resamples of them. Their part is drawn from Student's distribution
instead, with the deviation of a score over the seeds of one pre-training, pooled over the
pre-trainings of the target.

The two parts add up, but what a seed happens to do to single images is in both: in the deviation
over the seeds, and in the resamples, where a run that gets other images right varies on its own. It
is known from how far two seeds of one pre-training part in the resamples, and taken out of the
images' part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from detransfer.report.bootstrap import LEVEL, Scores

LEAST_LEFT = 0.1  # of the images' part stays: rather a little too wide than too narrow
POWER = 0.8  # chance to find an effect of the smallest size that is called detectable
Seeds = Mapping[int, Scores]  # of one pre-training


@dataclass(frozen=True)
class Spread:
    """How far a score varies with the seed: variance, degrees of freedom (0: unknown).

    ``shared`` is the part of the variance that resampling the images shows as well.
    """

    variance: float
    freedom: int
    shared: float

    @property
    def gap(self) -> float:
        """The typical (root mean square) difference between two seeds; NaN if there is none."""
        return float(np.sqrt(2 * self.variance)) if self.freedom and self.variance else np.nan


FROZEN = Spread(0.0, 10**6, 0.0)  # of what no seed trains


@dataclass(frozen=True)
class Effect:
    """A difference, its 95 % interval, and the least one that would be found in 4 of 5 studies.

    ``seeds`` is the number of seeds on the side that has fewer. Of one seed for each, without any
    others to tell how far they vary, the interval is that over the images and ``detectable`` NaN.
    """

    value: float
    low: float
    high: float
    detectable: float
    seeds: int


def spread(runs: Iterable[Seeds]) -> Spread:
    """Pool the variance over seeds of several pre-trainings."""
    squares, shared, freedom = 0.0, 0.0, 0
    for seeds in runs:
        values = np.array([float(scores.value) for scores in seeds.values()])
        resampled = np.stack([scores.resampled for scores in seeds.values()])
        squares += float(((values - values.mean()) ** 2).sum())
        apart = resampled - resampled.mean(0)
        shared += float(np.nanvar(apart, axis=1).sum())
        freedom += len(values) - 1
    if not freedom:
        return Spread(np.nan, 0, np.nan)
    return Spread(squares / freedom, freedom, shared / freedom)


def effect(plus: Seeds, minus: Seeds | None, over_seeds: Spread) -> Effect:
    """Return the mean of ``plus`` less that of ``minus`` (nothing: the mean itself).

    The scores are single numbers, of the same images and resamples.
    """
    sides = [plus] if minus is None else [plus, minus]
    means = [np.mean([float(s.value) for s in side.values()]) for side in sides]
    resampled = [np.mean([s.resampled for s in side.values()], axis=0) for side in sides]
    value = float(means[0] - means[1] if minus is not None else means[0])
    drawn = resampled[0] - resampled[1] if minus is not None else resampled[0]
    drawn = _of_images(drawn[np.isfinite(drawn)], over_seeds, sides)
    variance = over_seeds.variance * sum(1 / len(side) for side in sides)
    low, high = _interval(drawn, variance, over_seeds.freedom)
    least = _detectable(drawn, variance, over_seeds.freedom)
    return Effect(value, low, high, least, min(map(len, sides)))


def _of_images(drawn: np.ndarray, over_seeds: Spread, sides: Sequence[Seeds]) -> np.ndarray:
    """Return resamples without what the seeds do to single images: that is the seeds' part."""
    if not over_seeds.freedom or not len(drawn) or not drawn.var():
        return drawn
    shared = over_seeds.shared * sum(1 / len(side) for side in sides)
    left = max(1 - shared / drawn.var(), LEAST_LEFT)
    return drawn.mean() + np.sqrt(left) * (drawn - drawn.mean())


def _interval(drawn: np.ndarray, variance: float, freedom: int) -> tuple[float, float]:
    """Return the interval of the sum of what the images and what the seeds contribute."""
    if not len(drawn):
        return np.nan, np.nan
    tail = (1 - LEVEL) / 2
    if freedom:
        places = np.random.default_rng(len(drawn)).permutation(len(drawn))
        drawn = drawn + np.sqrt(variance) * special.stdtrit(freedom, (places + 0.5) / len(drawn))
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


def _detectable(drawn: np.ndarray, variance: float, freedom: int) -> float:
    """Return the effect whose interval excludes 0 with probability ``POWER``.

    The degrees of freedom of the sum are those of Welch and Satterthwaite.
    """
    if not freedom or len(drawn) < 2:
        return np.nan
    total = float(drawn.var()) + variance
    own = np.inf if variance == 0 else freedom * (total / variance) ** 2
    quantiles = special.stdtrit(min(own, 1e6), [(1 + LEVEL) / 2, POWER])
    return float(quantiles.sum() * np.sqrt(total))
