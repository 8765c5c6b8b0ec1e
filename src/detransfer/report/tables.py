"""Tables over runs: mean and deviation over seeds, with the paper's numbers beside ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from detransfer.console import InputError
from detransfer.files import atomic
from detransfer.report.metrics import Metric, RunMetrics, check_comparable
from detransfer.report.published import UNIT

KEY = ["dataset", "target", "run", "metric"]  # in the order of sorting
COLUMNS = [
    "target",
    "dataset",
    "run",
    "metric",
    "unit",
    "mean",
    "std",
    "n",
    "images",
    "floor",
    "published",
    "measured_by",
    "difference",
]
BASELINE = "random"


def summarise(runs: Sequence[RunMetrics], names: Sequence[str]) -> pd.DataFrame:
    """Return one row for each target, pre-training (``run``) and metric of ``names``.

    Columns: ``dataset target run metric unit mean std n images floor``, where ``n`` counts seeds,
    ``std`` is the sample deviation over them (ddof 1, missing for one seed), ``images`` is what
    one seed's number rests on, and ``floor`` is missing where none is defined. A target of which
    no run has a metric has no row for it.

    Raises InputError for runs that are not comparable within a target, for a run given twice, for
    a metric that only some runs of a target have, and for one that no run has.
    """
    if not runs:
        raise InputError("no run to tabulate; name at least one metrics.json")
    _check_runs(runs)
    rows = [
        {
            "dataset": run.run.dataset,
            "target": run.run.target,
            "run": run.run.pretraining,
            "metric": metric.name,
            "unit": metric.unit,
            "value": metric.value,
            "images": metric.n,
            "floor": metric.floor,
        }
        for run, metric in _metrics(runs, names)
    ]
    table = pd.DataFrame(rows).astype({"floor": float})
    # Sorted first, so that the last digit of a mean does not depend on the order of the files.
    values = table.sort_values([*KEY, "value"]).groupby(KEY, sort=False)
    for column in ("unit", "images"):
        mixed = values[column].nunique()
        if (mixed > 1).any():
            _, *place = mixed[mixed > 1].index[0]
            raise InputError(f"{'/'.join(place)}: seeds differ in {column}")
    table = values.agg(
        unit=("unit", "first"),
        mean=("value", "mean"),
        std=("value", "std"),
        n=("value", "size"),
        images=("images", "first"),
        floor=("floor", "mean"),
    ).reset_index()
    return _sorted(table, {"metric": list(names)})


def join_published(summary: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Put the paper's numbers beside a summary; ``difference`` is our mean minus the paper's.

    Published numbers stand beside every target on their data set, and beside no other. A published
    row without a run of ours stays, with n = 0 and our columns empty (a cited number, or a run that
    is missing); its ``target`` is empty where no target is on its data set. Of pre-trainings that
    are their own targets, published numbers stand beside the one of that name alone. A run that
    the paper does not have has an empty ``published``. Rows follow the published order of data
    sets and runs; then come ``random`` and other runs, and other data sets, by name.

    Raises InputError where our unit is not that of the published numbers.
    """
    targets = summary[["dataset", "target"]].drop_duplicates()
    published = published[published["metric"].isin(summary["metric"])]
    published = published.merge(targets, on="dataset", how="left")
    if (summary["target"] == summary["run"]).all():  # pre-trainings: each is its own target
        own = published["run"].where(published["run"].isin(summary["run"]))
        published = published.assign(target=own).drop_duplicates()
    table = summary.merge(published, on=KEY, how="outer")
    other = table[table["published"].notna() & table["unit"].notna() & (table["unit"] != UNIT)]
    if len(other):
        row = other.iloc[0]
        raise InputError(
            f"{row['target']}/{row['run']}: {row['metric']} is in {row['unit']!r}, the published "
            f"numbers are in {UNIT!r}"
        )
    table["unit"] = table["unit"].fillna(UNIT)
    table["n"] = table["n"].fillna(0).astype(int)
    table["images"] = table["images"].astype("Int64")
    table["difference"] = table["mean"] - table["published"]
    known = {
        "dataset": list(published["dataset"].unique()),
        "run": [*published["run"].unique(), BASELINE],
        "metric": list(summary["metric"].unique()),
    }
    return _sorted(table, known)[COLUMNS]


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV with six significant digits; equal tables give equal bytes."""
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")


def _check_runs(runs: Sequence[RunMetrics]) -> None:
    names = [run.run for run in runs]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"{twice[0]}: this run is given twice; name each metrics.json once")
    for target in sorted({name.target for name in names}):
        same = [run for run in runs if run.run.target == target]
        for what, values in (
            ("tasks", sorted({run.run.task for run in same})),
            ("data sets", sorted({run.run.dataset for run in same})),
        ):
            if len(values) > 1:
                raise InputError(f"{target}: runs of two {what} ({values[0]}, {values[1]})")
        check_comparable(same)


def _metrics(
    runs: Sequence[RunMetrics], names: Sequence[str]
) -> Iterator[tuple[RunMetrics, Metric]]:
    """Yield the metrics of ``names`` that the targets have, each with its run."""
    for name in names:
        having = {run.run.target for run in runs if name in {each.name for each in run.metrics}}
        for run in runs:
            if run.run.target in having or not having:
                yield run, run.metric(name)  # raises, with the names that there are, if it has none


def _sorted(table: pd.DataFrame, known: dict[str, list[str]]) -> pd.DataFrame:
    """Sort by ``KEY``; of each column the known values in their order, then the others by name."""
    places = pd.DataFrame({name: _places(table[name], known.get(name, [])) for name in KEY})
    return table.loc[places.sort_values(KEY).index].reset_index(drop=True)


def _places(values: pd.Series, known: list[str]) -> pd.Series:
    order = dict.fromkeys([*known, *sorted(set(values.dropna()))])
    return values.map({name: place for place, name in enumerate(order)})
