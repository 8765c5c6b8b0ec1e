"""Accuracy of frozen features by the size of the image, and of its objects where they are known."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from detransfer.console import InputError, run
from detransfer.data.index import Index, read_index
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
SHARES = [0.0, 0.25, 0.5, 0.75, np.inf]
COUNTS = [1, 2, 3, 5, np.inf]
QUARTERS = [0.25, 0.5, 0.75]
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


def traits(index: Index) -> dict[str, np.ndarray]:
    """Return, for each image of an index, what it is grouped by."""
    area = index.images["width"].to_numpy(float) * index.images["height"].to_numpy(float)
    found = {"image_size": np.sqrt(area)}
    index = index.in_order()
    objects = index.objects[~index.objects[["difficult", "crowd", "group_of"]].any(axis=1)]
    if not len(objects):
        return found
    size = (objects["x2"] - objects["x1"]) * (objects["y2"] - objects["y1"])
    of_image = size.groupby(objects["image_id"]).agg(["max", "size"])
    of_image = of_image.reindex(index.images["image_id"])
    found["object_share"] = np.sqrt(of_image["max"].to_numpy() / area)
    found["objects"] = of_image["size"].to_numpy()
    return found


def edges(name: str, values: np.ndarray) -> list[float]:
    """Return the borders of the groups, the last of them infinite."""
    if name == "image_size":
        return [0.0, *np.unique(np.ceil(np.quantile(values, QUARTERS))), np.inf]
    return SHARES if name == "object_share" else COUNTS


def groups(metrics: RunMetrics, predictions: Path, index: Index) -> Iterator[dict[str, object]]:
    """Yield the accuracy of one run in every group that has an image."""
    table = pd.read_parquet(predictions)
    row = pd.Index(index.images["image_id"]).get_indexer(pd.Index(table["image_id"]))
    if (row < 0).any():
        raise InputError(f"{predictions}: has images that {index.root} does not; score it again")
    right = (table["class_id"] == table["predicted"]).to_numpy()
    name = metrics.run
    for by, values in traits(index).items():
        borders = edges(by, values)
        place = np.digitize(values[row], borders[1:-1])
        for number, (low, high) in enumerate(itertools.pairwise(borders)):
            inside = right[(place == number) & ~np.isnan(values[row])]
            if len(inside):
                yield {
                    "dataset": name.dataset,
                    "target": name.target,
                    "run": name.pretraining,
                    "by": by,
                    "low": low,
                    "high": high,
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
            rows.extend(groups(metrics, path, indices[target]))
    table = pd.DataFrame(rows).replace({"high": {np.inf: np.nan}})
    summary = table.groupby(KEY, sort=False, dropna=False).agg(
        images=("images", "first"), mean=("top1", "mean"), std=("top1", "std"), n=("top1", "size")
    )
    write_table(arguments.output, summary.reset_index().sort_values(KEY, kind="stable"))


if __name__ == "__main__":
    run(main)
