"""What all figures share: letters for one column of print, a look for each pre-training, files."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from detransfer.files import atomic

STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.8,
    "xtick.major.width": 0.8,
    "ytick.major.width": 0.8,
}
# Those of the paper look the same in every figure; the numbers are places in seaborn's palette.
KNOWN = {
    "imagenet_cls": (0, "o"), "imagenet_loc": (1, "s"), "coco": (2, "^"), "openimages": (3, "D"),
    "random": (7, "v"), "imagenet_loc_labels": (5, "P"), "coco_labels": (4, "X"),
    "openimages_labels": (6, "*"),
}  # fmt: skip
OTHERS = ((9, "<"), (8, ">"), (4, "p"), (5, "h"), (6, "d"))
Look = tuple[tuple[float, float, float], str]  # colour and marker


def looks(names: Sequence[str]) -> dict[str, Look]:
    """Return a colour and a marker for each pre-training, in their order.

    Colour-blind readers can tell the colours apart, and where there are many, the markers.
    """
    palette, others = sns.color_palette("colorblind"), itertools.cycle(OTHERS)
    chosen = {name: KNOWN.get(name) or next(others) for name in names}
    return {name: (palette[place], marker) for name, (place, marker) in chosen.items()}


def draw_line(axes: Axes, x: Any, mean: Any, deviation: Any, look: Look, label: str) -> None:
    """Draw means with bars of one deviation (none where it is NaN) as a line."""
    colour, marker = look
    axes.errorbar(
        x,
        mean,
        deviation,
        color=colour,
        marker=marker,
        markersize=3,
        linewidth=1.2,
        elinewidth=0.8,
        capsize=1.5,
        label=label,
    )


def name_lines(figure: Figure, columns: int = 3) -> None:
    """Put the names of all lines, each once, above the figure, where they cover nothing."""
    lines: dict[str, Any] = {}
    for axes in figure.axes:
        for line, name in zip(*axes.get_legend_handles_labels(), strict=True):
            lines.setdefault(name, line)
    figure.legend(
        list(lines.values()),
        list(lines),
        frameon=False,
        loc="outside upper center",
        ncols=columns,
    )


def save_figure(figure: Figure, pdf: Path, png: Path, dpi: int = 300) -> None:
    """Write a figure in both forms, each whole; equal figures give equal files."""
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells of every glyph
    with atomic(pdf) as temporary, plt.rc_context({"pdf.fonttype": 42}):  # text stays text
        figure.savefig(temporary, format="pdf", dpi=dpi, metadata={"CreationDate": None})
    with atomic(png) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi, metadata={"Software": None})
    plt.close(figure)
