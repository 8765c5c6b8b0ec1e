"""Accuracy of frozen features by the size of the image, and of its objects where they are known."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from detransfer.console import InputError, run
from detransfer.data.index import Index, read_index
from detransfer.report.groups import groups
from detransfer.report.metrics import RunMetrics, check_comparable, read_metrics
from detransfer.report.tables import write_table

DESCRIPTION = """\
Accuracy of frozen features by the size of the image, and of its objects where they are known.

One row for each target, run (pre-training) and group of test images: by image_size (square root of
the area in pixels, in quarters of the test images), by object_share (the largest object's, square
root of its share of the image's area), and by objects (how many there are). A group goes from low
(included) to high (not included; empty: no end); images is what a number rests on, mean and std are
top-1 in percent over n seeds.
"""
KEY = ["dataset", "target", "run", "by", "low", "high"]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="METRICS", help="metrics.json, predictions beside it")
    add(
        "--target",
        nargs=3,
        action="append",
        required=True,
        metavar=("NAME", "INDEX", "SPLIT"),
        help="a target of the runs: the folder of its index, and the split that was tested on",
    )
    add("--output", type=Path, required=True, help="CSV to write")
    return parser.parse_args()


def accuracies(metrics: RunMetrics, predictions: Path, index: Index) -> Iterator[dict[str, object]]:
    """Yield the accuracy of one run in every group that has an image."""
    table = pd.read_parquet(predictions)
    row = pd.Index(index.images["image_id"]).get_indexer(pd.Index(table["image_id"]))
    if (row < 0).any():
        raise InputError(f"{predictions}: has images that {index.root} does not; score it again")
    right = (table["class_id"] == table["predicted"]).to_numpy()
    name = metrics.run
    for group in groups(index):
        inside = right[group.inside[row]]
        if len(inside):
            yield {
                "dataset": name.dataset,
                "target": name.target,
                "run": name.pretraining,
                "by": group.by,
                "low": group.low,
                "high": group.high,
                "images": len(inside),
                "top1": 100 * inside.mean(),
            }


def main() -> None:
    arguments = parse()
    indices = {name: read_index(Path(f)).split(split) for name, f, split in arguments.target}
    runs = [(read_metrics(path), path.with_name("predictions.parquet")) for path in arguments.runs]
    rows: list[dict[str, object]] = []
    for target in sorted({metrics.run.target for metrics, _ in runs}):
        if target not in indices:
            raise InputError(f"{target}: name its index with --target")
        own = [(metrics, path) for metrics, path in runs if metrics.run.target == target]
        check_comparable([metrics for metrics, _ in own])
        for metrics, path in own:
            rows.extend(accuracies(metrics, path, indices[target]))
    table = pd.DataFrame(rows).replace({"high": {np.inf: np.nan}})
    summary = table.groupby(KEY, sort=False, dropna=False).agg(
        images=("images", "first"), mean=("top1", "mean"), std=("top1", "std"), n=("top1", "size")
    )
    write_table(arguments.output, summary.reset_index().sort_values(KEY, kind="stable"))


if __name__ == "__main__":
    run(main)
