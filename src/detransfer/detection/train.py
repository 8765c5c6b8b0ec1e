"""The detector's training data: chips of an epoch, cut from images as they are asked for."""

from __future__ import annotations

import copy
import functools
import itertools
import logging
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as transform

from detransfer.backbone import mean_colour
from detransfer.batches import Epoch, Example, key
from detransfer.console import InputError
from detransfer.data.decoding import decode
from detransfer.data.index import BOX, Index
from detransfer.detection.chip_planner import BoxLists, ChipTable, join, plan_chips
from detransfer.detection.chip_recipe import chip_plan
from detransfer.detection.chips import Chip, ChipPlan, place, show
from detransfer.detection.proposals import Proposals
from detransfer.detection.rpn import IGNORED
from detransfer.recipes.detection import ChipRecipe

log = logging.getLogger(__name__)
BLOCK = 1024  # images that are planned at once
LARGEST_SIDE = 20_000  # pixels of an enlarged image; its grid has 125,000 windows
FEW_MISSED = 0.05  # of the objects; COCO by the paper's recipe misses 0.4 %, too long or too thin


@dataclass(frozen=True)
class Scene:
    """One image with its objects: boxes (m, 4), class ids (m,), and which are only ignored (m,)."""

    path: Path
    size: tuple[int, int]
    boxes: np.ndarray
    class_ids: np.ndarray
    ignored: np.ndarray


class Scenes:
    """The scenes of an index, each made when it is asked for (see :func:`scenes`)."""

    def __init__(self, index: Index, background: bool = False) -> None:
        index = index.in_order()
        objects, offsets = index.objects, index.offsets
        self.root, self.paths = index.root, index.images["path"].array
        self.ids = index.images["image_id"].to_numpy()
        self.sizes = index.images[["width", "height"]].to_numpy()
        self.boxes = [objects[name].to_numpy() for name in BOX]
        self.class_ids = objects["class_id"].to_numpy()
        self.ignored = np.zeros(len(objects), bool)
        for flag in ("difficult", "crowd", "group_of"):
            self.ignored |= objects[flag].to_numpy()
        filled = np.flatnonzero(offsets[1:] > offsets[:-1])
        learnt = ~self.ignored
        some = np.logical_or.reduceat(learnt, offsets[filled]) if len(filled) else learnt[:0]
        self.rows = np.arange(len(self.ids)) if background else filled[some]
        self.offsets = offsets

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Scene:
        row = self.rows[number]
        own = slice(self.offsets[row], self.offsets[row + 1])
        boxes = np.stack([side[own] for side in self.boxes], axis=1)
        width, height = (int(side) for side in self.sizes[row])
        path = self.root / self.paths[row]
        return Scene(path, (width, height), boxes, self.class_ids[own], self.ignored[own])

    def part(self, rows: slice | np.ndarray) -> Scenes:
        """Return some of the scenes, by their numbers; their chips are the same as among all."""
        chosen = copy.copy(self)
        chosen.rows = self.rows[rows]
        return chosen

    def arrays(self) -> tuple[np.ndarray, np.ndarray, BoxLists]:
        """Return ids (n,), widths and heights (n, 2), and the objects of all scenes, copied."""
        starts, ends = self.offsets[self.rows], self.offsets[self.rows + 1]
        offsets = np.append(0, np.cumsum(ends - starts))
        own = np.repeat(starts - offsets[:-1], ends - starts) + np.arange(offsets[-1])
        boxes = np.stack([side[own] for side in self.boxes], axis=1)
        objects = BoxLists(offsets, boxes, ~self.ignored[own])
        return self.ids[self.rows], self.sizes[self.rows], objects


def scenes(index: Index, background: bool = False) -> Scenes:
    """Return the images of an index that have an object to learn, in its order.

    Difficult, crowd and group-of objects are not learnt (the authors drop them); images without
    any other object are left out, as in the authors' code, except for ``background``: negative
    chips can be cut from them (the authors cannot).
    """
    return Scenes(index, background)


def plan_epoch(
    images: Scenes,
    plan: ChipPlan,
    seed: int,
    epoch: int,
    proposals: Proposals | None = None,
    threads: int = 1,
) -> ChipTable:
    """Return all chips of an epoch, every image as it is and mirrored, in the images' order.

    What an image gets depends on (seed, epoch, image id, orientation) alone, so that ``threads``
    and the other images change nothing.
    """

    def plan_block(start: int) -> ChipTable:
        ids, sizes, objects = images.part(slice(start, start + BLOCK)).arrays()
        proposed = None
        if proposals is not None:
            offsets, boxes = proposals.of(ids)
            proposed = BoxLists(offsets, boxes, np.ones(len(boxes), bool))
        return plan_chips(ids, sizes, objects, plan, (seed, epoch), proposed)

    starts = range(0, max(len(images), 1), BLOCK)
    with ThreadPoolExecutor(threads) as pool:
        return join(list(pool.map(plan_block, starts)), starts)


