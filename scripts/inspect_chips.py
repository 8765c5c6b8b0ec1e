"""Draw the chips that one image gets in an epoch, and what the detector is to learn in each.

One row a scale: the image with its chips, then the chips as they are trained on, with their objects
and what the anchors count as. Objects that are learned in no chip are marked, also where there is
no chip at all. Writes one picture.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from detransfer.console import InputError, run
from detransfer.data.decoding import decode
from detransfer.data.index import Index, read_index
from detransfer.detection.chip_recipe import chip_plan
from detransfer.detection.chips import place
from detransfer.detection.proposals import read_proposals
from detransfer.detection.rpn import ScaleAwareRpn
from detransfer.detection.train import ChipDataset, Scene, scenes
from detransfer.files import atomic
from detransfer.recipes.detection import DetectionRecipe
from detransfer.strict import load_file

# Okabe and Ito's colours, which colour-blind people tell apart; line styles say the same again.
STYLES: dict[str, dict[str, Any]] = {
    "positive chip": {"edgecolor": "#56B4E9", "linewidth": 2.0, "linestyle": "-"},
    "negative chip": {"edgecolor": "#D55E00", "linewidth": 2.0, "linestyle": (0, (6, 2))},
    "object learned at this scale": {"edgecolor": "#F0E442", "linewidth": 1.6, "linestyle": "-"},
    "object not valid here": {"edgecolor": "#E69F00", "linewidth": 1.4, "linestyle": (0, (3, 1.5))},
    "object learned in no chip": {"edgecolor": "#CC79A7", "linewidth": 2.0, "linestyle": "-."},
    "object always ignored": {"edgecolor": "white", "linewidth": 1.4, "linestyle": (0, (1, 1.2))},
    "anchor that counts as object": {"edgecolor": "#009E73", "linewidth": 0.5, "linestyle": "-"},
}
POSITIVE, NEGATIVE, LEARNED, INVALID, NOWHERE, IGNORED_ONE, ANCHOR = STYLES
# By label; a mark at the centre, since boxes would hide the image. Shapes say what the colours do.
MARKS: dict[int, tuple[str, dict[str, Any]]] = {
    0: ("centre of a background anchor", {"marker": "o", "color": "#0072B2"}),
    -1: ("centre of a left-out anchor", {"marker": "X", "color": "black"}),
}
CELL, WIDER = 2.6, 1.4  # inches, side of a chip's picture; how much wider the image's is
NARROWEST = 7.0  # inches, for the legend
ANCHORS, MARKED = 40, 80  # boxes, and marks of each kind, drawn in a chip; there are thousands
log = logging.getLogger("inspect_chips")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--index", type=Path, required=True, help="folder of the data set's index")
    add("--splits", nargs="+", help="splits that the training takes (default: all)")
    add("--image", required=True, help="image_id, or the end of the image's path")
    add("--recipe", type=Path, required=True, help="recipe of a detector")
    add("--proposals", type=Path, help="proposals.parquet of these splits, for negative chips")
    add("--seed", type=int, default=0, help="seed of the training")
    add("--epoch", type=int, default=0, help="epoch, from 0")
    add("--mirrored", action="store_true", help="the image flipped left to right")
    add("--chips", type=int, default=4, help="chips shown of a scale, at most")
    add("--output", type=Path, required=True, help="PNG to write")
    return parser.parse_args()


def find_image(index: Index, wanted: str) -> int:
    """Return the row of the image with this id, or whose path ends so.

    Raises InputError where there is none, or more than one.
    """
    images = index.images
    rows = np.flatnonzero(images["image_id"].astype(str) == wanted)
    if not len(rows):
        rows = np.flatnonzero(images["path"].str.endswith(wanted))
    if len(rows) != 1:
        some = ", ".join(images["path"].iloc[rows[:3]])
        raise InputError(
            f"--image {wanted}: {len(rows)} images have this image_id, or a path that ends so"
            + (f" ({some}, ...); give more of the path" if some else f" in {index.root}")
        )
    return int(rows[0])


def open_chips(arguments: argparse.Namespace, recipe: DetectionRecipe) -> ChipDataset:
    """Return the chips of the image, the same that a training gets."""
    index = read_index(arguments.index)
    if arguments.splits:
        index = index.split(*arguments.splits)
    proposals = None
    if arguments.proposals:
        proposals = read_proposals(arguments.proposals, index.digest())
    row = find_image(index, arguments.image)
    image = scenes(index, background=True).part(slice(row, row + 1))
    pad = torch.full((3,), 128, dtype=torch.uint8)
    return ChipDataset(
        image, chip_plan(recipe.chips), pad, arguments.seed, arguments.epoch, proposals
    )


def anchor_labels(rpn: ScaleAwareRpn, stride: int, target: dict[str, Tensor], size: int) -> Any:
    """Return a chip's anchors (a, 4) and their labels (a,): 1 object, 0 background, -1 neither."""
    cells = -(-size // stride)
    chip = ImageList(torch.zeros(1, 3, size, size), [(size, size)])
    anchors = rpn.anchor_generator(chip, [torch.zeros(1, 1, cells, cells)])
    labels, _ = rpn.assign_targets_to_anchors(anchors, [target])
    return anchors[0].numpy(), labels[0].numpy()


def outline(axis: Axes, box: Any, kind: str) -> None:
    """Draw a box in its style, on a dark edge that shows on any image."""
    x1, y1, x2, y2 = (float(value) for value in box)
    style = STYLES[kind]
    if kind != ANCHOR:
        dark = {"edgecolor": "black", "linewidth": style["linewidth"] + 1.2, "alpha": 0.6}
        axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, **dark))
    axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, **style))


