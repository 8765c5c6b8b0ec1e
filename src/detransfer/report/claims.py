"""The ledger: each statement of the paper, our effect with its interval, and a verdict.

Verdicts (docs/claims.md): ``reproduced``, ``contradicted``, ``inconclusive``, ``not run``, and
``invalid`` where a control fails or a training did not fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from detransfer.console import InputError
from detransfer.report.bootstrap import Scores, fewest
from detransfer.report.effects import FROZEN, Effect, Seeds, Spread, effect, spread
from detransfer.report.published import read_published
from detransfer.report.statements import Statement

REPRODUCED, CONTRADICTED, INCONCLUSIVE = "reproduced", "contradicted", "inconclusive"
NOT_RUN, INVALID = "not run", "invalid"
BASELINE, DETECTORS = "imagenet_cls", ("openimages", "imagenet_loc")  # of the paper's contrasts
# The statistics of the published tables, by the name of the metric there: {} stands for it.
TABLES = {
    "table2": "{}", "table3": "{}", "table4": "{}", "table5": "{} fine-tuned",
    "table6": "{} conv5", "coco_finetuning": "{}",
}  # fmt: skip
WHOLE = ("conv_proj_14x14", "conv_proj_whole")  # the paper's name of the unpooled grid, and ours
TEXT, TEXT_DATASET = "VOC segmentation", "voc_segmentation"  # in the paper's text, and here


@dataclass(frozen=True)
class Target:
    """What a study knows of one target: single numbers with their resamples.

    ``scores`` by statistic and pre-training, resampled from the same ``images`` images. ``unfit``
    are the (statistic, pre-training) whose training did not fit.
    """

    name: str
    dataset: str
    images: int
    scores: Mapping[str, Mapping[str, Seeds]]
    unfit: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True)
class Design:
    """What a study compares: starts and matched controls of the pre-trainings on detection.

    ``untrained`` pre-trainings tell nothing of how far a trained one varies with the seed. A
    pre-training's twin has the same objective, data and start, but another seed or recipe.
    """

    starts: Mapping[str, str]
    matched: Mapping[str, str]
    untrained: frozenset[str]
    twins: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Control:
    """A line of controls.csv that verdicts depend on; an empty target stands for all."""

    name: str
    target: str
    holds: bool


Published = Mapping[tuple[str, str, str], float]  # by data set, run and statistic


def read_all_published(folder: Path) -> Published:
    """Return all scores that the paper gives, and its effects by class (run: an empty name)."""
    parts = []
    for table, pattern in TABLES.items():
        part = read_published(folder / f"{table}.csv")
        parts.append(part.assign(metric=part["metric"].map(pattern.format)))
    try:
        layers = pd.read_csv(folder / "table7.csv").rename(columns={"top1": "published"})
        parts.append(layers.assign(metric="top1 " + layers["feature"].str.replace(*WHOLE)))
        text = pd.read_csv(folder / "text.csv").rename(columns={"value": "published"})
        about = text[text["task"] == TEXT]
        parts.append(about.assign(dataset=TEXT_DATASET, run=""))
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{folder}: not a readable table of the paper ({error})") from error
    names = [(each["dataset"], each["run"], each["metric"], each["published"]) for each in parts]
    return {
        (str(dataset), str(run), str(metric)): float(value)
        for columns in names
        for dataset, run, metric, value in zip(*columns, strict=True)
    }


def judge(statement: Statement, low: float, high: float) -> str:
    """Return the verdict that an interval gives, whatever its controls say."""
    if np.isnan(low) or np.isnan(high):
        return INCONCLUSIVE
    if statement.margin is not None:
        margin = statement.margin
        if -margin <= low and high <= margin:
            return REPRODUCED
        return CONTRADICTED if low > margin or high < -margin else INCONCLUSIVE
    if low <= 0 <= high:
        return INCONCLUSIVE
    return REPRODUCED if (low > 0) == (statement.expected == "more") else CONTRADICTED


def combined(target: Target, statement: Statement) -> dict[str, Seeds]:
    """Return the sum of a statement's terms by pre-training and seed, where all are there."""
    parts = [target.scores.get(name, {}) for name in statement.statistics]
    found: dict[str, Seeds] = {}
    for name in parts[0]:
        if all(name in part for part in parts):
            seeds = set.intersection(*(set(part[name]) for part in parts))
            found[name] = {seed: _sum(statement, parts, name, seed) for seed in sorted(seeds)}
    return {name: seeds for name, seeds in found.items() if seeds}


