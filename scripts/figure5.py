"""Figure 5: pairs of images that are nearest in a space, or near in one and far in the other.

For each pair of spaces four lists. nearest_first and nearest_second: the most correlated pairs of a
space, near-copies left out. first_not_second: pairs that share one of many clusters of the first
space and none of few clusters of the second, those first whose correlation falls most; and
second_not_first. Nothing is chosen by hand. The number of all such pairs (candidates), of all that
share a cluster (close_pairs), of near-copies, and the share of listed pairs that are of one class
(same_class) stand in the table, from which (and the images) the picture is drawn.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
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
from detransfer.visualization.plotting import save_figure

log = logging.getLogger("figure5")
LAYER = "conv5"
COLUMNS = [
    *("dataset", "first", "second", "panel", "rank", "drawn", "image_id", "path", "class"),
    *("image_id_2", "path_2", "class_2", "correlation_first", "correlation_second"),
    *("candidates", "close_pairs", "near_copies", "same_class", "rule"),
]
DRAWN = ("nearest_first", "first_not_second", "nearest_second")  # from left to right
CELL, PIXELS = 1.1, 240  # inches and pixels of one image's longer side
GAP, CREDIT, TITLE = 0.14, 0.2, 0.22  # inches
TITLES = {
    "nearest_first": "nearest in {first}",
    "first_not_second": "near in {first}, far in {second}",
    "nearest_second": "nearest in {second}",
}


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
        "largest fall of correlation"
    )
    candidates = round(shared.pairs * (1 - shared.pooled)) if shared.pairs else 0
    pairs = pairs_apart(close, distant, near.units, far.units, recipe.nearest.listed)
    return pairs, {"candidates": candidates, "close_pairs": shared.pairs, "rule": rule}


def without_repeats(pairs: np.ndarray, count: int) -> np.ndarray:
    """Return which of the pairs are drawn: the first ``count`` that have no image in common."""
    chosen, seen = np.zeros(len(pairs), bool), set[int]()
    for place, pair in enumerate(pairs.tolist()):
        if chosen.sum() < count and seen.isdisjoint(pair):
            chosen[place] = True
            seen.update(pair)
    return chosen


def rows(
    one: Space,
    two: Space,
    pairs: np.ndarray,
    about: dict[str, Any],
    names: np.ndarray,
    drawn: int,
) -> pd.DataFrame:
    """Return the rows of a list of pairs; a list without a single one still tells of itself."""
    if not len(pairs):
        return pd.DataFrame([{**about, "drawn": False}])
    images = one.features.images
    table = pd.DataFrame({"rank": np.arange(1, len(pairs) + 1)})
    for place, tail in enumerate(("", "_2")):
        part = images.iloc[pairs[:, place]].reset_index(drop=True)
        table[f"image_id{tail}"], table[f"path{tail}"] = part["image_id"], part["path"]
        table[f"class{tail}"] = names[part["class_id"]]
    table["correlation_first"] = paired(one.units, pairs)
    table["correlation_second"] = paired(two.units, pairs)
    table["same_class"] = (table["class"] == table["class_2"]).mean()
    return table.assign(drawn=without_repeats(pairs, drawn), **about)


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
        rows(one, two, pairs, {"panel": panel, **about}, names, recipe.nearest.drawn)
        for panel, (pairs, about) in lists.items()
    ]
    return pd.concat(parts).assign(first=one.name, second=two.name)


def draw(table: pd.DataFrame, roots: dict[str, Path], down: int) -> plt.Figure:
    """Draw, for each pair of spaces, three columns of pairs of images: left, middle and right."""
    blocks = list(table.groupby(["dataset", "first", "second"], sort=False))
    heights = [TITLE, *[CELL + CREDIT] * down] * len(blocks)
    figure, grid = plt.subplots(
        len(heights),
        8,
        figsize=(6 * CELL + 2 * GAP, sum(heights)),
        squeeze=False,
        gridspec_kw={
            **dict.fromkeys(("left", "bottom", "wspace", "hspace"), 0),
            **dict.fromkeys(("right", "top"), 1),
            "width_ratios": [CELL, CELL, GAP] * 2 + [CELL, CELL],
            "height_ratios": heights,
        },
    )
    for axis in grid.flat:
        axis.set_axis_off()
    for number, ((dataset, first, second), block) in enumerate(blocks):
        rows = grid[number * (down + 1) : (number + 1) * (down + 1)]
        for place, panel in enumerate(DRAWN):
            axes = rows[:, 3 * place : 3 * place + 2]
            shown = block[(block["panel"] == panel) & block["drawn"]]
            title = TITLES[panel].format(first=first, second=second)
            axes[0, 0].text(0.03, 0.3, title if len(shown) else f"{title}: none", fontsize=6.5)
            for pair, row in zip(axes[1:], shown.to_dict("records"), strict=False):
                _draw_pair(pair, row, roots[str(dataset)])
    return figure


def _draw_pair(axes: np.ndarray, row: dict[Any, Any], root: Path) -> None:
    both = f"{row['correlation_first']:.3f}, {row['correlation_second']:.3f}"
    for axis, tail, more in zip(axes, ("", "_2"), (both, ""), strict=True):
        path = Path(str(row[f"path{tail}"]))
        with Image.open(root / path) as image:
            small = ImageOps.pad(image.convert("RGB"), (PIXELS, PIXELS), color="white")
        high = CELL / (CELL + CREDIT)  # below it stands the credit
        inside = axis.inset_axes((0.02, 1 - high * 0.98, 0.96, high * 0.96))
        inside.imshow(np.asarray(small))
        inside.set_axis_off()
        style = {"fontsize": 4.5, "transform": axis.transAxes, "va": "bottom"}
        axis.text(0.03, (1 - high) * 0.5, f"{path.stem} {row[f'class{tail}']}"[:24], **style)
        axis.text(0.03, 0.01, more, **style)


def main() -> None:
    arguments = parse()
    recipe = load_file(arguments.recipe, AnalysisRecipe)
    indices = {dataset: read_index(Path(folder)) for dataset, folder in arguments.index}
    given = {(dataset, name): files for dataset, name, *files in arguments.space}
    parts = []
    for dataset, first, second in arguments.pair:
        one, two = (read_space(name, *given[dataset, name]) for name in (first, second))
        parts.append(compared(one, two, indices[dataset], recipe).assign(dataset=dataset))
    write_table(arguments.csv, pd.concat(parts).reindex(columns=COLUMNS))
    roots = {dataset: index.root for dataset, index in indices.items()}
    figure = draw(pd.read_csv(arguments.csv), roots, recipe.nearest.drawn)
    save_figure(figure, arguments.pdf, arguments.png, dpi=200)


if __name__ == "__main__":
    run(main)
