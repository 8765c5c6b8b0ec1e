"""Mask-out maps (Figure 9): what a classifier says when a blank square hides a part of the image.

The square, of the mean colour, is centred at each position of a grid over the view (the paper's
section 4.4: 60 x 60 pixels of 224). Its numbers: the mean drop of the true class's probability, and
the share of positions at which it falls below half of what it is without a square.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from detransfer.backbone import conv5, mean_colour, normalise
from detransfer.visualization.grid import Grid
from detransfer.visualization.local_network import LocalNetwork, Step
from detransfer.visualization.windows import Window

log = logging.getLogger(__name__)
HALF = 0.5
TOLERANCE = {"fp32": 1e-3, "bf16": 0.05}  # of the largest value: what rounding may change


@dataclass(frozen=True)
class _Part:
    """Squares that are looked at together: where, and what of that window they hide."""

    cells: tuple[Tensor, Tensor]  # rows (n, h, 1) and columns (n, 1, w) of the view
    hidden: Tensor  # bool (n, 1, h, w)
    window: Window


class MaskOut:
    """Hides each square of a grid in views and asks a frozen backbone about them.

    ``batch`` squares are asked about at once, in ``precision`` "fp32" or "bf16", on the backbone's
    device.
    """

    def __init__(self, backbone: nn.Module, grid: Grid, batch: int, precision: str) -> None:
        self._backbone, self._precision = backbone, precision
        self._device = next((p.device for p in backbone.parameters()), torch.device("cpu"))
        self._network, self._checked = LocalNetwork(backbone), False
        self._grid = grid
        self._parts = [self._part(grid, places) for places in _batches(grid.side**2, batch)]
        self._steps: list[list[Step]] = []

    @torch.inference_mode()
    def features(self, view: Tensor) -> Tensor:
        """Return the average-pooled Conv5 (side * side, c) float32, with each square hidden.

        ``view`` uint8 (3, s, s), on the backbone's device.
        """
        found = self._pooled(view)
        if not self._checked and not self._agrees(view, found):
            log.warning("this backbone's layers change what they are given; it runs whole, slower")
            self._network, self._steps = LocalNetwork(self._backbone, whole=True), []
            found = self._pooled(view)
        self._checked = True
        return found

    def _pooled(self, view: Tensor) -> Tensor:
        image = normalise(view[None], self._backbone)
        image = image.contiguous(memory_format=torch.channels_last)
        colour = mean_colour(self._backbone).to(self._device).view(1, 3, 1, 1)
        blank = normalise(colour, self._backbone)
        pooled = []
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._precision == "bf16"):
            maps = self._network.maps(image)
            if not self._steps:
                self._steps = [self._network.steps(maps, part.window) for part in self._parts]
            for part, steps in zip(self._parts, self._steps, strict=True):
                around = image[0][:, part.cells[0], part.cells[1]].transpose(0, 1)
                changed = torch.where(part.hidden, blank, around)
                changed = changed.contiguous(memory_format=torch.channels_last)
                pooled.append(self._network.run(steps, maps, changed).float().mean((2, 3)))
        return torch.cat(pooled)

    def _agrees(self, view: Tensor, found: Tensor) -> bool:
        """Whether the backbone as it is says the same of the square in the middle."""
        middle = len(found) // 2
        square = torch.from_numpy(self._grid.squares()[middle]).to(self._device)
        colour = mean_colour(self._backbone).to(self._device).view(3, 1, 1)
        hidden = torch.where(square, colour, view)[None]
        expected = conv5(self._backbone, hidden, self._precision).mean((2, 3))[0]
        difference = (found[middle] - expected).abs().max()
        return bool(difference <= TOLERANCE[self._precision] * expected.abs().max())

    def _part(self, grid: Grid, places: np.ndarray) -> _Part:
        """Return squares by their places in the grid, row by row, in windows of one size."""
        starts, stops = np.array(grid.intervals()).T
        row, column = np.divmod(places, grid.side)
        (top, height), (left, width) = (
            _unified(starts[line], stops[line], grid.size) for line in (row, column)
        )
        down = top[:, None] + np.arange(height)
        right = left[:, None] + np.arange(width)
        hidden = _between(starts[row], down, stops[row])[:, None, :, None]
        hidden = hidden & _between(starts[column], right, stops[column])[:, None, None, :]
        cells, right_cells = (torch.from_numpy(axis).to(self._device) for axis in (down, right))
        return _Part(
            (cells[:, :, None], right_cells[:, None, :]),
            torch.from_numpy(hidden).to(self._device),
            Window(top, left, height, width),
        )


def _batches(count: int, size: int) -> list[np.ndarray]:
    return np.array_split(np.arange(count), math.ceil(count / size))


def _unified(starts: np.ndarray, stops: np.ndarray, length: int) -> tuple[np.ndarray, int]:
    """Return ranges of one size that hold these, within ``length``: their starts, and the size."""
    size = int((stops - starts).max())
    return np.minimum(starts, length - size), size


def _between(starts: np.ndarray, cells: np.ndarray, stops: np.ndarray) -> np.ndarray:
    inside: np.ndarray = (cells >= starts[:, None]) & (cells < stops[:, None])
    return inside


def probabilities(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return what a linear probe says of features (n, d): probabilities (n, classes)."""
    return torch.softmax(torch.addmm(bias, features, weight), 1)


def mean_drop(maps: np.ndarray, unmasked: np.ndarray) -> np.ndarray:
    """Return by how much the probability falls on average, (n,), of maps (n, g, g)."""
    drop: np.ndarray = unmasked - maps.mean((1, 2), dtype=np.float64)
    return drop


def fragile_share(maps: np.ndarray, unmasked: np.ndarray) -> np.ndarray:
    """Return the share of positions with less than half of the unmasked probability, (n,)."""
    fragile: np.ndarray = (maps < HALF * unmasked[:, None, None]).mean((1, 2))
    return fragile
