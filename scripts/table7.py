"""Table 7: linear probes of the layers of a detection head, from its entrance to its exit."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from detransfer.console import InputError, run
from detransfer.report.metrics import RunMetrics, read_metrics
from detransfer.report.published import UNIT
from detransfer.report.tables import summarise, write_table

DESCRIPTION = """\
Table 7: linear probes of the layers of a detection head, from its entrance to its exit.

One row for each target (and its data set), run (pre-training), layer (feature) and metric: the
layer's dimension, mean and sample deviation over the seeds, their number n, the images that each
number rests on, its floor, the number that is published for this run on the data set, and our mean
minus it. Published rows without a run of ours stay, with n = 0.
"""
METRICS = ["top1", "top1_low", "top1_high"]
KEY = ["target", "dataset", "run", "feature", "metric"]
COLUMNS = ["target", "dataset", "run", "feature", "dimension", "metric", "unit", "mean", "std", "n",
           "images", "floor", "published", "difference"]  # fmt: skip


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="METRICS", help="metrics.json files")
    parser.add_argument("--published", type=Path, required=True, help="CSV of the paper's numbers")
    parser.add_argument("--output", type=Path, required=True, help="CSV to write")
    return parser.parse_args()


def summarise_layer(feature: str, runs: list[RunMetrics]) -> pd.DataFrame:
    """Return the rows of one layer; its dimension may differ between heads."""
    dimensions = {run.run.pretraining: run.fit["dimension"] for run in runs}
    table = summarise(runs, METRICS)
    return table.assign(feature=feature, dimension=table["run"].map(dimensions))


def read_published_layers(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
        wanted = table[["run", "dataset", "feature", "dimension", "top1"]]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not a readable table of layers ({error})") from error
    return wanted.rename(columns={"top1": "published"}).assign(metric="top1", unit=UNIT)


def main() -> None:
    arguments = parse()
    layers: dict[str, list[RunMetrics]] = {}
    for path in arguments.runs:
        metrics = read_metrics(path)
        layers.setdefault(metrics.run.task.rpartition("/")[2], []).append(metrics)
    ours = pd.concat([summarise_layer(name, runs) for name, runs in layers.items()])
    targets = ours[["dataset", "target"]].drop_duplicates()
    published = read_published_layers(arguments.published).merge(targets, "left", "dataset")
    table = ours.merge(published, on=KEY, how="outer", suffixes=("", "_published"))
    for name in ("dimension", "unit"):
        table[name] = table[name].fillna(table[f"{name}_published"])
    table["n"] = table["n"].fillna(0).astype(int)
    for name in ("dimension", "images"):
        table[name] = table[name].astype("Int64")
    table["difference"] = table["mean"] - table["published"]
    # Each head from its entrance to its exit: the order in which the runs are given.
    names = dict.fromkeys([*layers, *published["feature"]])
    place = {name: number for number, name in enumerate(names)}
    keys = pd.DataFrame(
        {
            "target": table["target"].fillna(""),
            "run": table["run"],
            "feature": table["feature"].map(place),
            "metric": table["metric"].map(METRICS.index),
        }
    )
    order = keys.sort_values(["target", "run", "feature", "metric"]).index
    write_table(arguments.output, table.reindex(order)[COLUMNS])


if __name__ == "__main__":
    run(main)
