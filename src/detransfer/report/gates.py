"""The controls as the page lists them: each with what became of it, and its lines."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

OUTCOMES = {"yes": "holds", "no": "fails", "not run": "not run", "printed": "printed"}
WORST_FIRST = ("fails", "holds", "not run", "printed")  # what was not run says nothing of the rest


@dataclass(frozen=True)
class Line:
    """A line of a control: what was measured on a target, what it must be, and what came of it.

    Numbers are None where there are none. ``origin`` names the group of runs that it belongs to
    (of the control, or of the target), where the page shows them.
    """

    target: str
    quantity: str
    value: float | None
    low: float | None
    high: float | None
    chance: float | None
    unit: str
    must: str
    outcome: str
    detail: str
    origin: str = ""


@dataclass(frozen=True)
class Gate:
    """A control: its worst outcome (of lines that were run, with a condition), and its lines."""

    name: str
    outcome: str
    lines: tuple[Line, ...]


def read_gates(table: pd.DataFrame, groups: Collection[str] = ()) -> list[Gate]:
    """Return the controls of a controls table (``controls.csv``), in its order.

    ``groups`` are the names under which the page shows runs.
    """
    gates = []
    for name, part in table.groupby("control", sort=False):
        lines = tuple(_line(row, groups) for row in part.to_dict("records"))
        outcomes = {line.outcome for line in lines}
        worst = next((each for each in WORST_FIRST if each in outcomes), "not run")
        gates.append(Gate(str(name), worst, lines))
    return gates


def _line(row: Mapping[Any, Any], groups: Collection[str]) -> Line:
    texts = {name: "" if pd.isna(row[name]) else str(row[name]) for name in row}
    places = (texts["control"], texts["target"])
    value, low, high, chance = (_number(row[name]) for name in ("value", "low", "high", "chance"))
    return Line(
        texts["target"],
        texts["quantity"],
        value,
        low,
        high,
        chance,
        texts["unit"],
        texts["must"],
        OUTCOMES.get(texts["holds"], texts["holds"]),
        texts["detail"],
        next((name for name in places if name in groups), ""),
    )


def _number(value: Any) -> float | None:
    number = pd.to_numeric(value, errors="coerce")
    return None if pd.isna(number) else float(number)
