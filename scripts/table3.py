"""Table 3: the share of occluded objects that a detector misses, by pre-training."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from detransfer.console import run
from detransfer.report.metrics import RunMetrics, read_metrics
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


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="DIAGNOSIS", help="diagnosis.json of detection runs")
    add("--published", type=Path, required=True, help="CSV of the paper's numbers")
    add("--output", type=Path, required=True, help="CSV to write")
    return parser.parse_args()


def summarise_each(runs: list[RunMetrics]) -> pd.DataFrame:
    """Summarise data set by data set, since not every one has occlusion levels."""
    parts = []
    for dataset in sorted({each.run.dataset for each in runs}):
        same = [each for each in runs if each.run.dataset == dataset]
        parts.append(summarise(same, [metric.name for metric in same[0].metrics]))
    return pd.concat(parts, ignore_index=True)


def split_names(table: pd.DataFrame) -> pd.DataFrame:
    """Replace ``missed@low/all`` by columns ``occlusion`` and ``classes``; count objects."""
    names = table["metric"].str.removeprefix("missed@").str.partition("/")
    place = list(table.columns).index("metric")
    table = table.drop(columns="metric").rename(columns={"images": "objects"})
    table.insert(place, "occlusion", names[0])
    table.insert(place + 1, "classes", names[2].map(CLASSES))
    return table


def main() -> None:
    arguments = parse_arguments()
    summary = summarise_each([read_metrics(path) for path in arguments.runs])
    datasets = list(summary["dataset"].unique())
    published = read_published(arguments.published, datasets[0] if len(datasets) == 1 else None)
    write_table(arguments.output, split_names(join_published(summary, published)))


if __name__ == "__main__":
    run(main)
