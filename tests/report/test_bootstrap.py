"""Resampling: against formulas, and on cases whose answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detransfer.console import InputError
from detransfer.report.bootstrap import RESAMPLES, Scores, estimate, resamples


def means(values: np.ndarray) -> Scores:
    """Return the mean of values (images,) as a score (1,)."""
    counts = resamples(len(values))
    return Scores(values.mean(keepdims=True), (counts @ values / len(values))[:, None])


def test_resamples_draw_with_replacement() -> None:
    counts = resamples(50)
    assert counts.shape == (RESAMPLES, 50) and (counts.sum(1) == 50).all()
    assert counts.mean() == 1 and counts.var() == pytest.approx(1 - 1 / 50, rel=0.03)
    # An image is absent from a resample with probability (1 - 1/n)^n.
    assert (counts == 0).mean() == pytest.approx((1 - 1 / 50) ** 50, rel=0.03)
    np.testing.assert_array_equal(counts, resamples(50))
    assert not np.array_equal(counts, resamples(50, seed=1))


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(40, 5, 400)
    over = estimate({0: means(values)})
    error = values.std() / np.sqrt(400)
    assert over.low[0] == pytest.approx(values.mean() - 1.96 * error, abs=0.3 * error)
    assert over.high[0] == pytest.approx(values.mean() + 1.96 * error, abs=0.3 * error)
    assert (over.mean[0], over.n) == (values.mean(), 1) and np.isnan(over.std[0])


def test_what_two_runs_have_in_common_leaves_their_difference() -> None:
    rng = np.random.default_rng(1)
    difficulty = rng.normal(50, 20, 300)
    better = {seed: means(difficulty + rng.normal(2, 1, 300)) for seed in (0, 1)}
    worse = {seed: means(difficulty + rng.normal(0, 1, 300)) for seed in (0, 1)}
    gap, level = estimate(better, worse), estimate(better)
    assert gap.low[0] > 1.5 and gap.high[0] < 2.5
    assert level.high[0] - level.low[0] > 10 * (gap.high[0] - gap.low[0])
    differences = [better[seed].value[0] - worse[seed].value[0] for seed in (0, 1)]
    assert gap.mean[0] == pytest.approx(np.mean(differences))
    assert gap.std[0] == pytest.approx(np.std(differences, ddof=1)) and gap.n == 2


def test_equal_runs_have_no_gap() -> None:
    run = {0: means(np.arange(9.0))}
    gap = estimate(run, run)
    assert gap.low[0] == gap.mean[0] == gap.high[0] == 0


def test_coverage_of_the_interval() -> None:
    """Of 200 samples from one population, about 95 % hold its mean."""
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(200):
        over = estimate({0: means(rng.exponential(3.0, 100))})
        held += over.low[0] <= 3.0 <= over.high[0]
    assert 0.88 < held / 200 < 0.99


def test_other_seeds_are_refused() -> None:
    run = means(np.arange(9.0))
    with pytest.raises(InputError, match=r"seeds \[0, 1\] cannot be compared with seeds \[0\]"):
        estimate({0: run, 1: run}, {0: run})


def test_a_difference_rests_on_the_fewer_images() -> None:
    run = means(np.arange(9.0))
    some, fewer = replace(run, images=8), replace(run, images=5)
    assert run.minus(run).images is None
    assert [a.minus(b).images for a, b in ((some, fewer), (fewer, some), (run, some))] == [5, 5, 8]


def test_resamples_without_a_score_are_left_out() -> None:
    resampled = np.array([[1.0, np.nan], [3.0, np.nan], [np.nan, np.nan]])
    over = estimate({0: Scores(np.array([2.0, np.nan]), resampled)})
    assert 1 <= over.low[0] < over.high[0] <= 3
    assert np.isnan(over.low[1]) and np.isnan(over.mean[1])
