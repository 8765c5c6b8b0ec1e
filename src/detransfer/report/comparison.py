"""Tables as the paper prints them: our numbers, the paper's beside them, and how they differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from scipy import stats

from detransfer.report.bootstrap import LEVEL

Place = tuple[tuple[str, ...], tuple[str, ...]]  # the names of a row and of a column
ABOVE, BELOW, WITHIN, UNTESTED = "above", "below", "within", "untested"


@dataclass(frozen=True)
class Cell:
    """One number of a table: ours over ``n`` seeds (0: not run), and the paper's if it has one.

    ``apart`` says whether they differ by more than seeds do (see :func:`apart`); it is empty where
    one of them is missing. ``low`` and ``high`` are an interval over images, where the table has
    one. ``target`` and ``run`` name the runs behind the number.
    """

    mean: float | None
    std: float | None
    n: int
    published: float | None
    difference: float | None
    apart: str
    target: str
    run: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Layout:
    """How a tidy table is laid out: which of its columns name the rows, and which the columns.

    ``where`` keeps the rows of the tidy table that have one of the values given for a column.
    ``interval`` are the metrics whose means are the bounds of the metric that ``where`` keeps;
    without them, the table's columns ``low`` and ``high`` are, if it has them.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    where: Mapping[str, Sequence[str]]
    interval: tuple[str, str] | None = None


@dataclass(frozen=True)
class Grid:
    """A table to print: names of columns and rows (each a tuple), and its cells by both."""

    columns: list[tuple[str, ...]]
    rows: list[tuple[str, ...]]
    cells: dict[Place, Cell]

    def cell(self, row: tuple[str, ...], column: tuple[str, ...]) -> Cell | None:
        return self.cells.get((row, column))


def apart(difference: float | None, std: float | None, n: int) -> str:
    """Say whether a published number lies outside of what seeds explain.

    It is ``above`` or ``below`` (ours against the paper's) where a further run of ours would lie as
    far from the mean of our ``n`` runs in fewer than one of twenty cases: outside the prediction
    interval of one normal observation, t * std * sqrt(1 + 1/n). Otherwise it is ``within``. One run
    cannot be tested.
    """
    if difference is None:
        return ""
    if n < 2 or std is None:
        return UNTESTED
    limit = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * std * math.sqrt(1 + 1 / n)
    if abs(difference) <= limit:
        return WITHIN
    return ABOVE if difference > 0 else BELOW


def lay_out(table: pd.DataFrame, layout: Layout) -> Grid:
    """Lay a tidy table out in rows and columns, both in the order of the table.

    A published number of a data set that the study has no target on names its column by the data
    set. What is empty in the table is None in the cell.
    """
    table = table.assign(target=table["target"].fillna(table["dataset"]))
    kept = table
    for name, values in layout.where.items():
        kept = kept[kept[name].isin(values)]
    found: dict[Place, Cell] = {}
    for row in kept.to_dict("records"):
        place = _key(row, layout.rows), _key(row, layout.columns)
        low, high = _bounds(table, layout, row)
        difference = _number(row.get("difference"))
        std, n = _number(row["std"]), int(row["n"])
        found[place] = Cell(
            mean=_number(row["mean"]),
            std=std,
            n=n,
            published=_number(row.get("published")),
            difference=difference,
            apart=apart(difference, std, n),
            target=row["target"],
            run=row["run"],
            low=low,
            high=high,
        )
    rows, columns = (list(dict.fromkeys(place[side] for place in found)) for side in (0, 1))
    return Grid(columns, rows, found)


def _bounds(
    table: pd.DataFrame, layout: Layout, row: Mapping[Any, Any]
) -> tuple[float | None, float | None]:
    if layout.interval is None:
        return _number(row.get("low")), _number(row.get("high"))
    names = [*layout.rows, *(name for name in layout.columns if name != "metric")]
    same = pd.Series(True, table.index)
    for name in names:
        same &= table[name] == row[name]
    means = table[same].set_index("metric")["mean"]
    low, high = (_number(means.get(name)) for name in layout.interval)
    return low, high


def _key(row: Mapping[Any, Any], names: Sequence[str]) -> tuple[str, ...]:
    return tuple(_text(row[name]) for name in names)


def _text(value: Any) -> str:
    """Return a name or a whole number (a float where the table has gaps) as text."""
    if pd.isna(value):
        return ""
    return f"{value:.0f}" if isinstance(value, float) else str(value)


def _number(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)
