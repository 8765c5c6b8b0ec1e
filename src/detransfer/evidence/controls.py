"""Controls from a study's runs: the untrained, false rivals, permuted labels, rehearsals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import special

from detransfer.console import InputError
from detransfer.report.claims import (
    CONTRADICTED,
    REPRODUCED,
    Design,
    Target,
    combined,
    spread_of,
)
from detransfer.report.controls import CHANCE, Row, line, not_run, outcome, several_runs
from detransfer.report.effects import Effect, Seeds, effect
from detransfer.report.metrics import RunMetrics, read_metrics
from detransfer.report.rehearsal import ledgers
from detransfer.report.statements import Statement

HEADLINES = ("mAP@0.5", "mIoU", "top1 fine-tuned", "top1 conv5")
MOST_FOUND = 5.0  # percent of claims about nothing that may come out as anything
RIVALS = "claims between seeds of one pre-training that come out"
SECOND_SEED = "snakemake ... --config seeds=[0,1]"
REHEARSALS, GAIN = 60, 15.0  # studies with a planted gain, of so many points
LEAST_COVERED = 90.0  # percent of 180 intervals of 95 %: 95 less three standard errors
LEAST_DRAWS = 2  # of permuted labels: from one, nobody can tell how far they vary
FITS = 50.0  # percent of its training images that a probe of untrained features must get right


def untrained_rows(target: Target, design: Design) -> Iterator[Row]:
    """Yield, by statistic, how far the best untrained network lies above the worst trained one."""
    for statistic in HEADLINES:
        found = target.scores.get(statistic, {})
        over = spread_of(found, design)
        above = [
            (name, other, effect(found[name], found[other], over))
            for name in sorted(design.untrained & found.keys())
            for other in sorted(found.keys() - design.untrained)
        ]
        if above:
            name, other, most = max(above, key=lambda each: each[2].low)
            yield line(
                "random", target.name, f"{statistic}: {name} less {other}", most.value,
                "not above 0: worst or level", not most.low > 0, "points",
                f"the nearest of {len(above)} comparisons", most.low, most.high,
            )  # fmt: skip


def untrained_fits(runs: Sequence[RunMetrics], design: Design) -> Iterator[Row]:
    """Yield how well probes of untrained features can fit their training images.

    The penalty chosen for new images may leave them unfitted, so that of all tried the best counts.
    """
    for metrics in runs:
        if metrics.run.task == "probe/conv5" and metrics.run.pretraining in design.untrained:
            score = float(metrics.fit["best_training_score"])
            what = (
                f"training top-1 at the best of the penalties, probe of {metrics.run.pretraining}"
            )
            must = f"at least {FITS:g} %: it fits the training set"
            detail = f"seed {metrics.run.seed}"
            yield line(
                "random", metrics.run.target, what, score, must, score >= FITS, detail=detail
            )


def rivalries(
    targets: Sequence[Target], design: Design, statements: Sequence[Statement]
) -> Iterator[Row]:
    """Yield :func:`rival_rows` of all targets, or, of a single seed, that nobody has run them."""
    rows = [row for target in targets for row in rival_rows(target, design, statements)]
    absent = not_run("a_against_a", f"at most {MOST_FOUND:g} %", SECOND_SEED)
    yield from rows or [absent | {"quantity": RIVALS}]


def rival_rows(target: Target, design: Design, statements: Sequence[Statement]) -> Iterator[Row]:
    """Yield how many claims come out as anything between two seeds of one pre-training."""
    posed = [
        list(rivals(combined(target, statement), design))
        for statement in statements
        if statement.expected != "same" and statement.against == "start"
    ]
    found = [each for effects in posed for each in effects]
    if found:
        told_apart = sum(each.low > 0 or each.high < 0 for each in found)
        share, most = 100 * told_apart / len(found), most_by_chance(max(map(len, posed)))
        yield line(
            "a_against_a", target.name, RIVALS, share,
            f"at most {most:.3g} %: {MOST_FOUND:g} % and what chance adds", share <= most,
            detail=f"{told_apart} of {len(found)}",
        )  # fmt: skip


def most_by_chance(pairs: int) -> float:
    """Return the share, in percent, that is exceeded in one study of forty by chance alone.

    The statements of a target rest on the same pairs of runs, so that the pairs count, not the
    claims: as many as come out of so many when each does with probability ``MOST_FOUND``.
    """
    counts = np.arange(pairs + 1)
    most = int((special.bdtr(counts, pairs, MOST_FOUND / 100) < 0.975).sum())
    return max(100 * most / pairs, MOST_FOUND)


def rivals(scores: Mapping[str, Seeds], design: Design) -> Iterator[Effect]:
    """Yield the effects of seeds of one pre-training against each other, and of each two twins.

    How far seeds vary is told from the other pre-trainings: a difference that is a part of its own
    yardstick could hardly exceed it. Where there are none, seeds are no rivals.
    """
    for name, seeds in scores.items():
        if name not in design.untrained:
            over = spread_of({n: each for n, each in scores.items() if n != name}, design)
            for one, other in pairwise(sorted(seeds) if over.freedom else ()):
                yield effect({one: seeds[one]}, {other: seeds[other]}, over)
    for name, twin in sorted({(min(pair), max(pair)) for pair in design.twins.items()}):
        if name in scores and twin in scores:
            yield effect(scores[name], scores[twin], spread_of(scores, design))


def rehearsal_rows() -> Iterator[Row]:
    """Yield what the ledger finds in invented results: nothing, and a gain that was planted."""
    nothing = pd.concat(ledgers(REHEARSALS, {}))
    share = 100 * nothing["verdict"].isin([REPRODUCED, CONTRADICTED]).mean()
    detail = f"{REHEARSALS} invented studies"
    yield line(
        "a_against_a", "", "claims about nothing that come out", share,
        f"at most {MOST_FOUND:g} %", share <= MOST_FOUND, detail=detail,
    )  # fmt: skip
    table = pd.concat(ledgers(REHEARSALS, {"one": GAIN}, seed=1))
    own = table[(table["run"] == "one") & (table["claim"] != "difference of gains")]
    covered = 100 * ((own["low"] <= GAIN) & (own["high"] >= GAIN)).mean()
    wrong = 100 * (own["verdict"] == CONTRADICTED).mean()
    right = 100 * (own["verdict"] == REPRODUCED).mean()
    yield line(
        "planted", "", f"intervals that hold a planted gain of {GAIN:g} points", covered,
        f"at least {LEAST_COVERED:g} %", covered >= LEAST_COVERED, detail=detail,
    )  # fmt: skip
    yield line(
        "planted", "", "planted gains that are found with the wrong sign", wrong,
        "0 %", wrong == 0, detail=f"{right:.0f} % are found with the right one",
    )  # fmt: skip


def shuffled_rows(control: str, folders: Sequence[Path]) -> Iterator[Row]:
    """Yield the test accuracy of what learnt permuted labels, by target, all draws together.

    A single draw says nothing: whole classes may keep their labels in it by luck.

    Each folder is a run with metrics.json and predictions.parquet. Raises InputError for others.
    """
    runs: dict[str, list[tuple[Path, RunMetrics]]] = {}
    for folder in folders:
        metrics = read_metrics(folder / "metrics.json")
        runs.setdefault(metrics.run.target, []).append((folder, metrics))
    for target, given in runs.items():
        if len(given) < LEAST_DRAWS:
            yield not_run(control, CHANCE, "make controls") | {"target": target}
            continue
        answers = [answers_of(folder / "predictions.parquet") for folder, _ in given]
        known = np.mean([float(metrics.fit["training_score"]) for _, metrics in given])
        detail = f"training top-1 {known:.1f} %; {len(given)} draws, {given[0][1].run.pretraining}"
        what = "test top-1 after permuting the training labels"
        yield outcome(control, target, what, several_runs(answers), detail)


def answers_of(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        table = pd.read_parquet(path, columns=["class_id", "predicted"])
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable table of predictions ({error})") from error
    return table["class_id"].to_numpy(), table["predicted"].to_numpy()
