"""Which windows of which images are an epoch's chips, and which objects each has to learn.

The rules are SNIPER's (see :mod:`detransfer.detection.chips`). For each image, orientation and
scale, greedily: of all windows of a grid the one that holds the most boxes not yet held, until no
window holds any more; chance decides between equals. Negative chips hold proposals that no positive
chip touches, chosen in the same way.

An epoch of Open Images has 3.5 million images and mirror images, so the work is done for many at
once: numpy says which boxes count at which scale, and two compiled loops cover and assign them.
Chance is a hash of (seed, epoch, image id, orientation) and of what is decided: it knows nothing of
the order of the images, of the other images or of who asks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from detransfer.detection.chip_cover import Room, assign_all, cover_all, draw
from detransfer.detection.chips import ChipPlan, place

STRIDE, CHOICE, TIES = 0, 1, 2  # what the draws of a view are for; scales count from TIES on


class BoxLists(NamedTuple):
    """Boxes of many images: those of image i are ``offsets[i]`` to ``offsets[i + 1]``.

    ``offsets`` (n + 1,) int64, ``boxes`` (m, 4) in pixels, ``usable`` (m,) bool: may be learned.
    """

    offsets: np.ndarray
    boxes: np.ndarray
    usable: np.ndarray


@dataclass(frozen=True)
class ChipTable:
    """Chips as flat arrays, k of them, by image and orientation.

    ``images`` (k,) int32 numbers of the images, ``mirrored`` (k,) bool, ``scales`` (k,) int8,
    ``windows`` (k, 4) int32. The objects to learn in chip i are
    ``objects[offsets[i]:offsets[i + 1]]``: int32 rows of its image's objects. A chip without any is
    a negative one; those come after the positive ones of their image and orientation.
    """

    images: np.ndarray
    mirrored: np.ndarray
    scales: np.ndarray
    windows: np.ndarray
    offsets: np.ndarray
    objects: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def learned(self, chip: int) -> np.ndarray:
        """Return the rows (v,) of its image's objects that chip number ``chip`` has to learn."""
        return self.objects[self.offsets[chip] : self.offsets[chip + 1]]


@dataclass(frozen=True)
class _Views:
    """Images as they are and mirrored in turn: keys, sizes, factors (v, scales), steps."""

    keys: np.ndarray
    sizes: np.ndarray
    factors: np.ndarray
    strides: np.ndarray


@dataclass(frozen=True)
class _Boxes:
    """Boxes (b, 4) of all views, and how each counts at each scale (see :func:`_suitable`)."""

    offsets: np.ndarray
    boxes: np.ndarray
    calling: np.ndarray
    fitting: np.ndarray
    floors: np.ndarray


class _Windows(NamedTuple):
    """Windows (k, 4) by task, and where those of each task begin; task = view * scales + scale."""

    windows: np.ndarray
    offsets: np.ndarray


def plan_chips(
    ids: np.ndarray,
    sizes: np.ndarray,
    objects: BoxLists,
    plan: ChipPlan,
    moment: tuple[int, int],
    proposals: BoxLists | None = None,
) -> ChipTable:
    """Return the chips of images with these ids (n,), widths and heights (n, 2), and objects.

    ``moment``: seed and epoch. Without ``proposals`` of the images there are no negative chips.
    """
    views = _views(ids, sizes, plan, moment)
    boxes = _suitable(_seen(objects, views), views, plan)
    positive = _cover(boxes, boxes.calling, views, plan, TIES, [0] * len(plan.scales))
    owners = _assign(positive, boxes, boxes.fitting)
    table = _table(positive, owners, boxes.offsets, len(plan.scales))
    if proposals is None or not plan.negatives_per_image:
        return table
    negative = _negatives(positive, _suitable(_seen(proposals, views), views, plan), views, plan)
    return _merge(table, negative)


def join(tables: Sequence[ChipTable], starts: Sequence[int]) -> ChipTable:
    """Return tables of neighbouring images as one; image 0 of table i is number ``starts[i]``."""
    counts = [np.diff(table.offsets) for table in tables]
    return ChipTable(
        np.concatenate([t.images + np.int32(s) for t, s in zip(tables, starts, strict=True)]),
        np.concatenate([table.mirrored for table in tables]),
        np.concatenate([table.scales for table in tables]),
        np.concatenate([table.windows for table in tables]),
        np.append(0, np.cumsum(np.concatenate(counts))),
        np.concatenate([table.objects for table in tables]),
    )


