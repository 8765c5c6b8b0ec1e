"""Figure 5: pairs of images that are nearest in a space, or near in one and far in the other.

For each pair of spaces four lists. nearest_first and nearest_second: the most correlated pairs of a
space. first_not_second: pairs that share one of many clusters of the first space and none of few
clusters of the second, those first whose correlation falls most; and second_not_first. Near-copies
are left out and counted. Nothing is chosen by hand. The number of all such pairs (candidates), of
all that share a cluster (close_pairs), of near-copies, and the share of listed pairs that are of
one class (same_class) stand in the table, from which (and the images) the picture is drawn: one
column of a page, the nearest pairs of a space once, of each list as many pairs as a page has room
for.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from PIL import Image, ImageOps

from detransfer.console import InputError, run
from detransfer.data.index import Index, read_index
from detransfer.features.clusters import SpaceClusters, co_membership, read_clusters
from detransfer.features.neighbours import (
    correlation_units,
    nearest_pairs,
    paired,
    pairs_apart,
)
from detransfer.features.recipe import AnalysisRecipe
from detransfer.features.store import Features, open_features
from detransfer.report.tables import write_table
from detransfer.strict import load_file
from detransfer.visualization.gallery import credit_of
from detransfer.visualization.plotting import STYLE, save_figure

log = logging.getLogger("figure5")
LAYER = "conv5"
COLUMNS = [
    *("dataset", "first", "second", "panel", "rank", "drawn", "image_id", "path", "class"),
    *("image_id_2", "path_2", "class_2", "correlation_first", "correlation_second"),
    *("candidates", "close_pairs", "near_copies", "same_class", "rule"),
]
TITLES = {
    "nearest_first": "{dataset}: nearest in {first}",
    "first_not_second": "near in {first},\nfar in {second}",
    "nearest_second": "nearest in {second}",
}
CORRELATIONS = {
    "nearest_first": "correlation {correlation_first:.3f}",
    "first_not_second": "correlation {correlation_first:.3f}, {correlation_second:.3f}",
    "nearest_second": "correlation {correlation_second:.3f}",
}
WIDTH, PAGE = 3.3, 9.0  # inches: one column of a page, and the height that it may have
GAP, TITLE, CREDIT = 0.1, 0.25, 0.31  # inches: between two columns, above and below images
CELL, LARGEST = (WIDTH - GAP) / 4, (0.77, 0.62)  # inches: an image's place, and the image at most
COLUMN, ROW = 2 * CELL + GAP, LARGEST[1] + CREDIT
DPI, LETTERS = 300, 18  # letters of a credit: what stands below an image


@dataclass(frozen=True)
class Space:
    """A space: its name, units whose inner products are correlations, and its clusters."""

    name: str
    features: Features
    units: np.ndarray
    clusters: SpaceClusters


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--space",
        nargs=4,
        action="append",
        required=True,
        metavar=("DATASET", "NAME", "FEATURES", "CLUSTERS"),
        help="a pre-training's features and clusters.parquet on a data set",
    )
    add(
        "--pair",
        nargs=3,
        action="append",
        required=True,
        metavar=("DATASET", "FIRST", "SECOND"),
        help="two spaces to compare",
    )
    add("--index", nargs=2, action="append", required=True, metavar=("DATASET", "FOLDER"))
    add("--recipe", type=Path, required=True, help="recipe of the analysis")
    add("--csv", type=Path, required=True, help="table to write")
    add("--pdf", type=Path, required=True, help="picture to write")
    add("--png", type=Path, required=True, help="picture to write")
    return parser.parse_args()


def read_space(name: str, features: str, clusters: str) -> Space:
    """Read a space; raises InputError unless its clusters are of its images."""
    recorded, found = open_features(Path(features)), read_clusters(Path(clusters))
    if not np.array_equal(found.image_ids, recorded.images["image_id"]):
        raise InputError(f"{clusters}: has other images than {features}; cluster them again")
    return Space(name, recorded, correlation_units(recorded.layer(LAYER))[0], found)


def nearest(space: Space, recipe: AnalysisRecipe) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the nearest pairs of a space, and what is told of them."""
    given = recipe.nearest
    found = nearest_pairs(space.features.layer(LAYER), given.listed, given.near_copy)
    if found.flat:
        log.warning("%s: %d images have constant features; left out", space.name, found.flat)
    rule = f"most correlated in {space.name}; above {given.near_copy:g} left out as copies"
    return found.pairs, {"near_copies": found.near_copies, "rule": rule}