def _sum(
    statement: Statement, parts: Sequence[Mapping[str, Seeds]], name: str, seed: int
) -> Scores:
    terms = [
        (weight, part[name][seed]) for (weight, _), part in zip(statement.terms, parts, strict=True)
    ]
    return Scores(
        np.asarray(sum(weight * scores.value for weight, scores in terms)),
        np.asarray(sum(weight * scores.resampled for weight, scores in terms)),
        fewest(scores for _, scores in terms),
    )


def pairs(
    statement: Statement, found: Mapping[str, Seeds], design: Design
) -> list[tuple[str, str]]:
    """Return what a statement compares on a target, as (run, baseline), where both have scores."""
    if statement.against == "named":
        wanted = [statement.named] if statement.named else []
    elif statement.against == "alone":
        wanted = [(name, "") for name in design.starts]
    else:
        wanted = list(design.starts.items())
    return [pair for pair in wanted if all(name in found for name in pair if name)]


def spread_of(found: Mapping[str, Seeds], design: Design) -> Spread:
    """Return how far a statistic varies with the seed, over all but the untrained."""
    return spread(seeds for name, seeds in found.items() if name not in design.untrained)


def recipe_gap(found: Mapping[str, Seeds], run: str, over: Spread, design: Design) -> float:
    """Return how far two runs of one objective lie apart: a pre-training and its twin.

    Without a twin it is the typical difference between two fine-tunings of one pre-training.
    """
    twin = design.twins.get(run, "")
    return abs(effect(found[run], found[twin], over).value) if twin in found else over.gap


def published_effect(
    statement: Statement, dataset: str, run: str, baseline: str, published: Published
) -> float:
    """Return the paper's number for a row; NaN where it gives none."""
    if statement.published is not None:
        return statement.published
    direct = [published.get((dataset, "", name), np.nan) for name in statement.statistics]
    scores = [published.get((dataset, run, name), np.nan) for name in statement.statistics]
    if baseline:
        others = [published.get((dataset, baseline, name), np.nan) for name in statement.statistics]
        scores = [one - other for one, other in zip(scores, others, strict=True)]
    weights = [weight for weight, _ in statement.terms]
    total = float(np.dot(weights, scores))
    return float(np.dot(weights, direct)) if np.isnan(total) else total


def ledger(
    statements: Sequence[Statement],
    targets: Sequence[Target],
    design: Design,
    published: Published,
    controls: Sequence[Control],
) -> pd.DataFrame:
    """Return the claims, one row for each statement, target and pair of runs (see ``COLUMNS``)."""
    rows: list[dict[str, object]] = []
    for statement in statements:
        own = [
            row
            for target in targets
            if statement.dataset in (None, target.dataset)
            for row in rows_of(statement, target, design, published, controls)
        ]
        rows += own or [not_run(statement, published)]
    return pd.DataFrame(rows, columns=COLUMNS)


def not_run(statement: Statement, published: Published) -> dict[str, object]:
    """Return the row of a statement that the study cannot test, with the paper's own contrast."""
    row = {**_words(statement), "verdict": NOT_RUN, "reason": _missing(statement)}
    baseline = "" if statement.against == "alone" else BASELINE
    wanted = [statement.named] if statement.named else [(run, baseline) for run in DETECTORS]
    for dataset in dict.fromkeys(dataset for dataset, _, _ in published):
        for run, other in wanted:
            value = published_effect(statement, dataset, run, other, published)
            if value == value:
                place = {"dataset": dataset, "run": run, "baseline": other}
                return {**row, **place, "published": value}
    return row


