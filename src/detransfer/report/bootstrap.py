"""Intervals by resampling the images that a score rests on (Efron's bootstrap, percentiles)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from detransfer.console import InputError

RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Scores:
    """A score of one run: on the images (...), and on each of their resamples (RESAMPLES, ...).

    ``images`` is how many images say anything about it; None: all that there are.
    """

    value: np.ndarray
    resampled: np.ndarray
    images: int | None = None

    def minus(self, other: Scores) -> Scores:
        """Return the difference to another run on the same images and resamples."""
        images = fewest((self, other))
        return Scores(self.value - other.value, self.resampled - other.resampled, images)


@dataclass(frozen=True)
class Estimate:
    """A score over ``n`` seeds: mean, sample deviation, and the interval of the mean over images.

    The deviation is NaN for one seed. The interval is that of the mean of these seeds on other
    images of the same kind.
    """

    mean: np.ndarray
    std: np.ndarray
    n: int
    low: np.ndarray
    high: np.ndarray


def fewest(scores: Iterable[Scores]) -> int | None:
    """Return the number of images of the score that rests on the fewest; None: on all."""
    return min((each.images for each in scores if each.images is not None), default=None)


def resamples(images: int, seed: int = 0) -> np.ndarray:
    """Return how often each image stands in each resample: float64 (RESAMPLES, images).

    Every row sums up to ``images``. All runs on the same images are scored in the same resamples,
    so that what they have in common leaves their difference.
    """
    rng = np.random.default_rng(seed)
    return rng.multinomial(images, np.full(images, 1 / images), size=RESAMPLES).astype(float)


def estimate(own: Mapping[int, Scores], baseline: Mapping[int, Scores] | None = None) -> Estimate:
    """Put the seeds of one run together, or their differences to the same seeds of a baseline.

    Resamples without a score (NaN) are left out. Raises InputError where the seeds are not those of
    the baseline.
    """
    if baseline is not None and own.keys() != baseline.keys():
        raise InputError(
            f"seeds {sorted(own)} cannot be compared with seeds {sorted(baseline)}: run the "
            "missing ones, or leave the others out"
        )
    seeds = [scores.minus(baseline[s]) if baseline else scores for s, scores in own.items()]
    values = np.stack([scores.value for scores in seeds])
    tail = 50 * (1 - LEVEL)
    resampled = np.mean([scores.resampled for scores in seeds], axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the interval of nothing is NaN
        low, high = np.nanpercentile(resampled, [tail, 100 - tail], axis=0)
    std = values.std(0, ddof=1) if len(seeds) > 1 else np.full(values.shape[1:], np.nan)
    return Estimate(values.mean(0), std, len(seeds), low, high)