def unlearned(chips: ChipDataset, mirrored: bool) -> set[int]:
    """Return the rows of the image's objects that may be learned, but in no chip are."""
    scene, table = chips.images[0], chips.table
    mine = np.flatnonzero(table.mirrored == mirrored).tolist()
    learned = {row for number in mine for row in table.learned(number).tolist()}
    return set(np.flatnonzero(~scene.ignored).tolist()) - learned


def draw_overview(axis: Axes, chips: ChipDataset, numbers: list[int], mirrored: bool) -> None:
    """Draw the whole image, its objects as they count at one scale, and the scale's chips."""
    scene, table = chips.images[0], chips.table
    image = decode(scene.path)
    axis.imshow((image.flip(2) if mirrored else image).permute(1, 2, 0).numpy())
    learned = {row for number in numbers for row in table.learned(number).tolist()}
    nowhere = unlearned(chips, mirrored)
    for row, box in enumerate(place(scene.boxes, *scene.size, mirrored)):
        outline(axis, box, LEARNED if row in learned else passed_over(scene, row, nowhere))
    for order, number in enumerate(numbers, start=1):
        window = table.windows[number]
        outline(axis, window, POSITIVE if len(table.learned(number)) else NEGATIVE)
        # Chips can share a corner; their numbers move along.
        at = (window[0] + 0.03 * scene.size[0] * order, window[1] + 0.02 * scene.size[1])
        axis.text(*at, str(order), fontsize=7, va="top", bbox={"pad": 1, "fc": "white", "lw": 0})


def passed_over(scene: Scene, row: int, nowhere: set[int]) -> str:
    """Return how an object counts where it is not learned."""
    return IGNORED_ONE if scene.ignored[row] else NOWHERE if row in nowhere else INVALID


def draw_chip(axis: Axes, chips: ChipDataset, number: int, labels: Any) -> str:
    """Draw one chip as it is trained on; return the counts of its objects and anchors."""
    scene, mirrored, chip = chips.chip(number)
    axis.imshow(chips[number].image.permute(1, 2, 0).numpy())
    anchors, label = labels
    draw_anchors(axis, anchors, label)
    nowhere, kinds = unlearned(chips, mirrored), []
    for box, valid, row in zip(chip.boxes, chip.valid, chip.object_rows, strict=True):
        kinds.append(LEARNED if valid else passed_over(scene, row, nowhere))
        outline(axis, box, kinds[-1])
    axis.set_xlim(0, chips.plan.size)
    axis.set_ylim(chips.plan.size, 0)
    counts = [int((label == value).sum()) for value in (1, 0, -1)]
    return (
        f"{kinds.count(LEARNED)} of {len(kinds)} objects learned\n"
        "anchors: {} object, {} background, {} left out".format(*counts)
    )


