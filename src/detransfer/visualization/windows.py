"""Windows of maps: what of a network's maps a change of part of the image reaches.

One window for each of ``n`` images, all of one size, at places of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Kernel:
    """What a sliding layer reads along both axes, (rows, columns) each, in cells of its input."""

    size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @property
    def span(self) -> tuple[int, int]:
        """How far the last cell that one output reads is from the first."""
        return self.dilation[0] * (self.size[0] - 1), self.dilation[1] * (self.size[1] - 1)


POINT = Kernel((1, 1), (1, 1), (0, 0), (1, 1))
POINTWISE = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.Identity, nn.Dropout),
)


def kernel_of(layer: nn.Module) -> Kernel | None:
    """Return what a layer reads for a cell, or None where that is not known to be a fixed window.

    Layers of PyTorch's own alone: those that inherit from them may read something else.
    """
    if type(layer) in POINTWISE:
        return POINT
    if type(layer) is nn.Conv2d:
        fixed = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    else:
        fixed = type(layer) is nn.MaxPool2d and not (layer.ceil_mode or layer.return_indices)
    if not fixed:
        return None
    parts: list[Any] = [layer.kernel_size, layer.stride, layer.padding, layer.dilation]
    return Kernel(*(_pair(part) for part in parts))


def without_padding(layer: nn.Module, maps: Tensor) -> Tensor:
    """Run a convolution or maximum on maps whose padding is a part of them."""
    if isinstance(layer, nn.Conv2d):
        weights = (layer.weight, layer.bias)
        return functional.conv2d(maps, *weights, layer.stride, 0, layer.dilation, layer.groups)
    assert isinstance(layer, nn.MaxPool2d)
    sizes = (layer.kernel_size, layer.stride, 0, layer.dilation)
    return functional.max_pool2d(maps, *sizes)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


@dataclass(frozen=True)
class Window:
    """Cells ``top`` to ``top + height`` and ``left`` to ``left + width``, of each of n maps.

    ``top`` and ``left``, int (n,), may lie outside of the map: the rest of it is its padding.
    """

    top: np.ndarray
    left: np.ndarray
    height: int
    width: int

    def share(self, shape: tuple[int, int]) -> float:
        """Return how much of a map (height, width) it is."""
        return self.height * self.width / (shape[0] * shape[1])

    def holds(self, other: Window) -> bool:
        """Whether every cell of the other window is in this one."""
        before = (other.top >= self.top) & (other.left >= self.left)
        below = other.top + other.height <= self.top + self.height
        right = other.left + other.width <= self.left + self.width
        return bool((before & below & right).all())

    def reached(self, kernel: Kernel, shape: tuple[int, int]) -> Window:
        """Return the outputs, of a map (height, width), that read any of its cells."""
        top, height = _reached(self.top, self.height, kernel, 0, shape[0])
        left, width = _reached(self.left, self.width, kernel, 1, shape[1])
        return Window(top, left, height, width)

    def read_by(self, kernel: Kernel) -> Window:
        """Return the inputs that outputs in this window read, padding included."""
        (down, right), (above, before), (high, wide) = kernel.stride, kernel.padding, kernel.span
        return Window(
            self.top * down - above,
            self.left * right - before,
            (self.height - 1) * down + high + 1,
            (self.width - 1) * right + wide + 1,
        )


def _reached(
    start: np.ndarray, size: int, kernel: Kernel, axis: int, length: int
) -> tuple[np.ndarray, int]:
    """Return the first and the number of the outputs along an axis that read inputs of a range.

    The number is one for all, so that at the map's end some are counted that read none of it.
    """
    stride, span = kernel.stride[axis], kernel.span[axis]
    count = min(length, (size - 1 + span) // stride + 1)
    first = -((span - kernel.padding[axis] - start) // stride)
    return np.clip(first, 0, length - count), count


def complete(count: int, shape: tuple[int, int]) -> Window:
    """Return the window that is all of a map (height, width), for each of ``count`` images."""
    corner = np.zeros(count, int)
    return Window(corner, corner, *shape)


def rows(maps: Tensor) -> Tensor:
    """Return the vectors (n * h * w, c) of maps (n, c, h, w), without a copy if channels last."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


class Reader:
    """Reads a window of maps that are known in another window, and elsewhere are all alike.

    ``known`` and ``wanted``: windows of maps (height, width) ``shape``; ``padding``: what is read
    outside of the map.
    """

    def __init__(
        self,
        known: Window,
        wanted: Window,
        shape: tuple[int, int],
        device: torch.device,
        padding: float = 0,
    ) -> None:
        self.padding = padding
        self.shape = (len(wanted.top), wanted.height, wanted.width)
        down = wanted.top[:, None] + np.arange(wanted.height)
        right = wanted.left[:, None] + np.arange(wanted.width)
        on_map = _grid((down >= 0) & (down < shape[0]), (right >= 0) & (right < shape[1]))
        place = np.where(on_map, _places(down, right, shape[1]), shape[0] * shape[1])
        down, right = down - known.top[:, None], right - known.left[:, None]
        inside = _grid((down >= 0) & (down < known.height), (right >= 0) & (right < known.width))
        image = np.arange(len(known.top))[:, None, None] * known.height * known.width
        own = shape[0] * shape[1] + 1 + image + _places(down, right, known.width)
        index = np.where(inside, own, place).ravel()
        self.index = torch.from_numpy(index).to(device, torch.int32)

    def __call__(self, known: Tensor, alike: Tensor) -> Tensor:
        """Return the wanted window (n, c, h, w), of the known one and of the map (1, c, h, w)."""
        outside = alike.new_full((1, alike.shape[1]), self.padding)
        vectors = torch.cat([rows(alike), outside, rows(known)])
        found = vectors.index_select(0, self.index)
        return found.view(*self.shape, -1).permute(0, 3, 1, 2)


def _grid(down: np.ndarray, right: np.ndarray) -> np.ndarray:
    grid: np.ndarray = down[:, :, None] & right[:, None, :]
    return grid


def _places(down: np.ndarray, right: np.ndarray, width: int) -> np.ndarray:
    places: np.ndarray = down[:, :, None] * width + right[:, None, :]
    return places