def apart(near: Space, far: Space, recipe: AnalysisRecipe) -> tuple[np.ndarray, dict[str, Any]]:
    """Return pairs that are close in one space and distant in the other, by the first seed."""
    given = recipe.clusters
    seed, images = given.seeds[0], len(near.units)
    if max(given.close, given.distant) > images:
        rule = f"needs {max(given.close, given.distant)} clusters, and there are {images} images"
        log.warning("close in %s, distant in %s: %s", near.name, far.name, rule)
        return np.empty((0, 2), np.int64), {"rule": rule}
    close, distant = (
        near.clusters.labels[given.close, seed],
        far.clusters.labels[given.distant, seed],
    )
    shared = co_membership(close, distant)
    rule = (
        f"one of {given.close} clusters in {near.name}, none of {given.distant} in {far.name}; "
        f"largest fall of correlation; above {recipe.nearest.near_copy:g} left out as copies"
    )
    candidates = round(shared.pairs * (1 - shared.pooled)) if shared.pairs else 0
    pairs, copies = pairs_apart(
        close, distant, near.units, far.units, recipe.nearest.listed, recipe.nearest.near_copy
    )
    about = {"candidates": candidates, "close_pairs": shared.pairs, "near_copies": copies}
    return pairs, {**about, "rule": rule}


def rows(
    one: Space,
    two: Space,
    pairs: np.ndarray,
    about: dict[str, Any],
    names: np.ndarray,
) -> pd.DataFrame:
    """Return the rows of a list of pairs; a list without a single one still tells of itself."""
    if not len(pairs):
        return pd.DataFrame([about])
    images = one.features.images
    table = pd.DataFrame({"rank": np.arange(1, len(pairs) + 1)})
    for place, tail in enumerate(("", "_2")):
        part = images.iloc[pairs[:, place]].reset_index(drop=True)
        table[f"image_id{tail}"], table[f"path{tail}"] = part["image_id"], part["path"]
        table[f"class{tail}"] = names[part["class_id"]]
    table["correlation_first"] = paired(one.units, pairs)
    table["correlation_second"] = paired(two.units, pairs)
    table["same_class"] = (table["class"] == table["class_2"]).mean()
    return table.assign(**about)


def compared(one: Space, two: Space, index: Index, recipe: AnalysisRecipe) -> pd.DataFrame:
    """Return the four lists of two spaces; raises InputError for other images."""
    images, others = (space.features.images["image_id"] for space in (one, two))
    if not images.equals(others) or not images.isin(index.images["image_id"]).all():
        raise InputError(f"{one.name} and {two.name}: features of other images; record them again")
    lists = {
        "nearest_first": nearest(one, recipe),
        "first_not_second": apart(one, two, recipe),
        "nearest_second": nearest(two, recipe),
        "second_not_first": apart(two, one, recipe),
    }
    names = index.classes["name"].to_numpy()
    parts = [
        rows(one, two, pairs, {"panel": panel, **about}, names)
        for panel, (pairs, about) in lists.items()
    ]
    return pd.concat(parts).assign(first=one.name, second=two.name)


def strips(table: pd.DataFrame) -> list[list[pd.DataFrame]]:
    """Return the lists that are drawn, from above: a strip has one list, or two side by side.

    The nearest pairs of a space are drawn where it comes first.
    """
    found: list[list[pd.DataFrame]] = []
    shown: set[tuple[Any, Any]] = set()
    for (dataset, first, second), block in table.groupby(
        ["dataset", "first", "second"], sort=False
    ):
        lists = {str(panel): rows for panel, rows in block.groupby("panel")}
        if (dataset, first) not in shown:
            found.append([lists["nearest_first"]])
        beside = [] if (dataset, second) in shown else [lists["nearest_second"]]
        found.append([lists["first_not_second"], *beside])
        shown |= {(dataset, first), (dataset, second)}
    return found


def height(counts: Sequence[Sequence[int]]) -> float:
    """Return the inches of strips with so many pairs in each list."""
    return sum(TITLE + _rows(strip) * ROW for strip in counts)


def _rows(strip: Sequence[int]) -> int:
    """Return the rows of images of a strip: two pairs in each, one where two lists share it."""
    return math.ceil(max(strip) * len(strip) / 2)