def draw_anchors(axis: Axes, anchors: np.ndarray, label: np.ndarray) -> None:
    """Draw some anchors that count as objects, and marks for some others, growing with them."""
    positive = anchors[label == 1]
    for box in positive[:: len(positive) // ANCHORS + 1]:
        outline(axis, box, ANCHOR)
    rng = np.random.default_rng(0)
    for value, (_, style) in MARKS.items():
        some = rng.permutation(anchors[label == value])[:MARKED]
        x, y = (some[:, :2] + some[:, 2:]).T / 2
        side = np.sqrt((some[:, 2:] - some[:, :2]).prod(1))
        axis.scatter(x, y, s=side / anchors.max() * 40, linewidths=0.3, edgecolors="white", **style)


def draw(chips: ChipDataset, recipe: DetectionRecipe, arguments: argparse.Namespace) -> plt.Figure:
    """Draw the rows of all scales with one legend."""
    scene, table, plan = chips.images[0], chips.table, chips.plan
    mine = table.mirrored == arguments.mirrored
    levels = [np.flatnonzero(mine & (table.scales == k)).tolist() for k in range(len(plan.scales))]
    shown = min(max(len(level) for level in levels), arguments.chips)
    figure, axes = plt.subplots(
        len(levels),
        1 + shown,
        figsize=(max(CELL * (WIDER + shown) + 0.6, NARROWEST), (CELL + 0.6) * len(levels) + 1.0),
        width_ratios=[WIDER, *[1] * shown],
        squeeze=False,
        layout="constrained",
    )
    stride = recipe.backbone.output_stride
    rpn = ScaleAwareRpn(recipe.rpn.channels, recipe.rpn)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_axis_off()
    for scale, (numbers, row) in enumerate(zip(levels, axes, strict=True)):
        draw_overview(row[0], chips, numbers, arguments.mirrored)
        factor = plan.scales[scale].resize_factor(*scene.size)
        low, high = plan.scales[scale].valid_range
        more = f", {shown} drawn" if len(numbers) > shown else ""
        row[0].set_title(
            f"scale {scale}: x {factor:.3g}, objects of {low:g} to {high:g} px\n"
            f"chips: {len(numbers)}{more}",
            fontsize=7,
        )
        negative = [number for number in numbers if not len(table.learned(number))]
        positive = numbers[: max(0, min(shown, len(numbers)) - len(negative))]
        for number, axis in zip([*positive, *negative], row[1:], strict=False):
            labels = anchor_labels(rpn, stride, chips[number].target, plan.size)
            kind = "negative" if number in negative else "positive"
            text = draw_chip(axis, chips, number, labels)
            axis.set_title(f"chip {numbers.index(number) + 1}, {kind}: {text}", fontsize=6)
    explain(figure)
    name = f"{scene.path.name}, {scene.size[0]} x {scene.size[1]} pixels"
    mirrored = ", mirrored" if arguments.mirrored else ""
    figure.suptitle(f"{name}{mirrored}\n{verdict(chips, arguments.mirrored)}", fontsize=9)
    return figure


def verdict(chips: ChipDataset, mirrored: bool) -> str:
    """Say how many of the image's objects are learned, and where that is not all, why."""
    count = int((~chips.images[0].ignored).sum())
    nowhere = len(unlearned(chips, mirrored))
    if not count:
        return "no object to learn"
    if not nowhere:
        return f"objects learned: {count} of {count}"
    return (
        f"objects learned: {count - nowhere} of {count}; the others are in no valid_range, or "
        "too long or too thin for the chips"
    )


def explain(figure: plt.Figure) -> None:
    """Add the legend, on a grey that shows white and yellow lines."""
    lines = {
        kind: Line2D([], [], color=style["edgecolor"], lw=2, ls=style["linestyle"])
        for kind, style in STYLES.items()
    }
    marks = {
        kind: Line2D([], [], ls="", markeredgecolor="white", markeredgewidth=0.5, **style)
        for kind, style in MARKS.values()
    }
    handles = {**lines, **marks}
    legend = figure.legend(
        handles.values(),
        handles,
        loc="outside lower center",
        ncols=3,
        fontsize=7,
        handlelength=3.5,
    )
    legend.get_frame().set_facecolor("#808080")


def main() -> None:
    arguments = parse()
    recipe = load_file(arguments.recipe, DetectionRecipe)
    chips = open_chips(arguments, recipe)
    log.info("%s: %s", arguments.image, verdict(chips, arguments.mirrored))
    figure = draw(chips, recipe, arguments)
    kind = arguments.output.suffix.removeprefix(".") or "png"
    with atomic(arguments.output) as temporary:
        figure.savefig(temporary, format=kind, dpi=160)


if __name__ == "__main__":
    run(main)
