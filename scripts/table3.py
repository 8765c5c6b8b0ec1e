"""Table 3: the share of occluded objects that a detector misses, by pre-training."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from detransfer.console import run
from detransfer.report.metrics import read_metrics
from detransfer.report.published import read_published
from detransfer.report.tables import join_published, summarise, write_table

DESCRIPTION = """\
Table 3: the percentage of objects that a detector misses, by pre-training and occlusion, mean and
sample deviation over the seeds, with the paper's numbers beside ours.

Low: labelled as occluded by 1 % or more, or cut by the frame; medium: by 10 % or more, or cut (both
as in Hoiem's tool). The column `classes` says how classes are put together, which the paper does
not: `labelled` (all objects of the classes that have occlusion levels, the main figure),
`labelled_mean` (mean over these classes), `all` (all objects of all classes, those without levels
by truncation alone). Where a data set has no levels, what is known by truncation alone remains.
"""
CLASSES = {"": "labelled", "mean": "labelled_mean", "all": "all"}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="DIAGNOSIS", help="diagnosis.json of detection runs")
    add("--published", type=Path, required=True, help="CSV of the paper's numbers")
    add("--output", type=Path, required=True, help="CSV to write")
    return parser.parse_args()


def split_names(table: pd.DataFrame) -> pd.DataFrame:
    """Replace ``missed@low/all`` by columns ``occlusion`` and ``classes``; count objects."""
    names = table["metric"].str.removeprefix("missed@").str.partition("/")
    place = list(table.columns).index("metric")
    table = table.drop(columns="metric").rename(columns={"images": "objects"})
    table.insert(place, "occlusion", names[0])
    table.insert(place + 1, "classes", names[2].map(CLASSES))
    return table


def main() -> None:
    arguments = parse()
    runs = [read_metrics(path) for path in arguments.runs]
    # Not every data set has occlusion levels, and so every metric.
    names = list(dict.fromkeys(metric.name for each in runs for metric in each.metrics))
    table = join_published(summarise(runs, names), read_published(arguments.published))
    write_table(arguments.output, split_names(table))


if __name__ == "__main__":
    run(main)
