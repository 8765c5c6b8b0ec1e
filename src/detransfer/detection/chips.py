"""SNIPER's chips: small windows, at each scale, around the objects that suit the scale.

After Singh, Najibi and Davis, "SNIPER: Efficient Multi-Scale Training" (2018), and its public code
(``chip_generator.py``, ``cchips.cpp``, ``data_workers.py``). An image is resized by the factor of
each scale; windows of ``size`` pixels on a dense grid are candidates; the fewest are kept,
greedily, that hold every box of the scale's range whole. What an image yields depends on its boxes:
a large object takes one coarse chip, a crowd of small ones several fine chips. This module says
what a chip is; :mod:`detransfer.detection.chip_planner` chooses them.

All boxes are float (n, 4) arrays ``x1 y1 x2 y2`` in pixels of the original image, half-open; a
box's *size* is the square root of its area there. Where the authors' code differs:

- coordinates stay floats (theirs are cut to whole pixels and rounded again in the chip);
- a window is widened to whole pixels of the original image, and the chip's boxes are scaled by what
  the crop is really resized by, at 512 pixels a per cent or two less than the scale's factor;
- the stride is drawn for each image and not for each epoch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from detransfer.console import InputError

Numbers = int | np.ndarray
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
        return float(self.resize_factors(np.array([[width, height]]))[0])

    def resize_factors(self, sizes: np.ndarray) -> np.ndarray:
        """Return for images of these widths and heights (n, 2) what each is enlarged by (n,)."""
        if self.factor is not None:
            return np.full(len(sizes), float(self.factor))
        longest, shortest = sizes.max(1), sizes.min(1)
        assert self.long is not None  # __post_init__ saw to it
        if self.short is None or self.short == -1:
            return np.asarray(self.long / longest)
        factors = self.short / shortest
        return np.where(np.round(factors * longest) > self.long, self.long / longest, factors)


@dataclass(frozen=True)
class ChipPlan:
    """What chips are cut: the scales, finest first, and the chip itself.

    ``size``: side of a chip in pixels. ``stride``: the grid's step in chip pixels, a whole number
    drawn between both ends, both included. ``minimum_side``: a box whose part in the chip is
    narrower or lower (chip pixels) is left out. ``coarsest_takes_rest``: boxes that suit no
    scale, mostly because they are too long for the chips of their range, count at the coarsest
    whatever their size (the rule for OpenImages; in SNIPER's other code they fall through).
    ``negatives_per_image``: at most so many chips without an object to learn, for each image and
    orientation; such a chip holds more than ``minimum_proposals`` of its scale (one number for each
    scale, where there are negative chips).
    """

    scales: tuple[ChipScale, ...]
    size: int = 512
    stride: tuple[int, int] = (56, 59)
    minimum_side: float = 10
    coarsest_takes_rest: bool = False
    negatives_per_image: int = 0
    minimum_proposals: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.scales:
            raise InputError("a chip plan needs at least one scale")
        if not 1 <= self.stride[0] <= self.stride[1] < self.size - 1:
            raise InputError(f"stride {self.stride}: must rise and lie in 1 .. {self.size - 2}")
        if self.minimum_side < 0:
            raise InputError(f"minimum_side {self.minimum_side}: must be 0 or more")
        if self.negatives_per_image and len(self.minimum_proposals) != len(self.scales):
            raise InputError(
                f"minimum_proposals {self.minimum_proposals}: give one number for each of the "
                f"{len(self.scales)} scales"
            )


@dataclass(frozen=True)
class Chip:
    """A window to crop, the size to resize it to, and the objects in it.

    ``window``: whole pixels ``(x1, y1, x2, y2)`` of the original image, half-open. ``factor``: that
    of its scale. ``width``, ``height``: pixels after resizing, at most the plan's size. ``boxes``
    (n, 4) float32 in chip pixels, clipped to the chip; ``object_rows`` (n,) rows of the image's
    objects; ``valid`` (n,): to be learned here. The others are out of the range, cut off, learned
    in another chip, or ignored: no background either. In a negative chip no object is valid.
    ``valid_range``: sizes in chip pixels.
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


def place(
    boxes: np.ndarray, widths: Numbers, heights: Numbers, mirrored: bool | np.ndarray
) -> np.ndarray:
    """Return boxes (n, 4) as float64, clipped to their images and flipped where ``mirrored``.

    Width and height in pixels, and whether it is mirrored, of the one image, or (n,) of each box's.
    """
    x1, y1, x2, y2 = np.asarray(boxes, np.float64).reshape(-1, 4).T
    x1, x2 = np.clip(x1, 0, widths), np.clip(x2, 0, widths)
    x1, x2 = np.where(mirrored, widths - x2, x1), np.where(mirrored, widths - x1, x2)
    return np.column_stack([x1, np.clip(y1, 0, heights), x2, np.clip(y2, 0, heights)])


def show(
    window: np.ndarray,
    boxes: np.ndarray,
    learned: np.ndarray,
    plan: ChipPlan,
    scale_index: int,
    factor: float,
) -> Chip:
    """Return the chip that a window (4,) of an image cuts: all boxes (n, 4) that it shows.

    ``learned`` (v,): the rows of the boxes that are valid here.
    """
    x1, y1, x2, y2 = (int(value) for value in window)
    width, height = (
        min(plan.size, max(1, round(extent * factor))) for extent in (x2 - x1, y2 - y1)
    )
    enlarged = np.array([width / (x2 - x1), height / (y2 - y1)] * 2)
    inside = (np.clip(boxes, [x1, y1, x1, y1], [x2, y2, x2, y2]) - [x1, y1, x1, y1]) * enlarged
    sides = inside[:, 2:] - inside[:, :2]
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
        valid=np.isin(rows, learned),
        valid_range=(low * factor, high * factor),
    )
