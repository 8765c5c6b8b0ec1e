"""Figures as they are printed: caught when a program saves them, and held against a page."""

from __future__ import annotations

import itertools
from pathlib import Path

import matplotlib
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from detransfer.visualization import plotting

COLUMN, PAGE, SMALLEST = 3.5, 9.0, 5  # inches, and points


def catch_figures(patch: pytest.MonkeyPatch) -> list[Figure]:
    """Return the list to which every figure is added that a program saves from now on."""
    save, caught = plotting.save_figure, []
    matplotlib.rcdefaults()  # as in a process of their own

    def keep(figure: Figure, pdf: Path, png: Path, *more: int) -> None:
        caught.append(figure)
        save(figure, pdf, png, *more)

    patch.setattr(plotting, "save_figure", keep)
    return caught


def written(figure: Figure) -> list[Text]:
    """Return every text that a reader sees."""
    hidden = [
        text
        for axes in figure.axes
        if not axes.axison
        for axis in (axes.xaxis, axes.yaxis)
        for text in axis.findobj(Text)
    ]
    texts = [text for text in figure.findobj(Text) if text not in hidden]
    return [text for text in texts if text.get_visible() and text.get_text().strip()]


def check_column(figure: Figure) -> None:
    """Assert that a figure fits a column, and that its letters are readable, apart and inside."""
    figure.draw_without_rendering()
    width, height = figure.get_size_inches()
    assert width <= COLUMN and height <= PAGE
    texts = written(figure)
    small = [text.get_text() for text in texts if text.get_fontsize() < SMALLEST]
    assert not small, f"letters below {SMALLEST} points: {small}"
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    left, bottom, right, top = figure.bbox.padded(1).extents
    beyond = [
        name
        for name, box in boxes
        if box.x0 < left or box.y0 < bottom or box.x1 > right or box.y1 > top
    ]
    assert not beyond, f"beyond the edge: {beyond}"
    overlapping = [
        (one, two)
        for (one, first), (two, second) in itertools.combinations(boxes, 2)
        if min(first.x1, second.x1) - max(first.x0, second.x0) > 1
        and min(first.y1, second.y1) - max(first.y0, second.y0) > 1
    ]
    assert not overlapping, f"on each other: {overlapping}"
