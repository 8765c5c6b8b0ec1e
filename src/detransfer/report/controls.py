"""controls.csv: what must hold before a verdict counts, one line a control, target and quantity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from detransfer.console import InputError
from detransfer.report.claims import Control

COLUMNS = ["control", "target", "quantity", "value", "low", "high", "chance", "unit", "must",
           "holds", "detail"]  # fmt: skip
YES, NO, PRINTED, NOT_RUN = "yes", "no", "printed", "not run"
RELABELLINGS = 2000
ROUNDING = 1e-6  # points
Row = dict[str, object]


@dataclass(frozen=True)
class Chance:
    """An accuracy in percent with its 95 % interval, and the accuracy of chance."""

    value: float
    low: float
    high: float
    chance: float

    @property
    def as_chance(self) -> bool:
        return self.no_better and self.chance <= self.high + ROUNDING

    @property
    def no_better(self) -> bool:
        return self.low <= self.chance + ROUNDING


def share_interval(answers: Sequence[tuple[np.ndarray, np.ndarray]], seed: int = 0) -> Chance:
    """Return how often answers are right, over runs of (true, answered) classes, each (n,).

    The interval is that of answers which say nothing of the class: it comes from giving the
    answered classes other names, at random, which keeps that images of a class get like answers.
    """
    rng = np.random.default_rng(seed)
    draws, values = np.zeros(RELABELLINGS), []
    for truth, answered in answers:
        names, places = np.unique(np.concatenate([truth, answered]), return_inverse=True)
        table = np.zeros((len(names), len(names)))
        np.add.at(table, (places[: len(truth)], places[len(truth) :]), 1)
        values.append(100 * np.trace(table) / len(truth))
        for draw in range(RELABELLINGS):
            draws[draw] += table[np.arange(len(names)), rng.permutation(len(names))].sum()
    draws *= 100 / sum(len(truth) for truth, _ in answers)
    value, chance = float(np.mean(values)), float(draws.mean())
    low, high = np.quantile(draws, [0.025, 0.975])
    return Chance(value, value - (high - chance), value + (chance - low), chance)


def outcome(
    control: str, target: str, quantity: str, found: Chance, detail: str = "", worse: bool = False
) -> Row:
    """Return the line of an accuracy that must be that of chance; it may be ``worse``, if said."""
    holds = found.no_better if worse else found.as_chance
    return {
        "control": control,
        "target": target,
        "quantity": quantity,
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "chance": found.chance,
        "unit": "%",
        "must": "no better than chance" if worse else "chance lies in the interval",
        "holds": YES if holds else NO,
        "detail": detail,
    }


def line(
    control: str,
    target: str,
    quantity: str,
    value: float,
    must: str = "",
    holds: bool | None = None,
    unit: str = "%",
    detail: str = "",
    low: float = np.nan,
    high: float = np.nan,
) -> Row:
    """Return a line; without a condition it is only printed."""
    verdict = PRINTED if holds is None else YES if holds else NO
    return {
        "control": control,
        "target": target,
        "quantity": quantity,
        "value": value,
        "low": low,
        "high": high,
        "unit": unit,
        "must": must,
        "holds": verdict,
        "detail": detail,
    }


def not_run(control: str, must: str, command: str) -> Row:
    """Return the line of a control that nobody has run, with the command that does."""
    return {"control": control, "must": must, "holds": NOT_RUN, "detail": f"run `{command}`"}


def read_controls(path: Path) -> pd.DataFrame:
    """Read lines of controls; raises InputError for another file."""
    try:
        return pd.read_csv(path, keep_default_na=False, na_values={"value": [""]})[COLUMNS]
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{path}: not a readable table of controls ({error})") from error


def verdicts(table: pd.DataFrame) -> list[Control]:
    """Return what the lines say that have a condition and were run."""
    ran = table[table["holds"].isin([YES, NO])].fillna({"target": ""})
    columns = ran["control"], ran["target"], ran["holds"] == YES
    return [Control(str(c), str(t), bool(h)) for c, t, h in zip(*columns, strict=True)]
