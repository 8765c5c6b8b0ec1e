"""Numbers of single images, by run and group of images: their means, and paired differences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from detransfer.report.bootstrap import Scores, estimate, resamples
from detransfer.report.groups import Group

COLUMNS = ["run", "baseline", "by", "low", "high", "images", "metric", "mean", "ci_low", "ci_high"]


@dataclass(frozen=True)
class Measured:
    """What one run says of each image: numbers (n, metrics) in percent, and if it is right (n,)."""

    values: np.ndarray
    right: np.ndarray | None = None


def compare(
    runs: Mapping[str, Measured],
    metrics: Sequence[str],
    contrasts: Iterable[Sequence[str]],
    groups: Sequence[Group],
) -> pd.DataFrame:
    """Return the means of each run, and of its differences to a baseline, in every group.

    One row a run (``baseline`` empty) or pair, group and metric. ``ci_low`` to ``ci_high`` holds
    95 % of the means of resampled images, the same for both runs of a pair; NaN for a single image,
    which says nothing about others. Beside the groups there is ``all``, and where it is known
    ``right``: the images that the run, or both, get right. Images without a number are left out;
    they are so for all runs.
    """
    pairs = [(name, "") for name in runs]
    pairs += [(a, b) for a, b in contrasts if a in runs and b in runs]
    known = np.all([np.isfinite(run.values).all(1) for run in runs.values()], axis=0)
    everyone = Group("all", np.nan, np.nan, np.ones(len(known), bool))
    rows: list[dict[str, object]] = []
    for group in (everyone, *groups):
        inside = group.inside & known
        if inside.any():
            scores = {name: _scores(run.values[inside]) for name, run in runs.items()}
            for pair in pairs:
                rows += _rows(pair, group, int(inside.sum()), metrics, scores)
    for pair in pairs:
        rows += _right(pair, runs, known, metrics)
    return pd.DataFrame(rows, columns=COLUMNS)


def _right(
    pair: tuple[str, str], runs: Mapping[str, Measured], known: np.ndarray, metrics: Sequence[str]
) -> Iterator[dict[str, object]]:
    """Yield the rows of the images that both runs of a pair get right."""
    inside = known.copy()
    for name in filter(None, pair):
        right = runs[name].right
        if right is None:
            return
        inside &= right
    if inside.any():
        group = Group("right", np.nan, np.nan, inside)
        scores = {name: _scores(runs[name].values[inside]) for name in filter(None, pair)}
        yield from _rows(pair, group, int(inside.sum()), metrics, scores)


def _scores(values: np.ndarray) -> Scores:
    return Scores(values.mean(0), resamples(len(values)) @ values / len(values))


def _rows(
    pair: tuple[str, str],
    group: Group,
    images: int,
    metrics: Sequence[str],
    scores: Mapping[str, Scores],
) -> Iterator[dict[str, object]]:
    run, baseline = pair
    over = estimate({0: scores[run]}, {0: scores[baseline]} if baseline else None)
    low, high = np.where(images > 1, [over.low, over.high], np.nan)
    for place, metric in enumerate(metrics):
        yield {
            "run": run,
            "baseline": baseline,
            "by": group.by,
            "low": group.low,
            "high": np.nan if np.isinf(group.high) else group.high,
            "images": images,
            "metric": metric,
            "mean": over.mean[place],
            "ci_low": low[place],
            "ci_high": high[place],
        }
