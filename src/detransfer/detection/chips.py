"""SNIPER's chips: small windows, at each scale, around the objects that suit the scale.

After Singh, Najibi and Davis, "SNIPER: Efficient Multi-Scale Training" (2018), and its public code
(``chip_generator.py``, ``cchips.cpp``, ``data_workers.py``). An image is resized by the factor of
each scale; windows of ``size`` pixels on a dense grid are candidates; the fewest are kept,
greedily, that hold every box of the scale's range whole. What an image yields depends on its boxes:
a large object takes one coarse chip, a crowd of small ones several fine chips.

All boxes are float (n, 4) arrays ``x1 y1 x2 y2`` in pixels of the original image, half-open; a
box's *size* is the square root of its area there. Where the authors' code differs:

- coordinates stay floats (theirs are cut to whole pixels and rounded again in the chip);
- a window is widened to whole pixels of the original image, and the chip's boxes are scaled by what
  the crop is really resized by, at 512 pixels a per cent or two less than the scale's factor;
- the stride is drawn for each image and not for each epoch, and every draw comes from the caller's
  generator: the same generator gives the same chips.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from detransfer.console import InputError

OPEN = (0.0, math.inf)


@dataclass(frozen=True)
class ChipScale:
    """How large an image is made, and which objects count at that size.

    ``factor`` alone: the image is enlarged by it. ``short`` and ``long`` (pixels): the shorter side
    becomes ``short``, unless the longer would then exceed ``long`` and becomes that. ``long`` alone
    (``short`` None or -1): the longer side becomes ``long``. ``valid_range``: sizes in pixels of
    the *original* image, the lower end included, the upper not. Raises InputError for any other
    mix.
    """

    short: int | None = None
    long: int | None = None
    factor: float | None = None
    valid_range: tuple[float, float] = OPEN

    def __post_init__(self) -> None:
        short = None if self.short == -1 else self.short
        if (self.factor is None) == (self.long is None) or (self.factor is not None and short):
            raise InputError(f"{self}: give either factor, or long with or without short")
        if any(value is not None and value <= 0 for value in (short, self.long, self.factor)):
            raise InputError(f"{self}: short, long and factor must be positive")
        if not 0 <= self.valid_range[0] < self.valid_range[1]:
            raise InputError(f"{self}: valid_range must rise from 0 or more; inf leaves it open")

    def resize_factor(self, width: int, height: int) -> float:
        """Return what an image of ``width`` x ``height`` pixels is enlarged by."""
        if self.factor is not None:
            return self.factor
        longest, shortest = max(width, height), min(width, height)
        assert self.long is not None  # __post_init__ saw to it
        if self.short is None or self.short == -1:
            return self.long / longest
        factor = self.short / shortest
        return self.long / longest if round(factor * longest) > self.long else factor


@dataclass(frozen=True)
class ChipPlan:
    """What chips are cut: the scales, finest first, and the chip itself.

    ``size``: side of a chip in pixels. ``stride``: the grid's step in chip pixels, a whole number
    drawn between both ends, both included. ``minimum_side``: a box whose part in the chip is
    narrower or lower (chip pixels) is left out. ``coarsest_takes_rest``: boxes that suit no
    scale, mostly because they are too long for the chips of their range, count at the coarsest
    whatever their size (the rule for OpenImages; in SNIPER's other code they fall through).
    """

    scales: tuple[ChipScale, ...]
    size: int = 512
    stride: tuple[int, int] = (56, 59)
    minimum_side: float = 10
    coarsest_takes_rest: bool = False

    def __post_init__(self) -> None:
        if not self.scales:
            raise InputError("a chip plan needs at least one scale")
        if not 1 <= self.stride[0] <= self.stride[1] < self.size - 1:
            raise InputError(f"stride {self.stride}: must rise and lie in 1 .. {self.size - 2}")
        if self.minimum_side < 0:
            raise InputError(f"minimum_side {self.minimum_side}: must be 0 or more")


@dataclass(frozen=True)
class Chip:
    """A window to crop, the size to resize it to, and the objects in it.

    ``window``: whole pixels ``(x1, y1, x2, y2)`` of the original image, half-open. ``factor``: that
    of its scale. ``width``, ``height``: pixels after resizing, at most the plan's size. ``boxes``
    (n, 4) float32 in chip pixels, clipped to the chip; ``object_rows`` (n,) rows of the image's
    objects; ``valid`` (n,): to be learned here. The others are out of the range, cut off, learned
    in another chip, or ignored: no background either. ``valid_range``: sizes in chip pixels.
    """

    window: tuple[int, int, int, int]
    factor: float
    width: int
    height: int
    scale_index: int
    boxes: np.ndarray
    object_rows: np.ndarray
    valid: np.ndarray
    valid_range: tuple[float, float]


def image_chips(
    boxes: np.ndarray,
    width: int,
    height: int,
    plan: ChipPlan,
    rng: np.random.Generator,
    ignored: np.ndarray | None = None,
) -> list[Chip]:
    """Return the positive chips of an image of ``width`` x ``height`` pixels, finest scale first.

    ``ignored`` (n,): boxes that call for no chip and are never valid (crowds, difficult objects).
    An image without a box that suits any scale yields no chip.
    """
    boxes = np.clip(np.asarray(boxes, np.float64).reshape(-1, 4), 0, [width, height] * 2)
    usable = np.ones(len(boxes), bool) if ignored is None else ~np.asarray(ignored, bool)
    stride = int(rng.integers(plan.stride[0], plan.stride[1] + 1))
    factors = [scale.resize_factor(width, height) for scale in plan.scales]
    seeds, learnable, floors = _suitable(boxes, usable, factors, plan, stride)
    chips: list[Chip] = []
    for index, factor in enumerate(factors):
        if not seeds[index].any():
            continue
        windows = candidate_windows(width, height, factor, plan.size, stride)
        windows = windows[cover(windows, boxes[seeds[index]], rng)]
        owner = _assign(windows, boxes, learnable[index], floors[index])
        for number, window in enumerate(windows):
            chips.append(_chip(window, boxes, owner == number, plan, index, factor))
    return chips


def candidate_windows(width: int, height: int, factor: float, size: int, stride: int) -> np.ndarray:
    """Return all windows (k, 4) int64 of ``size`` chip pixels in an image enlarged by ``factor``.

    A grid of step ``stride`` from the upper left corner, and a last column and row that end with
    the image; where the image is smaller than a chip, the window ends with the image. In whole
    pixels of the original image, widened outwards.
    """

    def spans(extent: int) -> np.ndarray:
        length = size / factor
        last = max(extent - length, 0.0)
        starts = np.append(np.arange(0, last, stride / factor), last)
        ends = np.minimum(np.ceil(starts + length - 1e-9), extent)
        return np.unique(np.column_stack([np.floor(starts + 1e-9), ends]).astype(np.int64), axis=0)

    columns, rows = spans(width), spans(height)
    x = np.tile(columns, (len(rows), 1))
    y = np.repeat(rows, len(columns), axis=0)
    return np.column_stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]])


def cover(windows: np.ndarray, boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the rows of the windows (k, 4) that hold the boxes (n, 4), in the order of choice.

    A window covers a box that lies inside it whole. Again and again the window with the most boxes
    not yet covered is taken, chance deciding between equals, until no window covers any more.
    """
    windows = windows[order := rng.permutation(len(windows))]
    inside = (windows[:, None, :2] <= boxes[None, :, :2]) & (
        boxes[None, :, 2:] <= windows[:, None, 2:]
    )
    holds = np.asarray(inside.all(2))
    gain = holds.sum(1)
    chosen: list[int] = []
    while gain.any():
        window = int(gain.argmax())
        chosen.append(window)
        covered = holds[window].copy()
        gain -= holds[:, covered].sum(1)
        holds[:, covered] = False
    return order[chosen] if chosen else np.empty(0, np.int64)


def mirror(boxes: np.ndarray, width: int) -> np.ndarray:
    """Return the boxes (n, 4) of an image that is flipped left to right, ``width`` pixels wide."""
    return np.column_stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]])