def with_drawn(table: pd.DataFrame, most: int) -> pd.DataFrame:
    """Return the table with which pairs are drawn: the first of a list with no image in common.

    At most ``most`` of each list, and as many of all lists as make no more than a page.
    """
    picture = strips(table)
    fitting = (n for n in range(most, 1, -1) if height([[n] * len(s) for s in picture]) <= PAGE)
    count = next(fitting, 1)
    drawn = [
        place for strip in picture for rows in strip for place in _without_repeats(rows, count)
    ]
    return table.assign(drawn=table.index.isin(drawn))


def _without_repeats(rows: pd.DataFrame, count: int) -> list[int]:
    """Return the labels of the first ``count`` rows that have no image in common."""
    chosen: list[int] = []
    seen: set[int] = set()
    listed = rows.dropna(subset="rank")
    for place, *pair in listed[["image_id", "image_id_2"]].itertuples():
        if len(chosen) < count and seen.isdisjoint(pair):
            chosen.append(place)
            seen.update(pair)
    return chosen


def draw(table: pd.DataFrame, roots: dict[str, Path]) -> plt.Figure:
    """Draw the strips, one below the other, in one column of a page."""
    sns.set_theme(style="white", rc=STYLE)
    picture = [[(rows, rows[rows["drawn"]]) for rows in strip] for strip in strips(table)]
    counts = [[len(drawn) for _, drawn in strip] for strip in picture]
    figure = plt.figure(figsize=(WIDTH, height(counts)))
    top = 0.0
    for strip, own in zip(picture, counts, strict=True):
        for place, (rows, drawn) in enumerate(strip):
            about = rows.iloc[0]
            title = TITLES[about["panel"]].format(**about) + ("" if len(drawn) else ": none")
            corner = place * COLUMN, top + TITLE - 0.03
            _write(figure, corner, title, fontsize=6, va="bottom")
            for number, row in enumerate(drawn.to_dict("records")):
                down, right = divmod(number, 2) if len(strip) == 1 else (number, place)
                corner = right * COLUMN, top + TITLE + down * ROW
                _draw_pair(figure, corner, row, roots[row["dataset"]])
        top += height([own])
    return figure


def _draw_pair(
    figure: plt.Figure, corner: tuple[float, float], row: dict[Any, Any], root: Path
) -> None:
    """Draw two images with their files and classes, and how they correlate."""
    (left, top), (wide, high) = corner, LARGEST
    for tail in ("", "_2"):
        path = Path(str(row[f"path{tail}"]))
        pixels = (round(wide * DPI), round(high * DPI))
        with Image.open(root / path) as image:
            small = ImageOps.pad(image.convert("RGB"), pixels, color="white", centering=(0, 1))
        tall = figure.get_figheight()
        axis = figure.add_axes((left / WIDTH, 1 - (top + high) / tall, wide / WIDTH, high / tall))
        axis.imshow(np.asarray(small), aspect="auto")
        axis.set_axis_off()
        lines = credit_of(row[f"image_id{tail}"], str(path)), str(row[f"class{tail}"])
        credit = "\n".join(line[:LETTERS] for line in lines)
        axis.text(0, -0.03, credit, fontsize=5, va="top", transform=axis.transAxes)
        left += CELL
    told = CORRELATIONS[row["panel"]].format(**row)
    _write(figure, (corner[0], top + ROW - 0.05), told, fontsize=5, va="bottom")


def _write(figure: plt.Figure, place: tuple[float, float], text: str, **style: Any) -> None:
    """Write at a place that is measured in inches from the left and from above."""
    figure.text(place[0] / WIDTH, 1 - place[1] / figure.get_figheight(), text, **style)


def main() -> None:
    arguments = parse()
    recipe = load_file(arguments.recipe, AnalysisRecipe)
    indices = {dataset: read_index(Path(folder)) for dataset, folder in arguments.index}
    given = {(dataset, name): files for dataset, name, *files in arguments.space}
    parts = []
    for dataset, first, second in arguments.pair:
        one, two = (read_space(name, *given[dataset, name]) for name in (first, second))
        parts.append(compared(one, two, indices[dataset], recipe).assign(dataset=dataset))
    table = with_drawn(pd.concat(parts, ignore_index=True), recipe.nearest.drawn)
    write_table(arguments.csv, table.reindex(columns=COLUMNS))
    roots = {dataset: index.root for dataset, index in indices.items()}
    figure = draw(pd.read_csv(arguments.csv), roots)
    save_figure(figure, arguments.pdf, arguments.png, DPI)


if __name__ == "__main__":
    run(main)
