"""The detector's training data: chips of an epoch, cut from images as they are asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as transform

from detransfer.data.decoding import decode
from detransfer.data.index import BOX, Index
from detransfer.detection.chips import Chip, ChipPlan, ChipScale, image_chips, mirror
from detransfer.detection.rpn import IGNORED
from detransfer.recipes import ChipRecipe, ScaleRecipe
from detransfer.training import Example


@dataclass(frozen=True)
class Scene:
    """One image with its objects: boxes (m, 4), class ids (m,), and which are only ignored (m,)."""

    path: Path
    size: tuple[int, int]
    boxes: np.ndarray
    class_ids: np.ndarray
    ignored: np.ndarray


class Scenes(Sequence[Scene]):
    """The scenes of an index, each made when it is asked for (see :func:`scenes`)."""

    def __init__(self, index: Index) -> None:
        index = index.in_order()
        objects, offsets = index.objects, index.offsets
        self.root, self.paths = index.root, index.images["path"].array
        self.sizes = index.images[["width", "height"]].to_numpy()
        self.boxes = [objects[name].to_numpy() for name in BOX]
        self.class_ids = objects["class_id"].to_numpy()
        self.ignored = np.zeros(len(objects), bool)
        for flag in ("difficult", "crowd", "group_of"):
            self.ignored |= objects[flag].to_numpy()
        filled = np.flatnonzero(offsets[1:] > offsets[:-1])
        learnt = ~self.ignored
        some = np.logical_or.reduceat(learnt, offsets[filled]) if len(filled) else learnt[:0]
        self.rows = filled[some]
        self.offsets = offsets

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, number: int) -> Scene: ...

    @overload
    def __getitem__(self, number: slice) -> list[Scene]: ...

    def __getitem__(self, number: int | slice) -> Scene | list[Scene]:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        row = self.rows[number]
        own = slice(self.offsets[row], self.offsets[row + 1])
        boxes = np.stack([side[own] for side in self.boxes], axis=1)
        width, height = (int(side) for side in self.sizes[row])
        path = self.root / self.paths[row]
        return Scene(path, (width, height), boxes, self.class_ids[own], self.ignored[own])


def scenes(index: Index) -> Sequence[Scene]:
    """Return the images of an index that have an object to learn, in its order.

    Difficult, crowd and group-of objects are not learnt (the authors drop them); images without
    any other object are left out, as in the authors' code.
    """
    return Scenes(index)


def chip_scale(recipe: ScaleRecipe) -> ChipScale:
    """Return a recipe's scale in the form the chips use; an open end becomes infinity."""
    low, high = recipe.valid_range
    valid = (low, math.inf if high is None else high)
    return ChipScale(recipe.short, recipe.long, recipe.factor, valid)


def chip_plan(recipe: ChipRecipe) -> ChipPlan:
    """Return a recipe's chips in the form that :func:`image_chips` takes."""
    return ChipPlan(
        scales=tuple(chip_scale(scale) for scale in recipe.scales),
        size=recipe.size,
        stride=recipe.stride,
        minimum_side=recipe.minimum_side,
    )


class ChipDataset(Dataset[Example]):
    """All chips of one epoch: every image as it is and mirrored, as in the authors' code.

    The chips of an image depend on (seed, epoch, image, orientation) alone.
    """

    def __init__(
        self, images: Sequence[Scene], plan: ChipPlan, pad: Tensor, seed: int, epoch: int
    ) -> None:
        self.images, self.plan, self.pad = images, plan, pad
        self.chips: list[tuple[int, bool, Chip]] = []
        for number, scene in enumerate(images):
            for mirrored in (False, True):
                rng = np.random.default_rng((seed, epoch, number, int(mirrored)))
                boxes = mirror(scene.boxes, scene.size[0]) if mirrored else scene.boxes
                found = image_chips(boxes, *scene.size, plan, rng, scene.ignored)
                self.chips.extend((number, mirrored, chip) for chip in found)

    def __len__(self) -> int:
        return len(self.chips)

    def __getitem__(self, index: int) -> Example:
        number, mirrored, chip = self.chips[index]
        scene = self.images[number]
        image = decode(scene.path)
        pixels = cut(image.flip(2) if mirrored else image, chip)
        canvas = self.pad.view(3, 1, 1).repeat(1, self.plan.size, self.plan.size)
        canvas[:, : chip.height, : chip.width] = pixels
        labels = scene.class_ids[chip.object_rows] + 1
        target = {
            "boxes": torch.as_tensor(chip.boxes, dtype=torch.float32).reshape(-1, 4),
            "labels": torch.as_tensor(
                np.where(scene.ignored[chip.object_rows], IGNORED, labels), dtype=torch.int64
            ),
            "valid": torch.as_tensor(chip.valid, dtype=torch.bool),
            "valid_range": torch.tensor(chip.valid_range, dtype=torch.float32),
            "size": torch.tensor([chip.height, chip.width]),
        }
        return Example(canvas, target, scene.path.name)


def cut(image: Tensor, chip: Chip) -> Tensor:
    """Crop a chip's window out of an image (3, h, w), then resize it (cheaper than the reverse)."""
    x1, y1, x2, y2 = (round(float(v)) for v in chip.window)
    crop = image[:, y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)]
    return transform.resize(crop, [chip.height, chip.width], antialias=True)
