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

One row for each target (and its data set), run (pre-training) and metric: mean and sample deviation
over the seeds, their number n, the images that each number rests on, its floor, the number that is
published for the data set, who measured that, and our mean minus it. Published numbers without a
run of ours stay, with n = 0. Runs of one target that were not measured alike are refused.
"""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="METRICS", help="metrics.json files")
    parser.add_argument("--metrics", nargs="+", required=True, help="names, in the table's order")
    parser.add_argument("--published", type=Path, required=True, help="CSV of the paper's numbers")
    parser.add_argument("--output", type=Path, required=True, help="CSV to write")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    summary = summarise([read_metrics(path) for path in arguments.runs], arguments.metrics)
    table = join_published(summary, read_published(arguments.published))
    write_table(arguments.output, table)


if __name__ == "__main__":
    run(main)
