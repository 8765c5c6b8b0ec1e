"""controls.csv: what must hold before a verdict counts, one line a control, target and quantity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import special

from detransfer.console import InputError
from detransfer.report.claims import Control

COLUMNS = ["control", "target", "quantity", "value", "low", "high", "chance", "unit", "must",
           "holds", "detail"]  # fmt: skip
YES, NO, PRINTED, NOT_RUN = "yes", "no", "printed", "not run"
DEALS = 2000
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


CHANCE = "chance lies in the interval"
Answers = tuple[np.ndarray, np.ndarray]  # true and answered classes, each (n,)


def one_run(answers: Answers) -> Chance:
    """Return how often the answers of a run are right.

    The interval is that of answers which say nothing of the image: the same answers, dealt out
    among the images at random.
    """
    rng = np.random.default_rng(0)
    truth, answered = answers
    draws = [100 * (truth == rng.permutation(answered)).mean() for _ in range(DEALS)]
    value, chance = 100 * float((truth == answered).mean()), float(np.mean(draws))
    low, high = np.quantile(draws, [0.025, 0.975])
    return Chance(value, value - (high - chance), value + (chance - low), chance)


def several_runs(answers: Sequence[Answers]) -> Chance:
    """Return the mean over two or more independent runs, with Student's interval.

    What single runs get right says less than it seems where whole classes are answered alike.
    """
    found = [one_run(each) for each in answers]
    values = np.array([each.value for each in found])
    error = values.std(ddof=1) / np.sqrt(len(values))
    half = float(special.stdtrit(len(values) - 1, 0.975) * error)
    mean = float(values.mean())
    return Chance(mean, mean - half, mean + half, float(np.mean([each.chance for each in found])))


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
        "must": "no better than chance" if worse else CHANCE,
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
