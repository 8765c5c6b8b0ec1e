"""Describe a data set: object sizes, objects an image, class frequencies, and scales that suit it.

Writes a tidy table and a picture of it, and the advice on chips as a table and a picture. The
pictures are drawn from the tables alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from detransfer.console import run
from detransfer.data.index import BOX, Index, read_index
from detransfer.detection.scale_advice import advise_scales
from detransfer.files import atomic

SIZE_BINS = np.geomspace(2, 4096, 45)  # pixels, sqrt(area)
ADVICE = ["factor", "fit_long_side", "valid_low", "valid_high", "share", "median_in_chip"]
WIDTH = 3.3  # inches of a column


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--index", type=Path, required=True, help="folder of the data set's index")
    add("--name", required=True, help="name for the titles")
    add("--splits", nargs="+", required=True, help="splits to describe")
    add("--chip", type=int, default=512, help="side of the chips to advise on, pixels")
    add("--statistics", type=Path, required=True, help="CSV of the distributions")
    add("--picture", type=Path, required=True, help="PNG of the distributions")
    add("--advice", type=Path, required=True, help="CSV of the advised scales")
    return parser.parse_args()


def object_sizes(index: Index) -> np.ndarray:
    """Return sqrt(area) of every object that is not a crowd, in pixels."""
    boxes = index.objects.loc[~index.objects["crowd"], BOX].to_numpy()
    return np.asarray(np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1)))


def statistics(index: Index) -> pd.DataFrame:
    """Return the distributions in one tidy table: ``distribution``, ``at``, ``name``, ``count``.

    ``object_size``: ``at`` is the lower end of a bin in pixels. ``objects_per_image``: ``at`` is
    the number. ``class_frequency``: ``at`` is the rank, ``name`` the class, ``count`` its objects
    (its images in a data set without boxes).
    """
    parts = []
    if len(index.objects):
        heights, edges = np.histogram(object_sizes(index), SIZE_BINS)
        parts.append(_part("object_size", edges[:-1].round(2), "", heights))
        held = index.objects["image_id"].value_counts()
        number = held.reindex(index.images["image_id"], fill_value=0).value_counts().sort_index()
        parts.append(_part("objects_per_image", number.index, "", number.to_numpy()))
    labels = index.images if "class_id" in index.images else index.objects
    counts = np.bincount(labels["class_id"], minlength=len(index.classes))
    order = np.argsort(-counts, kind="stable")
    names = index.classes["name"].to_numpy()[order]
    parts.append(_part("class_frequency", np.arange(1, len(order) + 1), names, counts[order]))
    return pd.concat(parts, ignore_index=True)


def _part(distribution: str, at: object, name: object, count: object) -> pd.DataFrame:
    return pd.DataFrame({"distribution": distribution, "at": at, "name": name, "count": count})


def advice(index: Index, chip: int) -> pd.DataFrame:
    """Return the advised scales, one row each; no row for a data set without boxes."""
    sizes = object_sizes(index)
    if not len(sizes):
        return pd.DataFrame(columns=ADVICE)
    longest = index.images[["width", "height"]].max(axis=1).to_numpy()
    rows = [
        [
            found.scale.factor,
            found.scale.long,
            *found.scale.valid_range,
            round(found.share, 4),
            round(found.median_in_chip, 1),
        ]
        for found in advise_scales(sizes, longest, chip)
    ]
    return pd.DataFrame(rows, columns=ADVICE)


def draw(table: pd.DataFrame, scales: pd.DataFrame, title: str, path: Path) -> None:
    """Draw each distribution of the table; the advised ranges stand as bars under the sizes."""
    plt.style.use(["seaborn-v0_8-colorblind", "seaborn-v0_8-paper"])
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
    kinds = list(table["distribution"].unique())
    counted = {"objects_per_image": "images"}
    if "object_size" not in kinds:
        counted["class_frequency"] = "images"
    figure, axes = plt.subplots(
        len(kinds), 1, figsize=(WIDTH, 1.8 * len(kinds)), squeeze=False, layout="constrained"
    )
    for axis, kind in zip(axes[:, 0], kinds, strict=True):
        part = table[table["distribution"] == kind]
        if kind == "object_size":
            axis.bar(
                part["at"],
                part["count"],
                part["at"] * (SIZE_BINS[1] / SIZE_BINS[0] - 1),
                align="edge",
            )
        else:
            axis.bar(part["at"], part["count"], 1.0)
        axis.set_ylabel(counted.get(kind, "objects"))
        axis.set_xlabel(
            {
                "object_size": "object size, sqrt(area), pixels",
                "objects_per_image": "objects in an image",
                "class_frequency": "class, by frequency",
            }[kind]
        )
        if kind == "object_size":
            axis.set_xscale("log", base=2)
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            draw_ranges(axis, scales)
        else:
            axis.set_yscale("log")
    axes[0, 0].set_title(title)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=200)


def draw_ranges(axis: Axes, scales: pd.DataFrame) -> None:
    """Draw each advised scale's valid range, and its share of the objects, below the sizes."""
    low, high = SIZE_BINS[0], SIZE_BINS[-1]
    step = 0.07 * axis.get_ylim()[1]
    for place, row in enumerate(scales[ADVICE].to_numpy(float)):
        factor, fit, start, end, share = row[:5]
        start, end, height = max(start, low), min(end, high), -step * (place + 1)
        axis.plot([start, end], [height, height], linewidth=3, color=f"C{place + 1}")
        label = f"fit {fit:g}" if np.isnan(factor) else f"x {factor:g}"
        label = f"{label}: {share:.0%}"
        axis.annotate(
            label, (end, height), (3, 0), textcoords="offset points", fontsize=5, va="center"
        )


def main() -> None:
    arguments = parse()
    index = read_index(arguments.index).split(*arguments.splits)
    for path, table in (
        (arguments.statistics, statistics(index)),
        (arguments.advice, advice(index, arguments.chip)),
    ):
        with atomic(path) as temporary:
            table.to_csv(temporary, index=False)
    draw(
        pd.read_csv(arguments.statistics),
        pd.read_csv(arguments.advice),
        arguments.name,
        arguments.picture,
    )


if __name__ == "__main__":
    run(main)