def rows_of(
    statement: Statement,
    target: Target,
    design: Design,
    published: Published,
    controls: Sequence[Control],
) -> Iterator[dict[str, object]]:
    """Yield the rows of one statement on one target."""
    found = combined(target, statement)
    over = spread_of(found, design) if statement.seeded else FROZEN
    for run, baseline in pairs(statement, found, design):
        ours = effect(found[run], found[baseline] if baseline else None, over)
        verdict, reason = gated(statement, target, ours, (run, baseline), controls)
        gap = recipe_gap(found, run, over, design)
        row = {
            **_words(statement),
            "target": target.name,
            "dataset": target.dataset,
            "run": run,
            "baseline": baseline,
            "published": published_effect(statement, target.dataset, run, baseline, published),
            **_numbers(ours),
            "images": _images(target, [found[name] for name in (run, baseline) if name]),
            "seeds": ours.seeds,
            "verdict": verdict,
            "reason": reason,
            "recipe_gap": gap,
            "gaps": abs(ours.value) / gap if gap > 0 else np.nan,
            "detectable": ours.detectable,
            **_named_controls(statement, target, controls),
        }
        other = design.matched.get(run, "")
        if statement.against == "start" and other in found:
            matched = effect(found[run], found[other], over)
            numbers = {f"matched_{name}": value for name, value in _numbers(matched).items()}
            verdict, _ = gated(statement, target, matched, (run, other), controls)
            row |= {"matched": other, **numbers, "matched_verdict": verdict}
        yield row


def _images(target: Target, sides: Sequence[Seeds]) -> int:
    """Return how many images an effect rests on: those of the seed that has the fewest."""
    least = fewest(scores for seeds in sides for scores in seeds.values())
    return target.images if least is None else least


def gated(
    statement: Statement,
    target: Target,
    ours: Effect,
    runs: tuple[str, str],
    controls: Sequence[Control],
) -> tuple[str, str]:
    """Return the verdict and, unless it is the plain one of an interval, why."""
    failed = [c.name for c in _relevant(statement, target, controls) if not c.holds]
    unfit = sorted(
        {run for run in runs for name in statement.statistics if (name, run) in target.unfit}
    )
    reasons = [f"control {name} fails" for name in dict.fromkeys(failed)]
    reasons += [f"{run}: a training did not fit" for run in unfit]
    if reasons:
        return INVALID, "; ".join(reasons)
    if np.isnan(ours.detectable):
        alone = judge(statement, ours.low, ours.high)
        return INCONCLUSIVE, f"one seed: over the test images alone it would be {alone}"
    return judge(statement, ours.low, ours.high), ""


def _relevant(statement: Statement, target: Target, controls: Sequence[Control]) -> list[Control]:
    return [
        control
        for control in controls
        if control.name in statement.controls and control.target in ("", target.name)
    ]


def _named_controls(
    statement: Statement, target: Target, controls: Sequence[Control]
) -> dict[str, str]:
    """Return the statement's controls by what became of them."""
    relevant = _relevant(statement, target, controls)
    failed = {control.name for control in relevant if not control.holds}
    ran = {control.name for control in relevant}
    return {
        "controls_held": " ".join(n for n in statement.controls if n in ran - failed),
        "controls_failed": " ".join(n for n in statement.controls if n in failed),
        "controls_not_run": " ".join(n for n in statement.controls if n not in ran),
    }


def _words(statement: Statement) -> dict[str, object]:
    return {
        "claim": statement.id,
        "place": statement.place,
        "quantity": statement.quantity,
        "expected": statement.expected,
        "margin": statement.margin,
        "unit": statement.unit,
        "published": statement.published,
    }


def _numbers(ours: Effect) -> dict[str, object]:
    return {"effect": ours.value, "low": ours.low, "high": ours.high}


def _missing(statement: Statement) -> str:
    wanted = ", ".join(dict.fromkeys(statement.statistics))
    runs = " and ".join(statement.named) if statement.named else "a pre-training on detection"
    return f"the study has no {wanted} of {runs}"


COLUMNS = [
    "claim", "place", "quantity", "target", "dataset", "run", "baseline", "unit", "expected",
    "margin", "published", "effect", "low", "high", "images", "seeds", "verdict", "reason",
    "matched", "matched_effect", "matched_low", "matched_high", "matched_verdict",
    "recipe_gap", "gaps", "detectable", "controls_held", "controls_failed", "controls_not_run",
]  # fmt: skip
