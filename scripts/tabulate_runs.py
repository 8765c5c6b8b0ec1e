"""Gather the metrics.json of many runs into one table, with the paper's numbers beside ours."""

from __future__ import annotations

import argparse
from pathlib import Path

from detransfer.console import run
from detransfer.report.metrics import read_metrics
from detransfer.report.published import read_published
from detransfer.report.tables import join_published, summarise, write_table

DESCRIPTION = """\
Gather the metrics.json of many runs into one table, with the paper's numbers beside ours.

One row for each data set, run (pre-training) and metric: mean and sample deviation over the seeds,
their number n, the images that each number rests on, its floor, the published number, who measured
that, and our mean minus it. Published numbers without a run of ours stay, with n = 0. Runs that
were not measured alike are refused.
"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="METRICS", help="metrics.json files")
    parser.add_argument("--metrics", nargs="+", required=True, help="names, in the table's order")
    parser.add_argument("--published", type=Path, required=True, help="CSV of the paper's numbers")
    parser.add_argument("--output", type=Path, required=True, help="CSV to write")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    summary = summarise([read_metrics(path) for path in arguments.runs], arguments.metrics)
    datasets = list(summary["dataset"].unique())
    published = read_published(arguments.published, datasets[0] if len(datasets) == 1 else None)
    write_table(arguments.output, join_published(summary, published))


if __name__ == "__main__":
    run(main)
