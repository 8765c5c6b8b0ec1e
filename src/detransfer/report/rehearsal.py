"""Rehearsals of the ledger on results whose truth is known: nothing at all, or a planted gain.

A run gets image i right with a probability of that image, plus what its pre-training gains, plus
what its seed happens to give; then chance decides. Images differ in difficulty and all runs see the
same ones, as in a study.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from detransfer.report.bootstrap import Scores, resamples
from detransfer.report.claims import Design, Target, ledger
from detransfer.report.statements import Statement

STATISTICS = ("top1 fine-tuned", "top1 conv5", "mIoU")
STATEMENTS = (
    *(Statement(f"more {name}", "", "", ((1, name),), "more", ()) for name in STATISTICS),
    Statement("difference of gains", "", "", ((1, STATISTICS[0]), (-1, STATISTICS[1])), "more", ()),
)
IMAGES = 200
START, DETECTORS = "start", ("one", "two", "three")
DESIGN = Design(dict.fromkeys(DETECTORS, START), {}, frozenset())


def results(
    rng: np.random.Generator,
    counts: np.ndarray,
    gains: Mapping[str, float],
    seeds: int = 2,
    deviation: float = 1.0,
) -> Target:
    """Return a target on which each detector gains so many points, in all statistics alike.

    ``counts`` are the resamples of the images, ``deviation`` that of the seeds, in points.
    """
    images = counts.shape[1]
    scores: dict[str, dict[str, dict[int, Scores]]] = {}
    for statistic in STATISTICS:
        easy = rng.uniform(0.2, 0.7, images)
        for name in (START, *DETECTORS):
            for seed in range(seeds):
                shift = gains.get(name, 0.0) + rng.normal(0, deviation)
                right = np.where(rng.random(images) < easy + shift / 100, 1.0, 0.0)
                score = Scores(np.asarray(100 * right.mean()), 100 * (counts @ right) / images)
                scores.setdefault(statistic, {}).setdefault(name, {})[seed] = score
    return Target("rehearsal", "rehearsal", images, scores)


def ledgers(
    number: int, gains: Mapping[str, float], seed: int = 0, seeds: int = 2, deviation: float = 1.0
) -> Iterator[pd.DataFrame]:
    """Yield ledgers of so many studies that differ by chance alone."""
    counts = resamples(IMAGES)
    for study in range(number):
        rng = np.random.default_rng((seed, study))
        target = results(rng, counts, gains, seeds, deviation)
        yield ledger(STATEMENTS, [target], DESIGN, {}, [])
