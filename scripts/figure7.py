"""Figure 7: the images of feature spaces in the plane, coloured by class."""

from __future__ import annotations

import argparse
import math
import textwrap
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import seaborn as sns

from detransfer.console import InputError, run
from detransfer.data.index import read_index
from detransfer.features.recipe import AnalysisRecipe
from detransfer.report.bootstrap import resamples
from detransfer.report.tables import write_table
from detransfer.strict import load_file
from detransfer.visualization.plotting import STYLE, save_figure

DESCRIPTION = """\
Figure 7: the images of feature spaces in the plane, coloured by class.

For each data set, space and place (in the space, or in the plane of t-SNE): agreement, the mean
share in percent of an image's nearest neighbours that are of its class, its 95 % interval over
resamples of the images, and chance, the share of all other images that are. The picture shows the
planes of the pairs, each once; the largest classes have a colour and a marker, the others are grey.
A space that cannot be embedded has its problem in the table and in the picture.
"""
COLUMNS = ["dataset", "run", "place", "neighbours", "metric", "unit", "value", "low", "high",
           "chance", "images", "library", "problem"]  # fmt: skip
# Okabe and Ito's colours with two more that are told apart by everybody, and by marker.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#5D3A9B", "#8C564B")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
WIDTH, PANEL, TITLE = 3.3, 1.6, 0.32  # inches: one column, a plane, and what stands above it


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--space",
        nargs=3,
        action="append",
        required=True,
        metavar=("DATASET", "NAME", "EMBEDDING"),
        help="a pre-training's embedding.parquet on a data set",
    )
    add(
        "--pair",
        nargs=3,
        action="append",
        required=True,
        metavar=("DATASET", "FIRST", "SECOND"),
        help="two spaces to draw",
    )
    add("--index", nargs=2, action="append", required=True, metavar=("DATASET", "FOLDER"))
    add("--recipe", type=Path, required=True, help="recipe of the analysis")
    add("--csv", type=Path, required=True, help="numbers to write")
    add("--pdf", type=Path, required=True, help="picture to write")
    add("--png", type=Path, required=True, help="picture to write")
    return parser.parse_args()


def numbers(planes: dict[tuple[str, str], pd.DataFrame], neighbours: int) -> pd.DataFrame:
    """Return the figure's table, a row for each space and place."""
    rows = []
    for (dataset, name), plane in planes.items():
        images = len(plane)
        sizes = plane["class_id"].value_counts().to_numpy()
        weights = resamples(images)
        for place in ("space", "plane"):
            share = 100 * plane[f"agreement_{place}"].to_numpy()
            low, high = np.percentile(weights @ share / images, [2.5, 97.5])
            rows.append(
                {
                    "dataset": dataset,
                    "run": name,
                    "place": place,
                    "neighbours": neighbours,
                    "metric": "agreement",
                    "unit": "%",
                    "value": share.mean(),
                    "low": low,
                    "high": high,
                    "chance": 100 * (sizes * (sizes - 1)).sum() / (images * (images - 1)),
                    "images": images,
                    "library": plane["library"].iloc[0],
                    "problem": plane["problem"].iloc[0],
                }
            )
    return pd.DataFrame(rows)[COLUMNS]


def largest_classes(class_ids: pd.Series, count: int) -> list[int]:
    """Return the classes with the most images; of equally large ones the first."""
    sizes = class_ids.value_counts().sort_index()
    return sizes.sort_values(ascending=False, kind="stable").index[:count].tolist()


def drawn(pairs: list[list[str]]) -> dict[str, list[str]]:
    """Return the spaces of the pairs by data set, each once, in the order of the pairs."""
    spaces: dict[str, list[str]] = {}
    for dataset, *two in pairs:
        own = spaces.setdefault(dataset, [])
        own += [name for name in two if name not in own]
    return spaces


def draw(
    table: pd.DataFrame,
    planes: dict[tuple[str, str], pd.DataFrame],
    spaces: dict[str, list[str]],
    names: dict[str, list[str]],
    count: int,
) -> plt.Figure:
    """Draw the planes of each data set in two columns, a legend of its coloured classes below."""
    sns.set_theme(style="white", rc=STYLE)
    values = table.set_index(["dataset", "run", "place"])["value"]
    heights = [
        math.ceil(len(own) / 2) * (PANEL + TITLE) + 0.15 * math.ceil(count / 2) + 0.35
        for own in spaces.values()
    ]
    figure = plt.figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(spaces), height_ratios=heights, squeeze=False)[:, 0]
    for part, (dataset, own) in zip(parts, spaces.items(), strict=True):
        chosen = largest_classes(planes[dataset, own[0]]["class_id"], count)
        panels = part.subplots(math.ceil(len(own) / 2), 2, squeeze=False).flat
        for name, panel in zip(own, panels, strict=False):
            _plane(panel, planes[dataset, name], chosen, names[dataset])
            shares = [f"{values[dataset, name, place]:.0f} %" for place in ("space", "plane")]
            space, plane = ("none" if share == "nan %" else share for share in shares)
            panel.set_title(f"{name}\nspace {space}, plane {plane}", fontsize=6.5, pad=3)
        for panel in panels:  # the one that is left of an odd number
            panel.set_axis_off()
        handles, labels = part.axes[0].get_legend_handles_labels()
        part.legend(
            handles,
            labels,
            title=f"{dataset}; grey: all other classes;\n%: nearest neighbours of an image's class",
            fontsize=6,
            title_fontsize=6,
            markerscale=1.5,
            frameon=False,
            loc="outside lower center",
            ncols=2,
        )
    return figure


def _plane(panel: plt.Axes, plane: pd.DataFrame, chosen: list[int], names: list[str]) -> None:
    if problem := plane["problem"].iloc[0]:
        text = textwrap.fill(problem, 28)
        panel.text(0.5, 0.5, text, transform=panel.transAxes, ha="center", va="center", fontsize=6)
    size = np.clip(1500 / len(plane), 0.6, 4.0)
    others = plane[~plane["class_id"].isin(chosen)]
    panel.scatter(others["x"], others["y"], s=size / 2, color="#C8C8C8", linewidths=0)
    for class_id, colour, marker in zip(chosen, COLOURS, MARKERS, strict=False):
        own = plane[plane["class_id"] == class_id]
        panel.scatter(
            own["x"],
            own["y"],
            s=np.maximum(2 * size, 4),
            color=colour,
            marker=marker,
            linewidths=0,
            label=names[class_id],
        )
    panel.set(xticks=[], yticks=[])
    panel.set_box_aspect(1)


def main() -> None:
    arguments = parse()
    recipe = load_file(arguments.recipe, AnalysisRecipe).embedding
    planes = {(d, name): pd.read_parquet(path) for d, name, path in arguments.space}
    for dataset, first, second in arguments.pair:
        one, two = planes[dataset, first], planes[dataset, second]
        if not one["image_id"].equals(two["image_id"]):
            raise InputError(f"{dataset}: {first} and {second} are embeddings of different images")
    names = {d: read_index(Path(f)).classes["name"].tolist() for d, f in arguments.index}
    write_table(arguments.csv, numbers(planes, recipe.neighbours))
    table = pd.read_csv(arguments.csv)
    figure = draw(table, planes, drawn(arguments.pair), names, recipe.classes)
    save_figure(figure, arguments.pdf, arguments.png)


if __name__ == "__main__":
    run(main)