def _views(ids: np.ndarray, sizes: np.ndarray, plan: ChipPlan, moment: tuple[int, int]) -> _Views:
    seed, epoch = (np.array([number % 2**64], np.uint64) for number in moment)
    keys = draw(draw(seed, epoch), ids.astype(np.uint64))
    keys = draw(keys[:, None], np.arange(2, dtype=np.uint64)).ravel()
    sizes = np.repeat(sizes.astype(np.int64), 2, axis=0)
    low, high = plan.stride
    drawn = draw(keys, np.array([STRIDE], np.uint64)) % np.uint64(high - low + 1)
    strides = low + drawn.astype(np.int64)
    factors = np.column_stack([scale.resize_factors(sizes) for scale in plan.scales])
    return _Views(keys, sizes, factors, strides)


def _seen(lists: BoxLists, views: _Views) -> BoxLists:
    """Return the boxes of each view, (b, 4) float64."""
    counts = np.repeat(np.diff(lists.offsets), 2)
    offsets = np.append(0, np.cumsum(counts))
    rows = np.repeat(np.repeat(lists.offsets[:-1], 2) - offsets[:-1], counts)
    rows += np.arange(len(rows))
    widths, heights = np.repeat(views.sizes, counts, axis=0).T
    mirrored = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    boxes = place(lists.boxes[rows], widths, heights, mirrored)
    return BoxLists(offsets, boxes, lists.usable[rows])


def _suitable(lists: BoxLists, views: _Views, plan: ChipPlan) -> _Boxes:
    """Say, each (scales, b): which boxes call for a chip, which may be learned, their least size.

    Two windows in a row share ``size - stride`` chip pixels, so that a shorter box is whole in one
    of them; a longer one suits the coarsest scale only, where the image should fit into a chip. A
    box below the range is learned at a scale between (``box_assigner`` has no lower end there)
    without calling for a chip; the least size is that of the part that a chip shows.
    """
    widths, heights = (lists.boxes[:, 2:] - lists.boxes[:, :2]).T
    size, longest = np.sqrt(widths * heights), np.maximum(widths, heights)
    possible = lists.usable & (np.minimum(widths, heights) >= 2)
    limits = (plan.size - views.strides[:, None] - 1) / views.factors
    limits[:, -1] = math.inf
    limits = np.repeat(limits.T, np.diff(lists.offsets), axis=1)
    lows, highs = np.array([scale.valid_range for scale in plan.scales]).T[:, :, None]
    fitting = possible & (longest < limits) & (size < highs)
    calling = fitting & (size >= lows)
    floors = np.zeros(calling.shape)
    floors[-1] = lows[-1]
    if plan.coarsest_takes_rest:
        rest = possible & ~calling.any(0)
        calling[-1] |= rest
        floors[-1, rest] = 0
    fitting[-1] = calling[-1]
    return _Boxes(lists.offsets, lists.boxes, calling, fitting, floors)


def _cover(
    boxes: _Boxes,
    wanted: np.ndarray,
    views: _Views,
    plan: ChipPlan,
    ties: int,
    least: Sequence[int],
) -> _Windows:
    """Return for each task windows that hold its wanted boxes (scales, b) whole.

    Windows to which no more boxes belong than ``least`` of their scale may be left out.
    """
    numbers = np.arange(ties, ties + len(plan.scales), dtype=np.uint64)
    resized = views.sizes[:, :, None] * views.factors[:, None, :]
    steps = ((resized - plan.size) / views.strides[:, None, None]).max((0, 2), initial=0)
    columns, rows = np.ceil(steps).astype(int) + 2
    room = Room(
        size=plan.size,
        columns=np.empty((columns, 2), np.int32),
        rows=np.empty((rows, 2), np.int32),
        gain=np.empty((rows, columns), np.int32),
        places=np.empty((np.diff(boxes.offsets).max(initial=0), 4), np.int32),
    )
    found = np.empty((np.count_nonzero(wanted), 4), np.int32)  # a window holds at least one more
    offsets = np.zeros(len(views.keys) * len(plan.scales) + 1, np.int64)
    cover_all(
        views.sizes,
        views.factors,
        views.strides,
        draw(views.keys[:, None], numbers),
        boxes.offsets,
        boxes.boxes,
        wanted,
        np.array(least, np.int64),
        room,
        found,
        offsets,
    )
    return _Windows(found[: offsets[-1]], offsets)


