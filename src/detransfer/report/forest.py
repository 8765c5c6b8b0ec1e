"""The claims as a forest plot: what each statement's row shows, and where on its axis.

Positions are percentages of the axis' width, so that the plot fits a phone and a wide screen alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

VERDICTS = ("reproduced", "contradicted", "inconclusive", "invalid", "not run")
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)  # times a power of ten: distances between ticks
TICKS = 4  # at most so many steps on one side of zero
REACH = 2.5  # an interval is cut where it leaves so many times the largest effect


@dataclass(frozen=True)
class Interval:
    """An effect with its 95 % interval, and what a verdict makes of it."""

    effect: float
    low: float
    high: float
    verdict: str


@dataclass(frozen=True)
class Row:
    """One line of the plot: a run less its baseline on one target.

    ``ours`` is the paper's contrast, ``matched`` the same less the control without boxes, each with
    the run that it is compared with. Either is None where it was not run.
    """

    target: str
    run: str
    baseline: str
    published: float | None
    ours: Interval | None
    verdict: str
    reason: str
    matched: Interval | None
    control: str
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Axis:
    """A symmetric axis of a statement: its end, and its ticks with their labels."""

    end: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """Return the place of a value in percent of the width; beyond the ends, the end."""
        return round(50 + 50 * max(-1.0, min(1.0, value / self.end)), 2)

    def beyond(self, value: float) -> bool:
        return abs(value) > self.end


@dataclass(frozen=True)
class Statement:
    """A statement of the paper with its rows, which share an axis."""

    claim: str
    place: str
    quantity: str
    expected: str
    margin: float | None
    unit: str
    axis: Axis
    rows: tuple[Row, ...]

    @property
    def plotted(self) -> bool:
        return any(row.ours for row in self.rows)

    @property
    def matched(self) -> bool:
        return any(row.matched for row in self.rows)


def read_statements(table: pd.DataFrame) -> list[Statement]:
    """Return the statements of a claims table (``claims.csv``), in its order."""
    statements = []
    for claim, part in table.groupby("claim", sort=False):
        first = part.iloc[0]
        rows = tuple(_row(row) for row in part.to_dict("records"))
        margin = _number(first["margin"])
        statements.append(
            Statement(
                str(claim),
                _text(first["place"]),
                _text(first["quantity"]),
                _text(first["expected"]),
                margin,
                _text(first["unit"]),
                axis_of(rows, margin),
                rows,
            )
        )
    return statements


def sections(statements: Iterable[Statement]) -> dict[str, list[Statement]]:
    """Return the statements by the section of the paper, which their place begins with."""
    found: dict[str, list[Statement]] = {}
    for statement in statements:
        found.setdefault(statement.place.partition(",")[0], []).append(statement)
    return found


def counted(statements: Iterable[Statement]) -> dict[str, int]:
    """Return how many rows have each verdict, in the order of ``VERDICTS``."""
    verdicts = [row.verdict for statement in statements for row in statement.rows]
    return {name: verdicts.count(name) for name in VERDICTS if name in verdicts}


def axis_of(rows: Sequence[Row], margin: float | None = None) -> Axis:
    """Return the axis of some rows: all effects are on it, and intervals unless very wide."""
    effects = [abs(row.published) for row in rows if row.published is not None]
    ends: list[float] = []
    for row in rows:
        for interval in (row.ours, row.matched):
            if interval is not None:
                effects.append(abs(interval.effect))
                ends += [abs(value) for value in (interval.low, interval.high)]
    largest = max([margin or 0.0, *effects])
    wanted = max([largest, min(max(ends, default=0.0), REACH * largest)]) if largest else 0.0
    wanted = wanted or max(ends, default=0.0) or 1.0
    step = _step(wanted / TICKS)
    number = math.ceil(wanted / step - 1e-9)
    half = max(1, math.ceil(number / 2))  # two ticks on a side: more do not fit a phone
    return Axis(2 * half * step, tuple(step * half * place for place in (-2, -1, 0, 1, 2)))


def _step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in STEPS if step * power >= least * (1 - 1e-9))


def _row(row: Mapping[Any, Any]) -> Row:
    return Row(
        target=_text(row["target"]),
        run=_text(row["run"]),
        baseline=_text(row["baseline"]),
        published=_number(row["published"]),
        ours=_interval(row, "", row["verdict"]),
        verdict=_text(row["verdict"]),
        reason=_text(row["reason"]),
        matched=_interval(row, "matched_", row["matched_verdict"]),
        control=_text(row["matched"]),
        facts={name: row[name] for name in row if pd.notna(row[name]) and row[name] != ""},
    )


def _interval(row: Mapping[Any, Any], prefix: str, verdict: object) -> Interval | None:
    effect, low, high = (_number(row[f"{prefix}{name}"]) for name in ("effect", "low", "high"))
    if effect is None:
        return None
    # Without an interval the effect stands alone.
    low, high = (effect if end is None else end for end in (low, high))
    return Interval(effect, low, high, _text(verdict))


def _number(value: Any) -> float | None:
    return None if value is None or value == "" or pd.isna(value) else float(value)


def _text(value: Any) -> str:
    return "" if value is None or pd.isna(value) else str(value)
