"""SNIPER's chips straight from their definition, in plain Python: slow, and for comparison only.

Every window is compared with every box, and every gain is counted anew after each choice. The only
thing that it shares with the planner is the order of chance: the same hash of the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from detransfer.detection.chips import ChipPlan

Box = Sequence[float]
WORD = 2**64


class NaiveChip(NamedTuple):
    """One chip: image, orientation, scale, window, and the objects to learn in it."""

    image: int
    mirrored: bool
    scale: int
    window: tuple[int, int, int, int]
    learned: list[int]


def draw(key: int, number: int) -> int:
    """Return output ``number`` of SplitMix64 started from ``key``."""
    state = (key + 0x9E3779B97F4A7C15 * (number + 1)) % WORD
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % WORD
    return state ^ (state >> 31)


def windows_along(extent: int, factor: float, size: int, stride: int) -> list[tuple[int, int]]:
    length, found, start = size / factor, set(), 0.0
    last = max(extent - length, 0.0)
    steps = 0
    while start < last:
        found.add((math.floor(start + 1e-9), min(math.ceil(start + length - 1e-9), extent)))
        steps += 1
        start = steps * (stride / factor)
    found.add((math.floor(last + 1e-9), min(math.ceil(last + length - 1e-9), extent)))
    return sorted(found)


def holds(window: Box, box: Box) -> bool:
    return (
        window[0] <= box[0] and window[1] <= box[1] and box[2] <= window[2] and box[3] <= window[3]
    )


def covering(
    width: int, height: int, factor: float, size: int, stride: int, boxes: list[Box], ties: int
) -> list[tuple[int, int, int, int]]:
    """Return windows by greedy choice until none holds another box."""
    windows = [
        (x1, y1, x2, y2)
        for y1, y2 in windows_along(height, factor, size, stride)
        for x1, x2 in windows_along(width, factor, size, stride)
    ]
    left, chosen = list(boxes), []
    while True:
        gains = [sum(holds(window, box) for box in left) for window in windows]
        most = max(gains)
        if most == 0:
            return chosen
        equal = [number for number, gain in enumerate(gains) if gain == most]
        best = windows[max(equal, key=lambda number: draw(ties, number))]
        chosen.append(best)
        left = [box for box in left if not holds(best, box)]


def owner(windows: list[tuple[int, int, int, int]], box: Box, floor: float) -> int | None:
    """Return the first of the windows that show most of a box, or None if that is too little."""
    best, most, least_side = None, 0.0, 0.0
    for number, window in enumerate(windows):
        across = min(box[2], window[2]) - max(box[0], window[0])
        down = min(box[3], window[3]) - max(box[1], window[1])
        if across > 0 and down > 0 and across * down > most:
            best, most, least_side = number, across * down, min(across, down)
    return best if least_side >= 1 and math.sqrt(most) >= floor else None


class Suitable(NamedTuple):
    """Rows of boxes at one scale: those that call for a chip, those to learn and how large."""

    calling: list[int]
    floors: dict[int, float]


def suitable(
    boxes: list[Box], usable: Sequence[bool], factors: list[float], plan: ChipPlan, stride: int
) -> list[Suitable]:
    levels = [Suitable([], {}) for _ in plan.scales]
    last = len(levels) - 1
    for row, (x1, y1, x2, y2) in enumerate(boxes):
        size, side, least = math.sqrt((x2 - x1) * (y2 - y1)), max(x2 - x1, y2 - y1), 2
        if not usable[row] or min(x2 - x1, y2 - y1) < least:
            continue
        for number, scale in enumerate(plan.scales):
            low, high = scale.valid_range
            if number < last and side >= (plan.size - stride - 1) / factors[number]:
                continue
            if low <= size < high:
                levels[number].calling.append(row)
            if size < high and (number < last or low <= size):
                levels[number].floors[row] = low if number == last else 0.0
        if plan.coarsest_takes_rest and not any(row in level.calling for level in levels):
            levels[last].calling.append(row)
            levels[last].floors[row] = 0.0
    return levels


def seen(boxes: Sequence[Box], width: int, height: int, mirrored: bool) -> list[Box]:
    result = []
    for x1, y1, x2, y2 in boxes:
        x1, x2 = (min(max(float(x), 0), width) for x in (x1, x2))
        y1, y2 = (min(max(float(y), 0), height) for y in (y1, y2))
        result.append((width - x2, y1, width - x1, y2) if mirrored else (x1, y1, x2, y2))
    return result


def image_chips(
    number: int,
    image_id: int,
    size: tuple[int, int],
    boxes: Sequence[Box],
    usable: Sequence[bool],
    plan: ChipPlan,
    moment: tuple[int, int],
    proposals: Sequence[Box] | None = None,
) -> Iterator[NaiveChip]:
    """Yield the chips of one image, as it is and mirrored."""
    width, height = size
    factors = [scale.resize_factor(width, height) for scale in plan.scales]
    for mirrored in (False, True):
        key = draw(draw(draw(moment[0], moment[1]), image_id), int(mirrored))
        low, high = plan.stride
        stride = low + draw(key, 0) % (high - low + 1)
        here = seen(boxes, width, height, mirrored)
        positive = []
        for scale, level in enumerate(suitable(here, usable, factors, plan, stride)):
            wanted = [here[row] for row in level.calling]
            windows = covering(
                width, height, factors[scale], plan.size, stride, wanted, draw(key, 2 + scale)
            )
            owners = {row: owner(windows, here[row], f) for row, f in level.floors.items()}
            for place, window in enumerate(windows):
                learned = sorted(row for row, own in owners.items() if own == place)
                yield NaiveChip(number, mirrored, scale, window, learned)
            positive.append(windows)
        if proposals is not None:
            found = candidates(
                seen(proposals, width, height, mirrored), size, factors, plan, stride, key, positive
            )
            order = sorted(range(len(found)), key=lambda place: draw(draw(key, 1), place))
            for place in sorted(order[: plan.negatives_per_image]):
                yield NaiveChip(number, mirrored, *found[place], [])


def candidates(
    proposals: list[Box],
    size: tuple[int, int],
    factors: list[float],
    plan: ChipPlan,
    stride: int,
    key: int,
    positive: list[list[tuple[int, int, int, int]]],
) -> list[tuple[int, tuple[int, int, int, int]]]:
    """Return scale and window of every negative chip that holds enough proposals."""
    found = []
    levels = suitable(proposals, [True] * len(proposals), factors, plan, stride)
    for scale, level in enumerate(levels):
        rest = {
            row: floor
            for row, floor in level.floors.items()
            if owner(positive[scale], proposals[row], floor) is None
        }
        windows = covering(
            *size,
            factors[scale],
            plan.size,
            stride,
            [proposals[row] for row in rest],
            draw(key, 2 + len(factors) + scale),
        )
        owners = [owner(windows, proposals[row], floor) for row, floor in rest.items()]
        for place, window in enumerate(windows):
            if owners.count(place) > plan.minimum_proposals[scale]:
                found.append((scale, window))
    return found
