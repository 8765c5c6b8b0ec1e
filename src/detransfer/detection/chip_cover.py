"""The loops of chip planning, compiled: cover boxes with windows, and say whose each box is.

Arrays are flat: views (an image as it is, or mirrored) one after the other, with the boxes of each;
and *tasks*, one for each view and scale, numbered ``view * scales + scale``. Nothing is allocated
here and every function is compiled for one set of types, which keeps compiling at three seconds,
once. What calls each other stands in this one file: the cache on disk notices no other's change.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import njit

STEP = np.uint64(0x9E3779B97F4A7C15)
MULTIPLIERS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31)


class Room(NamedTuple):
    """Side of a chip, and room to work in: spans of a grid (k, 2), its gains, places of boxes."""

    size: int
    columns: np.ndarray
    rows: np.ndarray
    gain: np.ndarray
    places: np.ndarray


def draw(keys: Any, numbers: Any) -> Any:
    """Return output ``numbers`` (from 0) of the SplitMix64 generators that start from ``keys``.

    uint64 arrays that fit each other (Steele, Lea and Flood 2014).
    """
    state = keys + STEP * (numbers + np.uint64(1))
    state = (state ^ (state >> SHIFTS[0])) * MULTIPLIERS[0]
    state = (state ^ (state >> SHIFTS[1])) * MULTIPLIERS[1]
    return state ^ (state >> SHIFTS[2])


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function at its first call, and keep the result on disk where that is possible.

    It may call functions of its own file only: the cache does not notice changes elsewhere.
    """
    try:
        return njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # neither __pycache__ nor the user's cache folder can be written
        return njit(nogil=True, error_model="numpy")(function)


_draw_one = compiled(draw)


@compiled
def cover_all(
    sizes: np.ndarray,
    factors: np.ndarray,
    strides: np.ndarray,
    ties: np.ndarray,
    starts: np.ndarray,
    boxes: np.ndarray,
    wanted: np.ndarray,
    least: np.ndarray,
    room: Room,
    found: np.ndarray,
    offsets: np.ndarray,
) -> None:
    """Write the windows of all tasks to ``found``, and where each task's end to ``offsets``.

    A window that belongs to no more than ``least`` boxes (scales,) is not asked for. Where some
    window holds each wanted box, a box belongs to the first that does, so that such windows are
    not even looked for; elsewhere they are found too, because they take boxes that none holds.
    """
    task = 0
    for view in range(len(sizes)):
        for scale in range(factors.shape[1]):
            left = np.int64(0)  # a literal would be a type of its own, and compiled for itself
            for box in range(starts[view], starts[view + 1]):
                if wanted[scale, box]:
                    room.places[left, 0] = box
                    left += 1
            offsets[task + 1] = offsets[task]
            if left > 0:
                step = strides[view] / factors[view, scale]
                length = room.size / factors[view, scale]
                rows = _spans(room.rows, sizes[view, 1], length, step)
                columns = _spans(room.columns, sizes[view, 0], length, step)
                enough = least[scale]
                for number in range(left):
                    place = room.places[number]
                    box = place[0]
                    _locate(room.rows, rows, boxes[box, 1], boxes[box, 3], place[:2])
                    _locate(room.columns, columns, boxes[box, 0], boxes[box, 2], place[2:])
                    if place[0] >= place[1] or place[2] >= place[3]:
                        enough = 0
                offsets[task + 1] += _greedy(
                    room, left, rows, columns, enough, ties[view, scale], found[offsets[task] :]
                )
            task += 1


@compiled
def _spans(spans: np.ndarray, extent: int, length: float, step: float) -> int:
    """Write where windows begin and end along a side of an image (k, 2), ascending; return k.

    A grid of step ``step`` from the beginning, and a last window that ends with the image; where
    the image is smaller than a window, that ends with the image. In pixels of the original image,
    widened outwards to whole ones, each window once.
    """
    last = max(extent - length, 0.0)
    count = math.ceil(last / step)
    kept = 0
    for number in range(count + 1):
        start = number * step if number < count else last
        begin = math.floor(start + 1e-9)
        end = min(math.ceil(start + length - 1e-9), extent)
        if kept == 0 or begin != spans[kept - 1, 0] or end != spans[kept - 1, 1]:
            spans[kept, 0], spans[kept, 1] = begin, end
            kept += 1
    return kept