class ChipDataset(Dataset[Example]):
    """All chips of one epoch: every image as it is and mirrored, as in the authors' code.

    With ``proposals``, negative chips as well. The chips of an image depend on (seed, epoch, image
    id, orientation) alone; a chip's key depends on (seed, epoch, its number).
    """

    def __init__(
        self,
        images: Scenes,
        plan: ChipPlan,
        pad: Tensor,
        seed: int,
        epoch: int,
        proposals: Proposals | None = None,
    ) -> None:
        self.images, self.plan, self.pad = images, plan, pad
        self.randomness = (seed, epoch)
        threads = torch.get_num_threads()
        self.table = plan_epoch(images, plan, seed, epoch, proposals, threads)

    def __len__(self) -> int:
        return len(self.table)

    def chip(self, index: int) -> tuple[Scene, bool, Chip]:
        """Return a chip with the scene that it is cut from, and whether that is mirrored."""
        table = self.table
        scene, mirrored = self.images[int(table.images[index])], bool(table.mirrored[index])
        scale = int(table.scales[index])
        factor = self.plan.scales[scale].resize_factor(*scene.size)
        boxes = place(scene.boxes, *scene.size, mirrored)
        chip = show(table.windows[index], boxes, table.learned(index), self.plan, scale, factor)
        return scene, mirrored, chip

    def __getitem__(self, index: int) -> Example:
        scene, mirrored, chip = self.chip(index)
        image = decode(scene.path)
        pixels = cut(image.flip(2) if mirrored else image, chip)
        canvas = self.pad.view(3, 1, 1).repeat(1, self.plan.size, self.plan.size)
        canvas[:, : chip.height, : chip.width] = pixels
        classes = torch.as_tensor(scene.class_ids[chip.object_rows] + 1, dtype=torch.int64)
        ignored = torch.as_tensor(scene.ignored[chip.object_rows], dtype=torch.bool)
        target = {
            "boxes": torch.as_tensor(chip.boxes, dtype=torch.float32).reshape(-1, 4),
            "labels": classes.masked_fill(ignored, IGNORED),
            "classes": classes,
            "valid": torch.as_tensor(chip.valid, dtype=torch.bool),
            "valid_range": torch.tensor(chip.valid_range, dtype=torch.float32),
            "size": (chip.height, chip.width),
            "key": key(*self.randomness, index),
        }
        return Example(canvas, target, scene.path.name)


def chip_epochs(
    index: Index,
    recipe: ChipRecipe,
    backbone: nn.Module,
    seed: int,
    proposals: Proposals | None = None,
) -> Epoch:
    """Return what the training loop asks for the chips of an epoch.

    The first epoch is asked for twice, for its length and then for its chips: it is kept. Raises
    InputError when the plan does not suit the images, and the loop gets one where an epoch has no
    object to learn.
    """
    images = scenes(index, background=proposals is not None)
    plan, pad = chip_plan(recipe), mean_colour(backbone)
    check_plan(images, plan)

    @functools.lru_cache(maxsize=1)
    def epoch(number: int) -> Dataset[Example]:
        chips = ChipDataset(images, plan, pad, seed, number, proposals)
        check_chips(chips, tell=number == 0)
        return chips

    return epoch


def check_chips(chips: ChipDataset, tell: bool = True) -> None:
    """Raise InputError where the chips have no object to learn: negative ones alone teach nothing.

    With ``tell``, log how many of the objects that may be learned are in no chip.
    """
    images = chips.images
    if not len(images):
        return  # the training says that there is nothing to train on
    if not len(chips.table.objects):
        raise _no_chip(images, chips.plan)
    if not tell:
        return
    missed, objects = missed_objects(chips)
    share = f"{missed} of {objects} objects ({missed / objects:.1%}) are learned in no chip"
    if missed > FEW_MISSED * objects:
        log.warning(
            "%s of the first epoch: they suit no scale, or are too long for its chips; compare "
            "chips.scales with the advice of scripts/describe_dataset.py, look at an image with "
            "scripts/inspect_chips.py, or set chips.coarsest_takes_rest",
            share,
        )
    elif missed:
        log.info("%s of the first epoch", share)


