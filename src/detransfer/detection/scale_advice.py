"""Which scales and valid ranges suit a data set, from the sizes of its objects.

SNIPER's ranges were chosen by hand for COCO (800 x 1280 images of 640 x 480). What they say in
pixels of a 512-pixel chip: an object is learnt at a scale where it measures up to about half of
the chip, the coarsest scale takes what is larger than a quarter of it, and neighbouring ranges
overlap. The authors' advice to users is the same: train objects at 30 to 450 pixels of a chip, and
leave the extremes to a scale only where no other suits them better. This module turns that into
numbers for any data set and chip size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from detransfer.console import InputError
from detransfer.detection.chips import ChipScale

LARGEST = 0.48  # of a chip: 80 px at 3 x, 150 px at 1.667 x in chips of 512
SMALLEST = 32 / 512  # of a chip: what the finest scale should make of small objects
OVERLAP = 0.8  # a coarser range begins at this share of where the finer one ends
STEP = 2.2  # largest ratio of neighbouring scales; the authors' are 1.8 and 2.9
LEAST_STEP = 1.1  # smallest ratio: a scale hardly finer than the next shows nothing new
MOST_ENLARGED = 3.0  # the authors' largest factor; beyond it, enlarging adds no detail


@dataclass(frozen=True)
class AdvisedScale:
    """One scale of the advice: the scale itself, and what of the data set falls into it.

    ``share`` of all objects are in the valid range; ``median_in_chip`` is the median of their
    sizes there, in chip pixels (NaN for none).
    """

    scale: ChipScale
    share: float
    median_in_chip: float


def advise_scales(sizes: np.ndarray, longest_sides: np.ndarray, chip: int) -> list[AdvisedScale]:
    """Return scales for chips of ``chip`` pixels, finest first, whose ranges leave no gap.

    ``sizes`` (n,) are sqrt(area) of the objects and ``longest_sides`` (m,) those of the images, in
    original pixels. The coarsest scale fits the image into a chip; finer ones are plain factors,
    evenly spaced up to the one that brings the smallest objects (second percentile) to 1/16 of a
    chip, but to no more than 3; none where that is less than a tenth finer. Raises InputError
    without objects or images.
    """
    if not len(sizes) or not len(longest_sides):
        raise InputError("no object or no image to advise on; choose splits that have boxes")
    coarsest = chip / float(np.median(longest_sides))
    wanted = SMALLEST * chip / float(np.quantile(sizes, 0.02))
    finest = max(coarsest, min(wanted, MOST_ENLARGED))
    ratio = finest / coarsest
    steps = math.ceil(math.log(ratio) / math.log(STEP)) if ratio > LEAST_STEP else 0
    factors = coarsest * ratio ** (np.arange(steps, -1, -1) / max(steps, 1))
    ends = [*(round(LARGEST * chip / factor) for factor in factors[:-1]), math.inf]
    starts = [0.0, *(round(OVERLAP * end) for end in ends[:-1])]
    return [
        _describe(float(factor), (start, end), place == steps, sizes, chip)
        for place, (factor, start, end) in enumerate(zip(factors, starts, ends, strict=True))
    ]


def _describe(
    factor: float, valid: tuple[float, float], fits: bool, sizes: np.ndarray, chip: int
) -> AdvisedScale:
    inside = sizes[(sizes >= valid[0]) & (sizes < valid[1])]
    scale = ChipScale(long=chip, valid_range=valid) if fits else _factor(factor, valid)
    median = float(np.median(inside)) * factor if len(inside) else math.nan
    return AdvisedScale(scale, len(inside) / len(sizes), median)


def _factor(factor: float, valid: tuple[float, float]) -> ChipScale:
    return ChipScale(factor=float(f"{factor:.3g}"), valid_range=valid)  # 2.92, but also 0.0345
