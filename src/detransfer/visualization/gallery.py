"""Rows of images with what each network makes of them: the layout of Figures 8 and 9."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.patches import Rectangle
from PIL import Image

from detransfer.data.masks import VOID

CHOSEN = {"largest gain": 2, "largest loss": 1, "random": 2}  # images of each kind
SEED = 0  # of the random images
TILE, LARGEST, WIDTH = 0.6, 0.85, 3.3  # inches: an image, and one column of a page
STYLE: dict[Any, Any] = {"font.size": 6, "axes.titlesize": 6}


@dataclass(frozen=True)
class Row:
    """One image: the view (s, s, 3), what is written beside it, and a map (any size) a column.

    Beside it stand the ``kind`` of its choice and its ``gain``, under it the ``credit``.
    ``objects`` (s, s): where the objects are, outlined on everything. ``square``: left, top, width
    and height of a blank square that is drawn on the view.
    """

    view: np.ndarray
    kind: str
    gain: float
    credit: str
    maps: Sequence[np.ndarray]
    objects: np.ndarray | None = None
    square: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Scale:
    """What the colours of the maps mean."""

    colours: str
    top: float
    label: str


def choose(table: pd.DataFrame) -> pd.DataFrame:
    """Return the images to show, one row each, with ``chosen_as`` and the number of ``candidates``.

    The table has a ``gain`` for each image: those with the largest, the one with the least, and a
    few at random among the rest. Images without a gain are no candidates.
    """
    candidates = table.dropna(subset=["gain"])
    left = candidates.sort_values(["gain", "image_id"], ascending=[False, True])
    parts = []
    for kind, count in CHOSEN.items():
        if kind == "random":
            part = left.sample(min(count, len(left)), random_state=SEED)
        else:
            part = left.head(count) if kind == "largest gain" else left.iloc[::-1].head(count)
        left = left.drop(part.index)
        parts.append(part.assign(chosen_as=kind))
    return pd.concat(parts).assign(candidates=len(candidates))


def credit_of(image_id: int, path: str) -> str:
    """Return what an image is named by in a picture: its id, which no other has, and its file."""
    return f"{image_id}: {Path(path).stem}"


def note_of(count: int) -> str:
    """Return what the numbers in a picture are, the means being of so many images."""
    return f"above: mean of {count:,} images\nbeside an image: its gain, points"


def central_picture(image: Image.Image, size: int, resize: int, labels: bool = False) -> np.ndarray:
    """Return the central view (size, size, ...) of an image, or of a mask of labels."""
    scale = resize / min(image.size)
    width, height = (max(resize, int(side * scale)) for side in image.size)
    method = Image.Resampling.NEAREST if labels else Image.Resampling.BILINEAR
    resized = image.resize((width, height), method)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def view_of(path: Path, size: int, resize: int) -> np.ndarray:
    """Return the central view (size, size, 3) of an image file."""
    with Image.open(path) as image:
        return central_picture(image.convert("RGB"), size, resize)


def draw(rows: Sequence[Row], titles: Sequence[str], scale: Scale, note: str) -> plt.Figure:
    """Draw the images, a column each for the view and every map, and below the scale and a note.

    The ``note`` says what the numbers in the picture are, and of how many images.
    """
    with plt.rc_context(STYLE):
        across = 1 + len(titles)
        tile = min(LARGEST, max(TILE, (WIDTH - 0.4) / across))
        size = (tile * across + 0.4, (tile + 0.16) * len(rows) + 0.82)
        figure, grid = plt.subplots(len(rows), across, figsize=size, squeeze=False)
        figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.03, wspace=0.01, hspace=0.01)
        for axes, title in zip(grid[0], ("image", *titles), strict=True):
            axes.set_title(title, pad=2)
        for axes, row in zip(grid, rows, strict=True):
            _draw_row(axes, row, scale)
        shades = plt.cm.ScalarMappable(plt.Normalize(0, scale.top), scale.colours)
        bar = figure.colorbar(
            shades,
            ax=grid,
            location="bottom",
            aspect=40,
            shrink=0.6,
            pad=0.01,
            label=f"{scale.label}\n{note}",
        )
        bar.outline.set_linewidth(0.4)
        bar.ax.tick_params(width=0.4, length=2)
        return figure


def shown(runs: Iterable[str], contrasts: Iterable[tuple[str, str]]) -> list[str]:
    """Return the runs that have a column: those of the contrasts, in their own order."""
    named = {name for pair in contrasts for name in pair}
    return [name for name in runs if name in named]


def _draw_row(axes: np.ndarray, row: Row, scale: Scale) -> None:
    size = len(row.view)
    place = (-0.5, size - 0.5, size - 0.5, -0.5)
    axes[0].imshow(row.view)
    axes[0].set_ylabel("\n".join([*row.kind.split(), f"{row.gain:+.1f}"]), labelpad=2)
    credit = axes[0].set_xlabel(row.credit, loc="left", fontsize=5, labelpad=1.5)
    credit.set_in_layout(False)  # it may be wider than its image
    if row.square is not None:
        left, top, width, height = row.square
        for colour, thick in (("black", 1.6), ("white", 0.7)):
            corner = (left - 0.5, top - 0.5)
            axes[0].add_patch(Rectangle(corner, width, height, fill=False, ec=colour, lw=thick))
    for panel, values in zip(axes[1:], row.maps, strict=True):
        panel.imshow(
            values,
            cmap=scale.colours,
            vmin=0,
            vmax=scale.top,
            extent=place,
            interpolation="bilinear",
        )
    for panel in axes:
        panel.set(xticks=[], yticks=[], xlim=place[:2], ylim=place[2:])
        panel.spines[:].set_visible(False)
        if row.objects is not None:
            inside = (row.objects > 0) & (row.objects != VOID)
            if inside.all() or not inside.any():
                continue  # there is no outline, and Matplotlib would warn
            for colour, thick in (("black", 1.0), ("white", 0.5)):
                panel.contour(inside, levels=[0.5], colors=colour, linewidths=thick)