def _suitable(
    boxes: np.ndarray, usable: np.ndarray, factors: list[float], plan: ChipPlan, stride: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, each (scales, n): boxes that call for a chip, boxes to learn, and their least size.

    Two windows in a row share ``size - stride`` chip pixels, so that a shorter box is whole in one
    of them; a longer one suits the coarsest scale only, where the image should fit into a chip. A
    box below the range is learned at a scale between (``box_assigner`` has no lower end there)
    without calling for a chip; the least size is that of the part that a chip shows.
    """
    sides = _sides(boxes)
    size = np.sqrt(sides.prod(1))
    longest = sides.max(1)
    seeds = np.zeros((len(factors), len(boxes)), bool)
    learnable, floors = seeds.copy(), np.zeros(seeds.shape)
    possible = usable & (sides >= 2).all(1)
    last = len(factors) - 1
    for index, (scale, factor) in enumerate(zip(plan.scales, factors, strict=True)):
        low, high = scale.valid_range
        limit = math.inf if index == last else (plan.size - stride - 1) / factor
        learnable[index] = possible & (longest < limit) & (size < high)
        seeds[index] = learnable[index] & (size >= low)
    floors[last] = plan.scales[last].valid_range[0]
    if plan.coarsest_takes_rest:
        rest = possible & ~seeds.any(0)
        seeds[last] |= rest
        floors[last, rest] = 0
    learnable[last] = seeds[last]
    return seeds, learnable, floors


def _assign(
    windows: np.ndarray, boxes: np.ndarray, learnable: np.ndarray, floor: np.ndarray
) -> np.ndarray:
    """Return for each box the one window that shows most of it (n,), the first at ties, or -1.

    The part shown must be a pixel wide and high, and of size ``floor`` (n,) or more.
    """
    upper = np.maximum(boxes[:, None, :2], windows[:, :2])
    shown = (np.minimum(boxes[:, None, 2:], windows[:, 2:]) - upper).clip(min=0)
    area = shown.prod(2)
    if not len(windows):  # the range's boxes are all larger than a chip
        return np.full(len(boxes), -1)
    best = area.argmax(1)
    rows = np.arange(len(boxes))
    enough = (shown[rows, best] >= 1).all(1) & (np.sqrt(area[rows, best]) >= floor)
    return np.where(learnable & enough, best, -1)


def _chip(
    window: np.ndarray,
    boxes: np.ndarray,
    owned: np.ndarray,
    plan: ChipPlan,
    scale_index: int,
    factor: float,
) -> Chip:
    """Return one chip: all boxes that it shows, valid where it owns them."""
    x1, y1, x2, y2 = (int(value) for value in window)
    width, height = (
        min(plan.size, max(1, round(extent * factor))) for extent in (x2 - x1, y2 - y1)
    )
    enlarged = np.array([width / (x2 - x1), height / (y2 - y1)] * 2)
    inside = (np.clip(boxes, [x1, y1, x1, y1], [x2, y2, x2, y2]) - [x1, y1, x1, y1]) * enlarged
    sides = _sides(inside)
    rows = np.flatnonzero(((sides >= plan.minimum_side) & (sides > 0)).all(1))
    low, high = plan.scales[scale_index].valid_range
    return Chip(
        window=(x1, y1, x2, y2),
        factor=factor,
        width=width,
        height=height,
        scale_index=scale_index,
        boxes=inside[rows].astype(np.float32),
        object_rows=rows,
        valid=owned[rows],
        valid_range=(low * factor, high * factor),
    )


def _sides(boxes: np.ndarray) -> np.ndarray:
    return boxes[:, 2:] - boxes[:, :2]