def missed_objects(chips: ChipDataset) -> tuple[int, int]:
    """Return how many objects are learned in no chip of either orientation, and of how many."""
    images, table = chips.images, chips.table
    starts, ends = images.offsets[images.rows], images.offsets[images.rows + 1]
    learned = np.zeros(len(images.ignored), bool)
    learned[np.repeat(starts[table.images], np.diff(table.offsets)) + table.objects] = True
    usable = np.append(0, np.cumsum(~images.ignored))
    count = int((usable[ends] - usable[starts]).sum())
    return count - int(learned.sum()), count


def cut(image: Tensor, chip: Chip) -> Tensor:
    """Crop a chip's window out of an image (3, h, w), then resize it (cheaper than the reverse)."""
    x1, y1, x2, y2 = chip.window
    return transform.resize(image[:, y1:y2, x1:x2], [chip.height, chip.width], antialias=True)


def check_plan(images: Scenes, plan: ChipPlan) -> None:
    """Raise InputError where a scale suits no image, or enlarges one beyond all measure."""
    sizes = images.sizes[images.rows]
    if not len(sizes):
        return  # the training says that there is nothing to train on
    factors = np.column_stack([scale.resize_factors(sizes) for scale in plan.scales])
    for number, scale in enumerate(plan.scales):
        sides = sizes.max(1) * factors[:, number]
        if sides.max() > LARGEST_SIDE:
            scene = images[int(sides.argmax())]
            raise InputError(
                f"{scene.path}: {scene.size[0]} x {scene.size[1]} pixels become {sides.max():.0f} "
                f"at chips.scales[{number}], more than {LARGEST_SIDE}; choose a smaller factor"
            )
        if number == len(plan.scales) - 1:
            continue
        if (factors[:, number] < factors[:, number + 1]).all():
            raise InputError(
                f"chips.scales[{number}] of the recipe enlarges every image less than "
                f"chips.scales[{number + 1}]; put the finest scale first"
            )
        longest = (plan.size - plan.stride[0] - 1) / factors[:, number].min()
        if scale.valid_range[0] >= longest:
            raise InputError(
                f"chips.scales[{number}]: its chips hold objects of up to {longest:.0f} original "
                f"pixels whole, but its valid_range begins at {scale.valid_range[0]:g}; lower the "
                "range, or choose a smaller factor"
            )
    if not plan.coarsest_takes_rest:
        _check_gaps(factors, plan)


def _check_gaps(factors: np.ndarray, plan: ChipPlan) -> None:
    """Raise InputError for sizes of objects whose scale's chips are too small for them.

    ``factors`` (n, scales) of the images, whose median counts: a scale by its shorter side enlarges
    some small images beyond measure. A longer side than sqrt(area) is left out of account.
    """
    held = (plan.size - plan.stride[0] - 1) / np.median(factors, axis=0)
    top = plan.scales[0].valid_range[0]
    for number, (scale, coarser) in enumerate(itertools.pairwise(plan.scales)):
        top, low = max(top, min(scale.valid_range[1], held[number])), coarser.valid_range[0]
        if low > top:
            raise InputError(
                f"no chip holds objects of {top:.1f} to {low:g} original pixels: the median factor "
                f"of chips.scales[{number}] is {np.median(factors[:, number]):.3g}, at which its "
                f"chips hold up to {held[number]:.1f}, and the valid_range of "
                f"chips.scales[{number + 1}] begins at {low:g}; let that begin at "
                f"{math.floor(top)} or less, choose a smaller factor, or set "
                "chips.coarsest_takes_rest"
            )


def _no_chip(images: Scenes, plan: ChipPlan) -> InputError:
    """Return what to say when no chip of the images has an object to learn."""
    boxes = images.arrays()[2]
    x1, y1, x2, y2 = boxes.boxes[boxes.usable].T
    if not len(x1):
        return InputError(
            f"no object to learn in {len(images)} images; negative chips alone teach nothing, so "
            "choose splits with objects that are neither difficult, crowds nor groups"
        )
    sizes = np.sqrt((x2 - x1) * (y2 - y1))
    ranges = ", ".join("{:g} to {:g}".format(*scale.valid_range) for scale in plan.scales)
    return InputError(
        f"no chip in {len(images)} images has an object to learn: their {len(sizes)} objects "
        f"measure {sizes.min():.0f} to {sizes.max():.0f} pixels (sqrt of area), and no scale takes "
        f"them (valid_range {ranges}, and short enough for a chip); change chips.scales "
        "(scripts/describe_dataset.py advises on them), or set chips.coarsest_takes_rest"
    )
