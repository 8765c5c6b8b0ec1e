"""Effects: against formulas, and on studies whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from detransfer.report.bootstrap import Scores, resamples
from detransfer.report.effects import Spread, effect, spread

COUNTS = {images: resamples(images) for images in (60, 300, 400)}


def score(values: np.ndarray) -> Scores:
    counts = COUNTS[len(values)]
    return Scores(np.asarray(values.mean()), counts @ values / len(values))


def flat(value: float) -> Scores:
    """Return a score that every resample repeats: all images alike."""
    return Scores(np.asarray(value), np.full(1000, value))


def test_variance_over_seeds_is_pooled_over_pretrainings() -> None:
    # By hand: deviations -1, 1 and -2, 0, 2 have squares 2 and 8 over 1 + 2 degrees of freedom.
    runs = [{0: flat(9), 1: flat(11)}, {0: flat(0), 1: flat(2), 2: flat(4)}]
    found = spread(runs)
    assert (found.variance, found.freedom) == (pytest.approx(10 / 3), 3)
    assert found.gap == pytest.approx(np.sqrt(20 / 3))
    assert np.isnan(spread([{0: flat(1)}]).gap)


def test_without_images_the_interval_is_students() -> None:
    plus, minus = {0: flat(12), 1: flat(14)}, {0: flat(9), 1: flat(11)}
    over = spread([plus, minus])
    found = effect(plus, minus, over)
    half = stats.t.ppf(0.975, 2) * np.sqrt(2 * (1 / 2 + 1 / 2))
    assert found.value == 3 and found.seeds == 2
    assert found.high - 3 == pytest.approx(half, rel=0.05)
    assert 3 - found.low == pytest.approx(half, rel=0.05)


def test_without_seeds_the_interval_is_the_bootstraps() -> None:
    values = np.random.default_rng(0).normal(3, 5, 400)
    found = effect({0: score(values)}, {0: score(np.zeros(400))}, Spread(0.0, 4, 0.0))
    error = values.std() / 20
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.3 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.3 * error)
    # What a normal test finds with power 0.8: 1.96 + 0.84 standard errors.
    assert found.detectable == pytest.approx(2.8 * error, rel=0.08)


def test_common_difficulty_leaves_the_difference() -> None:
    hard = np.random.default_rng(1).normal(50, 20, 300)
    found = effect({0: score(hard + 2)}, {0: score(hard)}, Spread(0.0, 1, 0.0))
    assert found.low == pytest.approx(2) and found.high == pytest.approx(2)


def test_one_seed_detects_nothing() -> None:
    found = effect({0: flat(5)}, {0: flat(1)}, spread([{0: flat(5)}, {0: flat(1)}]))
    assert np.isnan(found.detectable) and (found.low, found.high) == (4, 4)


def test_a_score_without_any_resample_has_no_interval() -> None:
    nothing = Scores(np.asarray(np.nan), np.full(1000, np.nan))
    found = effect({0: nothing}, None, Spread(1.0, 2, 0.0))
    assert np.isnan([found.value, found.low, found.high]).all()


@pytest.mark.parametrize("deviation", [0.0, 1.0, 4.0])
def test_coverage_with_two_seeds_of_four_pretrainings(deviation: float) -> None:
    """The truth lies in 95 % of the intervals, whatever images and seeds contribute."""
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(300):
        image = rng.normal(0, 10, 60)
        runs = [
            {seed: score(50 + image + rng.normal(0, 10, 60) + rng.normal(0, deviation))
             for seed in (0, 1)} for _ in range(4)
        ]  # fmt: skip
        found = effect(runs[0], runs[1], spread(runs))
        held += found.low <= 0 <= found.high
    assert held / 300 > 0.925  # two standard errors of 300 draws below 0.95