@compiled
def _locate(spans: np.ndarray, count: int, begin: float, end: float, place: np.ndarray) -> None:
    """Write the first of the spans that hold ``begin`` to ``end``, and the one after the last."""
    number = 0
    while number < count and spans[number, 1] < end:
        number += 1
    place[0] = number
    while number < count and spans[number, 0] <= begin:
        number += 1
    place[1] = number


@compiled
def _greedy(
    room: Room,
    left: int,
    rows: int,
    columns: int,
    least: int,
    ties: Any,
    found: np.ndarray,
) -> int:
    """Write the windows that hold boxes to ``found`` in order of choice; return their number.

    The windows that hold a box are neighbours, a rectangle of the grid (``room.places``: first row,
    row after the last, the same of columns). ``gain`` counts what each window holds; again and
    again the largest is taken, chance deciding between equals, until none is above ``least``.
    """
    gain, places = room.gain, room.places
    gain[:rows, :columns] = 0
    for number in range(left):
        for r in range(places[number, 0], places[number, 1]):
            for c in range(places[number, 2], places[number, 3]):
                gain[r, c] += 1
    chosen = 0
    while True:
        row, column = _best(gain, rows, columns, least, ties)
        if row < 0:
            return chosen
        for side in range(2):
            found[chosen, 2 * side] = room.columns[column, side]
            found[chosen, 2 * side + 1] = room.rows[row, side]
        chosen += 1
        still = 0
        for number in range(left):
            if (
                places[number, 0] <= row < places[number, 1]
                and places[number, 2] <= column < places[number, 3]
            ):
                for r in range(places[number, 0], places[number, 1]):
                    for c in range(places[number, 2], places[number, 3]):
                        gain[r, c] -= 1
            else:
                for side in range(4):
                    places[still, side] = places[number, side]
                still += 1
        left = still


@compiled
def _best(gain: np.ndarray, rows: int, columns: int, least: int, ties: Any) -> tuple[int, int]:
    """Return the place of the largest gain, chance deciding between equals; -1 if at ``least``."""
    most, row, column, chance = least, -1, -1, np.uint64(0)
    for r in range(rows):
        for c in range(columns):
            if gain[r, c] > most or (gain[r, c] == most and row >= 0):
                here = _draw_one(ties, np.uint64(r * columns + c))
                if gain[r, c] > most or here > chance:
                    most, row, column, chance = gain[r, c], r, c, here
    return row, column


@compiled
def assign_all(
    windows: np.ndarray,
    tasks: np.ndarray,
    starts: np.ndarray,
    corners: np.ndarray,
    fitting: np.ndarray,
    floors: np.ndarray,
    owners: np.ndarray,
) -> None:
    """Write for each scale and box the window that shows most of it, the first at ties, or -1.

    The part shown must be a pixel wide and high, and of size ``floors`` or more.
    """
    for view in range(len(starts) - 1):
        for scale in range(len(fitting)):
            task = view * len(fitting) + scale
            for box in range(starts[view], starts[view + 1]):
                owners[scale, box] = -1
                if not fitting[scale, box]:
                    continue
                best = 0.0
                x1, y1, x2, y2 = corners[box, 0], corners[box, 1], corners[box, 2], corners[box, 3]
                for row in range(tasks[task], tasks[task + 1]):
                    width = min(x2, windows[row, 2]) - max(x1, windows[row, 0])
                    height = min(y2, windows[row, 3]) - max(y1, windows[row, 1])
                    if min(width, height) > 0 and width * height > best:
                        best = width * height
                        enough = min(width, height) >= 1 and math.sqrt(best) >= floors[scale, box]
                        owners[scale, box] = row if enough else -1
