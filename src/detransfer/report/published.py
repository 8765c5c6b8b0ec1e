"""The paper's numbers, as they lie in config/published, in one tidy form."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from detransfer.console import InputError

COLUMNS = ["dataset", "run", "metric", "published", "measured_by"]
KEYS = ["dataset", "run", "measured_by"]
UNIT = "%"  # of every number in the published tables


def read_published(path: Path) -> pd.DataFrame:
    """Read a published table into the columns ``dataset run metric published measured_by``.

    The file has the columns ``run`` and ``dataset``, and either ``metric`` and ``value`` or one
    column a metric. ``measured_by`` is ``authors`` (also where the file does not say it) or
    ``cited``. The file's order of rows is kept.

    Raises InputError for a file that is missing or of another form, a number that is none, and a
    row that stands there twice.
    """
    try:
        table = pd.read_csv(path)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"{path}: not a readable table ({error})") from error
    for name in ("run", "dataset"):
        if name not in table:
            columns = ", ".join(table.columns)
            raise InputError(f"{path}: no column {name!r}; its columns are {columns}")
    if "measured_by" not in table:
        table["measured_by"] = "authors"
    tidy = _tidy(table, path)
    numbers = pd.to_numeric(tidy["published"], errors="coerce")
    _refuse(path, tidy, numbers.isna(), "its value is no number")
    _refuse(path, tidy, tidy.duplicated(["dataset", "run", "metric"]), "stands there twice")
    return tidy.assign(published=numbers.astype(float))[COLUMNS]


def _tidy(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    if "metric" in table and "value" in table:
        return table.rename(columns={"value": "published"})
    metrics = [name for name in table if name not in KEYS]
    if not metrics:
        raise InputError(f"{path}: no column with a number; give 'metric' and 'value'")
    stacked = table.reset_index().melt(
        [*KEYS, "index"], metrics, var_name="metric", value_name="published"
    )
    return stacked.sort_values("index", kind="stable", ignore_index=True)


def _refuse(path: Path, tidy: pd.DataFrame, wrong: pd.Series, reason: str) -> None:
    if wrong.any():
        row = tidy[wrong].iloc[0]
        raise InputError(f"{path}: {row['metric']} of {row['run']} on {row['dataset']}: {reason}")
