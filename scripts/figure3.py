"""Figure 3: segmentations of two pre-trainings side by side, on images chosen by rule."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.patches import Patch
from PIL import Image

from detransfer.console import InputError, run
from detransfer.data.index import Index, read_index
from detransfer.data.masks import VOID, mask_paths, read_mask, resize_labels
from detransfer.report.metrics import check_comparable, read_metrics
from detransfer.report.tables import write_table
from detransfer.segmentation.by_distance import read_confusion
from detransfer.segmentation.predictions import Predictions
from detransfer.segmentation.scores import mean_iou
from detransfer.visualization.plotting import STYLE, save_figure

DESCRIPTION = """\
Figure 3: segmentations after a pre-training on detection and after the one it started from: image,
truth, both predictions, and where only one of them is right. The images are chosen by rule: those
with the largest gain and the largest loss in IoU (the mean over the classes that an image has), and
a few at random. The rule's numbers are written to a CSV.
"""
CHOSEN = {"largest gain": 3, "largest loss": 1, "random": 2}  # images of each kind
SEED = 0  # of the random images
NUMBERS = ["seed", "candidates", "chosen_as", "image_id", "path", "iou", "baseline_iou", "gain"]
WHITE, LIGHT, DARK = (1.0, 1.0, 1.0), (0.88, 0.88, 0.88), (0.35, 0.35, 0.35)
PALETTE = sns.color_palette("colorblind")
ONLY_RUN, ONLY_BASELINE = PALETTE[0], PALETTE[1]  # blue and orange
OF_CLASSES = [*PALETTE[2:7], *PALETTE[8:]]  # what is left without grey
DIMMED = 0.35  # how much of the image shows through a mask
WIDTH, TILE = 6.8, 0.8  # inches: a page, and the height of a row
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Pair:
    """Two runs on one split: what is compared, and with what."""

    run: Path
    baseline: Path
    index: Index


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=DESCRIPTION)
    add = parser.add_argument
    add(
        "--pair",
        nargs=4,
        action="append",
        required=True,
        metavar=("RUN", "BASELINE", "INDEX", "SPLIT"),
        help="folders of two runs and of the index; can be given again",
    )
    add("--csv", type=Path, required=True, help="chosen images to write")
    add("--pdf", type=Path, required=True, help="picture to write")
    add("--png", type=Path, required=True, help="picture to write")
    return parser.parse_args()


def choose(pair: Pair) -> pd.DataFrame:
    """Return the chosen images of a pair, one row each, with the rule's numbers.

    Raises InputError for runs that were not evaluated on the same images.
    """
    runs = [read_metrics(folder / "metrics.json") for folder in (pair.run, pair.baseline)]
    check_comparable(runs)
    own, other = (image_iou(folder, pair.index) for folder in (pair.run, pair.baseline))
    table = pair.index.images[["image_id", "path"]].assign(iou=own, baseline_iou=other)
    table = table.assign(gain=table["iou"] - table["baseline_iou"]).dropna()
    ranked = table.sort_values(["gain", "image_id"], ascending=[False, True])
    parts, left = [], ranked
    for kind, count in CHOSEN.items():
        if kind == "random":
            part = left.sample(min(count, len(left)), random_state=SEED)
        else:
            part = left.head(count) if kind == "largest gain" else left.iloc[::-1].head(count)
        left = left.drop(part.index)
        parts.append(part.assign(chosen_as=kind))
    name = runs[0].run
    place = {"target": name.target, "dataset": name.dataset, "run": name.pretraining}
    place["baseline"] = runs[1].run.pretraining
    chosen = pd.concat(parts).assign(**place, seed=name.seed, candidates=len(table))
    return chosen[[*place, *NUMBERS]]


def image_iou(run_folder: Path, index: Index) -> np.ndarray:
    """Return the mean IoU of each image, in percent, in the order of the index."""
    confusion = read_confusion(run_folder / "confusion.parquet")
    if not np.array_equal(confusion.image_ids, index.images["image_id"]):
        raise InputError(f"{run_folder}: was evaluated on other images than the index has")
    return 100 * mean_iou(confusion.counts().sum(1))


@dataclass(frozen=True)
class Example:
    """What is drawn of one image, all at its original size."""

    image: np.ndarray  # (h, w, 3), 0 to 1
    truth: np.ndarray
    baseline: np.ndarray
    run: np.ndarray


def examples(pair: Pair, chosen: pd.DataFrame) -> list[Example]:
    """Read the chosen images with their masks."""
    images, classes = pair.index.images, len(pair.index.classes)
    paths = dict(zip(images["image_id"], mask_paths(pair.index), strict=True))
    ids = images["image_id"].tolist()
    found = [
        Predictions(folder / "predictions.zip", ids, classes)
        for folder in (pair.baseline, pair.run)
    ]
    result = []
    for image_id, path in zip(chosen["image_id"], chosen["path"], strict=True):
        with Image.open(pair.index.root / path) as image:
            pixels = np.array(image.convert("RGB")) / 255
        truth = read_mask(paths[image_id], classes - 1)
        masks = [resize_labels(each.mask(image_id), *truth.shape) for each in found]
        result.append(Example(pixels, truth, *masks))
    return result


def class_colours(shown: list[Example]) -> dict[int, Colour]:
    """Return a colour for each class that is drawn, the background left out.

    The most frequent classes get colours that people without colour vision tell apart; what is
    beyond them is dark grey.
    """
    masks = [mask for each in shown for mask in (each.truth, each.baseline, each.run)]
    pixels = np.sum([np.bincount(mask.ravel(), minlength=VOID + 1) for mask in masks], axis=0)
    pixels[[0, VOID]] = 0
    order = np.argsort(-pixels, kind="stable")[: np.count_nonzero(pixels)]
    colours = [*OF_CLASSES, *[DARK] * len(order)]
    return {int(label): colour for label, colour in zip(order, colours, strict=False)}


def painted(image: np.ndarray, mask: np.ndarray, colours: dict[int, Colour]) -> np.ndarray:
    """Return a mask in colours over the image in grey; the background stays grey, void white."""
    table = np.tile(np.array(LIGHT), (VOID + 1, 1))
    for label, colour in colours.items():
        table[label] = colour
    grey = image.mean(2, keepdims=True)
    result = (1 - DIMMED) * table[mask] + DIMMED * grey
    result[mask == VOID] = WHITE
    return result


def difference(example: Example) -> np.ndarray:
    """Return where both are right (light), neither (dark), or one (its colour); void is white."""
    run_right, baseline_right = (mask == example.truth for mask in (example.run, example.baseline))
    result = np.empty((*example.truth.shape, 3))
    for where, colour in (
        (run_right & baseline_right, LIGHT),
        (~run_right & ~baseline_right, DARK),
        (run_right & ~baseline_right, ONLY_RUN),
        (~run_right & baseline_right, ONLY_BASELINE),
        (example.truth == VOID, WHITE),
    ):
        result[where] = colour
    return result


def draw(pairs: list[Pair], chosen: pd.DataFrame) -> plt.Figure:
    """Draw a block of rows for each pair: a column an image, a row a view of it."""
    sns.set_theme(style="white", rc=STYLE)
    rows = 5
    figure = plt.figure(figsize=(WIDTH, (rows * TILE + 1.0) * len(pairs)))
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    blocks = figure.subfigures(len(pairs), squeeze=False)[:, 0]
    keys = ["target", "run", "baseline"]
    for block, pair, (_, table) in zip(
        blocks, pairs, chosen.groupby(keys, sort=False), strict=True
    ):
        draw_block(block, pair, table, chosen["target"].nunique() > 1)
    return figure


def draw_block(block: plt.Figure, pair: Pair, chosen: pd.DataFrame, several: bool) -> None:
    """Draw the chosen images of one pair, and below them what the colours mean.

    The target is named where there are several.
    """
    shown = examples(pair, chosen)
    colours = class_colours(shown)
    if several:
        block.suptitle(str(chosen["target"].iloc[0]), fontsize=9)
    run_name, baseline_name = (str(chosen[name].iloc[0]) for name in ("run", "baseline"))
    grid = block.subplots(5, len(shown), squeeze=False)
    for column, (example, row) in enumerate(zip(shown, chosen.itertuples(), strict=True)):
        masks = (example.truth, example.baseline, example.run)
        views = [example.image, *(painted(example.image, mask, colours) for mask in masks)]
        for axes, view in zip(grid[:, column], [*views, difference(example)], strict=True):
            axes.imshow(view, interpolation="nearest")
            axes.set(xticks=[], yticks=[], anchor="N")
            sns.despine(ax=axes, left=True, bottom=True)
        grid[0, column].set_title(f"{row.chosen_as}\n{row.gain:+.1f} points")
    names = ("image", "truth", baseline_name, run_name, "difference")
    for axes, name in zip(grid[:, 0], names, strict=True):
        axes.set_ylabel(name)
    legends(block, pair, colours, run_name, baseline_name)


def legends(
    block: plt.Figure, pair: Pair, colours: dict[int, Colour], run_name: str, baseline_name: str
) -> None:
    """Say what the colours of the classes (left) and of the difference (right) mean."""
    names = pair.index.classes["name"]
    classes = [Patch(color=c, label=names[label]) for label, c in colours.items() if c != DARK]
    if DARK in colours.values():
        classes.append(Patch(color=DARK, label="other classes"))
    different = [
        Patch(color=ONLY_RUN, label=f"only {run_name} right"),
        Patch(color=ONLY_BASELINE, label=f"only {baseline_name} right"),
        Patch(color=DARK, label="neither right"),
        Patch(color=LIGHT, label="both right"),
        Patch(facecolor=WHITE, edgecolor="0.5", linewidth=0.5, label="void"),
    ]
    look: dict[str, Any] = {
        "title_fontsize": 7,
        "alignment": "left",
        "frameon": False,
        "handlelength": 1.2,
        "columnspacing": 1.2,
    }
    block.legend(handles=classes, title="masks", ncols=3, loc="outside lower left", **look)
    block.legend(handles=different, title="difference", ncols=2, loc="outside lower right", **look)


def main() -> None:
    arguments = parse()
    pairs = [
        Pair(Path(own), Path(baseline), read_index(Path(index)).split(split))
        for own, baseline, index, split in arguments.pair
    ]
    chosen = pd.concat([choose(pair) for pair in pairs], ignore_index=True)
    write_table(arguments.csv, chosen)
    figure = draw(pairs, chosen)
    save_figure(figure, arguments.pdf, arguments.png)


if __name__ == "__main__":
    run(main)