def _assign(windows: _Windows, boxes: _Boxes, fitting: np.ndarray) -> np.ndarray:
    """Return for each scale and box (scales, b) the window that it belongs to, or -1."""
    owners = np.empty(fitting.shape, np.int64)
    assign_all(*windows, boxes.offsets, boxes.boxes, fitting, boxes.floors, owners)
    return owners


def _table(chips: _Windows, owners: np.ndarray, offsets: np.ndarray, scales: int) -> ChipTable:
    """Return the chips of all tasks, each with the objects that it owns (scales, b)."""
    tasks = np.repeat(np.arange(len(chips.offsets) - 1), np.diff(chips.offsets))
    starts = np.repeat(offsets[:-1], np.diff(offsets))
    rows = np.broadcast_to(np.arange(len(starts)) - starts, owners.shape)
    owned = owners >= 0
    order = np.argsort(owners[owned], kind="stable")
    counts = np.bincount(owners[owned], minlength=len(tasks))
    return ChipTable(
        images=(tasks // scales // 2).astype(np.int32),
        mirrored=tasks // scales % 2 == 1,
        scales=(tasks % scales).astype(np.int8),
        windows=chips.windows,
        offsets=np.append(0, np.cumsum(counts)),
        objects=rows[owned][order].astype(np.int32),
    )


def _negatives(positive: _Windows, proposals: _Boxes, views: _Views, plan: ChipPlan) -> ChipTable:
    """Return negative chips, at most ``plan.negatives_per_image`` a view.

    Proposals count at a scale as objects do. Gone are those that a positive chip shows, if only by
    a pixel; the others are covered, each belongs to the window that shows most of it, and chance
    takes among the windows with more than the minimum (``box_assigner``).
    """
    scales = len(plan.scales)
    rest = proposals.fitting & (_assign(positive, proposals, proposals.fitting) < 0)
    found = _cover(proposals, rest, views, plan, TIES + scales, plan.minimum_proposals)
    owners = _assign(found, proposals, rest)
    held = np.bincount(owners[owners >= 0], minlength=len(found.windows))
    tasks = np.repeat(np.arange(len(found.offsets) - 1), np.diff(found.offsets))
    full = np.flatnonzero(held > np.array(plan.minimum_proposals)[tasks % scales])
    kept = full[_chosen(full, found.offsets[::scales], views, plan.negatives_per_image)]
    counts = np.bincount(tasks[kept], minlength=len(found.offsets) - 1)
    chips = _Windows(found.windows[kept], np.append(0, np.cumsum(counts)))
    nothing = np.empty((scales, 0), np.int32)
    return _table(chips, nothing, np.zeros(len(views.keys) + 1, np.int64), scales)


def _chosen(rows: np.ndarray, starts: np.ndarray, views: _Views, most: int) -> np.ndarray:
    """Return which of these ascending window rows chance takes, at most so many a view.

    ``starts``: the first row of each view.
    """
    view = np.searchsorted(starts, rows, side="right") - 1
    number = np.arange(len(rows)) - np.searchsorted(view, view)
    keys = draw(views.keys, np.array([CHOICE], np.uint64))
    order = np.lexsort([draw(keys[view], number.astype(np.uint64)), view])
    rank = np.empty(len(rows), np.int64)
    rank[order] = number
    return rank < most


def _merge(positive: ChipTable, negative: ChipTable) -> ChipTable:
    """Return both as one table, the negative chips of a view after its positive ones."""
    both = join([positive, negative], [0, 0])
    order = np.lexsort([both.mirrored, both.images])
    counts = np.diff(both.offsets)[order]  # the objects are those of the positive chips, in order
    return ChipTable(
        both.images[order],
        both.mirrored[order],
        both.scales[order],
        both.windows[order],
        np.append(0, np.cumsum(counts)),
        both.objects,
    )
