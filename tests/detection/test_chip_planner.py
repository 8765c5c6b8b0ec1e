"""The planner against the definition in plain Python, and what must hold of all chips."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core import caching

from detransfer.detection.chip_cover import assign_all, compiled, cover_all, draw
from detransfer.detection.chip_planner import BoxLists, ChipTable, join, plan_chips
from detransfer.detection.chips import Chip, ChipPlan, ChipScale, place, show
from tests.detection import naive_chips
from tests.detection.naive_chips import NaiveChip, holds, image_chips

SMALL = (
    ChipScale(short=210, long=300, valid_range=(0, 12)),
    ChipScale(factor=1.667, valid_range=(5, 23)),
    ChipScale(short=-1, long=77, valid_range=(18, math.inf)),
)
PLANS = (
    ChipPlan(SMALL, size=77, stride=(8, 9), minimum_side=2),
    ChipPlan(SMALL[:2], size=60, stride=(7, 12), minimum_side=0, coarsest_takes_rest=True),
    ChipPlan((ChipScale(factor=1.0, valid_range=(4, 60)),), size=40, stride=(5, 5)),
    ChipPlan((ChipScale(long=77),), size=77, stride=(9, 9)),
)


class Images(NamedTuple):
    """A few images with objects and proposals, as the planner takes them."""

    ids: np.ndarray
    sizes: np.ndarray
    objects: BoxLists
    proposals: BoxLists


def boxes_in(rng: np.random.Generator, size: tuple[int, int], count: int) -> np.ndarray:
    """Return boxes of all sizes, some in whole pixels, some that leave the image a little."""
    reach = rng.choice([0.05, 0.3, 1.0])
    corner = rng.random((count, 2)) * size
    boxes = np.hstack([corner, corner + rng.random((count, 2)) * reach * size + 0.5])
    return (boxes.round() if rng.random() < 0.5 else boxes).astype(np.float32)


@st.composite
def images(draw: st.DrawFn, most: int = 12, most_proposals: int = 0) -> Images:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(1, 3))
    sizes = rng.integers(20, 200, (count, 2))
    lists = []
    for highest in (most, most_proposals):
        parts = [boxes_in(rng, size, rng.integers(0, highest + 1)) for size in sizes]
        offsets = np.append(0, np.cumsum([len(part) for part in parts]))
        usable = rng.random(offsets[-1]) < (0.9 if highest == most else 2)
        lists.append(BoxLists(offsets, np.concatenate(parts), usable))
    return Images(rng.choice(10**6, count, replace=False), sizes, *lists)


def plan_all(
    given: Images, plan: ChipPlan, moment: tuple[int, int] = (3, 1), negatives: bool = False
) -> ChipTable:
    proposals = given.proposals if negatives else None
    return plan_chips(given.ids, given.sizes, given.objects, plan, moment, proposals)


def as_list(table: ChipTable) -> list[NaiveChip]:
    return [
        NaiveChip(
            int(table.images[i]),
            bool(table.mirrored[i]),
            int(table.scales[i]),
            tuple(table.windows[i].tolist()),
            table.learned(i).tolist(),
        )
        for i in range(len(table))
    ]


def naive(
    given: Images, plan: ChipPlan, moment: tuple[int, int] = (3, 1), negatives: bool = False
) -> list[NaiveChip]:
    chips: list[NaiveChip] = []
    objects, proposals = given.objects, given.proposals
    for number, size in enumerate(given.sizes.tolist()):
        own = slice(objects.offsets[number], objects.offsets[number + 1])
        proposed = slice(proposals.offsets[number], proposals.offsets[number + 1])
        chips += image_chips(
            number,
            int(given.ids[number]),
            tuple(size),
            objects.boxes[own].tolist(),
            objects.usable[own].tolist(),
            plan,
            moment,
            proposals.boxes[proposed].tolist() if negatives else None,
        )
    return chips


def test_the_hash_is_splitmix64() -> None:
    """The first outputs of the published generator for the seed 1234567 (prng.di.unimi.it)."""
    known = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    found = draw(np.array([1234567], np.uint64), np.arange(5, dtype=np.uint64))
    assert found.tolist() == known
    assert [naive_chips.draw(1234567, number) for number in range(5)] == known


@settings(max_examples=150, deadline=None)
@given(images(), st.sampled_from(PLANS), st.integers(0, 2**70), st.integers(0, 90))
def test_chips_equal_the_definition(given: Images, plan: ChipPlan, seed: int, epoch: int) -> None:
    moment = (seed % naive_chips.WORD, epoch)
    assert as_list(plan_all(given, plan, (seed, epoch))) == naive(given, plan, moment)


@settings(max_examples=100, deadline=None)
@given(
    images(most=3, most_proposals=60),
    st.sampled_from(PLANS),
    st.integers(1, 3),
    st.sampled_from([0, 1, 3, 8]),
)
def test_negative_chips_equal_the_definition(
    given: Images, plan: ChipPlan, most: int, minimum: int
) -> None:
    numbers = tuple(minimum + k for k in range(len(plan.scales)))
    plan = replace(plan, negatives_per_image=most, minimum_proposals=numbers)
    assert as_list(plan_all(given, plan, negatives=True)) == naive(given, plan, negatives=True)


@settings(max_examples=100, deadline=None)
@given(images(most=25), st.sampled_from(PLANS))
def test_properties_of_all_chips(given: Images, plan: ChipPlan) -> None:
    """Each box that calls for a chip lies whole in one, and each chip covers more than the last."""
    table = plan_all(given, plan)
    for view in range(2 * len(given.ids)):
        number, mirrored = view // 2, view % 2 == 1
        own = slice(given.objects.offsets[number], given.objects.offsets[number + 1])
        boxes = place(given.objects.boxes[own], *given.sizes[number], mirrored)
        calling = calling_rows(boxes, given.objects.usable[own], given.sizes[number], plan)
        mine = np.flatnonzero((table.images == number) & (table.mirrored == mirrored))
        for scale in range(len(plan.scales)):
            chips = mine[table.scales[mine] == scale]
            assert (np.diff(chips) == 1).all()
            check_scale(table, chips, boxes, calling[scale], given.objects.usable[own])
            for chip in chips:
                factor = plan.scales[scale].resize_factor(*given.sizes[number])
                window, learned = table.windows[chip], table.learned(chip)
                shown = show(window, boxes, learned, plan, scale, factor)
                check_geometry(shown, boxes, given.sizes[number], plan)
                assert set(shown.object_rows[shown.valid]) == set(learned) & set(shown.object_rows)


def calling_rows(
    boxes: np.ndarray, usable: np.ndarray, size: np.ndarray, plan: ChipPlan
) -> list[set[int]]:
    """Return for each scale the boxes that a chip has to hold whole, whatever the step.

    At the coarsest scale a box can be too long for every chip; these are left out.
    """
    result: list[set[int]] = [set() for _ in plan.scales]
    factors = [scale.resize_factor(*size) for scale in plan.scales]
    shortest, longest = ((plan.size - step - 1) / np.array(factors) for step in plan.stride[::-1])
    whole = np.array(size) * factors[-1] <= plan.size
    for row, sides in enumerate(boxes[:, 2:] - boxes[:, :2]):
        if sides.min() < 2 or not usable[row]:
            continue
        area, rest = math.sqrt(sides.prod()), plan.coarsest_takes_rest
        holdable = ((sides < shortest[-1]) | whole).all()
        for index, scale in enumerate(plan.scales):
            low, high = scale.valid_range
            coarsest = index == len(plan.scales) - 1
            fits = holdable if coarsest else sides.max() < shortest[index]
            if low <= area < high and fits:
                result[index].add(row)
            if low <= area < high and (coarsest or sides.max() < longest[index]):
                rest = False
        if rest and holdable:
            result[-1].add(row)
    return result


def check_scale(
    table: ChipTable, chips: np.ndarray, boxes: np.ndarray, calling: set[int], usable: np.ndarray
) -> None:
    """What must hold of the chips of one scale of one image."""
    owned = [row for chip in chips for row in table.learned(chip).tolist()]
    assert len(owned) == len(set(owned)), "an object is learned in two chips of one scale"
    assert usable[owned].all(), "an ignored object is learned"
    held: list[set[int]] = [
        {row for row, box in enumerate(boxes) if holds(table.windows[chip].tolist(), box)}
        for chip in chips
    ]
    assert calling <= set().union(*held), "a box that calls for a chip is whole in none"
    assert calling <= set(owned), "a box that calls for a chip is learned in none"
    covered: set[int] = set()
    for chip, rows in zip(chips, held, strict=True):
        assert rows - covered, "a chip holds nothing that those before it do not hold"
        assert len(table.learned(chip)), "a positive chip has nothing to learn"
        covered |= rows


def check_geometry(chip: Chip, boxes: np.ndarray, size: np.ndarray, plan: ChipPlan) -> None:
    """The window lies in the image, and the chip shows every box where it belongs."""
    x1, y1, x2, y2 = chip.window
    assert 0 <= x1 < x2 <= size[0] and 0 <= y1 < y2 <= size[1]
    assert 1 <= chip.width <= plan.size and 1 <= chip.height <= plan.size
    for extent, pixels, whole in ((x2 - x1, chip.width, size[0]), (y2 - y1, chip.height, size[1])):
        # As large as the chip allows, at the scale's size but for rounding outwards.
        assert extent == whole or extent >= plan.size / chip.factor - 1e-6
        assert -0.5 <= extent * chip.factor - pixels <= 2 * chip.factor + 0.5
    shown = []
    for row, (left, top, right, bottom) in enumerate(boxes):
        left, right = (min(max(v, x1), x2) - x1 for v in (left, right))
        top, bottom = (min(max(v, y1), y2) - y1 for v in (top, bottom))
        across, down = chip.width / (x2 - x1), chip.height / (y2 - y1)
        box = [left * across, top * down, right * across, bottom * down]
        thin = min(box[2] - box[0], box[3] - box[1])
        if thin > 0 and thin >= plan.minimum_side:
            shown.append((row, box))
    assert chip.object_rows.tolist() == [row for row, _ in shown]
    assert chip.boxes.dtype == np.float32
    np.testing.assert_allclose(
        chip.boxes, np.reshape([box for _, box in shown], (-1, 4)), rtol=1e-6, atol=1e-4
    )


def crowd(seed: int, images: int = 30, objects: int = 30, proposals: int = 200) -> Images:
    """Return images of one size with so many boxes each."""
    rng = np.random.default_rng(seed)
    sizes = np.tile([[180, 140]], (images, 1))
    lists = [
        BoxLists(
            np.arange(images + 1) * count,
            np.concatenate([boxes_in(rng, size, count) for size in sizes]),
            np.ones(images * count, bool),
        )
        for count in (objects, proposals)
    ]
    return Images(np.arange(images) * 7, sizes, *lists)


WITH_NEGATIVES = replace(PLANS[0], negatives_per_image=2, minimum_proposals=(6, 3, 1))


def part(given: Images, rows: np.ndarray) -> Images:
    def pick(lists: BoxLists) -> BoxLists:
        own = [np.arange(lists.offsets[row], lists.offsets[row + 1]) for row in rows]
        offsets = np.append(0, np.cumsum([len(part) for part in own]))
        together = np.concatenate(own)
        return BoxLists(offsets, lists.boxes[together], lists.usable[together])

    return Images(given.ids[rows], given.sizes[rows], pick(given.objects), pick(given.proposals))


def by_id(given: Images, table: ChipTable) -> dict[int, list[tuple[Any, ...]]]:
    found: dict[int, list[tuple[Any, ...]]] = {int(image_id): [] for image_id in given.ids}
    for chip in as_list(table):
        found[int(given.ids[chip.image])].append(chip[1:])
    return found


def test_the_chips_of_an_image_know_nothing_of_the_others() -> None:
    given = crowd(0)
    whole = by_id(given, plan_all(given, WITH_NEGATIVES, negatives=True))
    rows = np.random.default_rng(1).permutation(30)[:11]
    some = part(given, rows)
    found = by_id(some, plan_all(some, WITH_NEGATIVES, negatives=True))
    assert found == {int(image_id): whole[int(image_id)] for image_id in some.ids}


def test_blocks_are_joined_to_what_they_are_parts_of() -> None:
    given = crowd(0)
    whole = plan_all(given, WITH_NEGATIVES, negatives=True)
    blocks = [part(given, np.arange(start, min(start + 8, 30))) for start in range(0, 30, 8)]
    tables = [plan_all(block, WITH_NEGATIVES, negatives=True) for block in blocks]
    assert as_list(join(tables, range(0, 30, 8))) == as_list(whole)


@pytest.mark.parametrize("moment", [(1, 0), (0, 1)])
def test_seed_and_epoch_change_the_draw(moment: tuple[int, int]) -> None:
    given = crowd(0)
    first = as_list(plan_all(given, WITH_NEGATIVES, (0, 0), negatives=True))
    assert as_list(plan_all(given, WITH_NEGATIVES, (0, 0), negatives=True)) == first
    assert as_list(plan_all(given, WITH_NEGATIVES, moment, negatives=True)) != first


def test_equal_images_and_their_mirror_images_draw_for_themselves() -> None:
    one = part(crowd(0), np.zeros(1, int))
    four = part(crowd(0), np.zeros(4, int))._replace(ids=np.arange(4))
    found = by_id(four, plan_all(four, PLANS[0]))
    assert len({str(chips) for chips in found.values()}) == 4
    flipped = BoxLists(
        one.objects.offsets, place(one.objects.boxes, 180, 140, True), one.objects.usable
    )
    mirrored = as_list(plan_all(one._replace(objects=flipped), PLANS[0]))
    assert {c.window for c in mirrored if not c.mirrored} != {
        c.window for c in as_list(plan_all(one, PLANS[0])) if c.mirrored
    }


def test_positive_chips_are_the_same_with_negative_ones() -> None:
    given = crowd(0)
    both = as_list(plan_all(given, WITH_NEGATIVES, negatives=True))
    assert [chip for chip in both if chip.learned] == as_list(plan_all(given, WITH_NEGATIVES))
    assert sum(not chip.learned for chip in both) > 30


def test_negative_chips_are_few_full_and_away_from_positive_ones() -> None:
    """One object in a corner, proposals everywhere: those at the object's chip do not count."""
    plan = ChipPlan(
        (ChipScale(factor=1.0, valid_range=(0, math.inf)),),
        size=40,
        stride=(6, 6),
        negatives_per_image=2,
        minimum_proposals=(5,),
    )
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 190, (300, 2))
    many = BoxLists(np.array([0, 300]), np.hstack([corner, corner + 8]), np.ones(300, bool))
    one = BoxLists(np.array([0, 1]), np.array([[0.0, 0, 30, 30]]), np.ones(1, bool))
    seen = set()
    for image_id in range(50):
        table = plan_chips(np.array([image_id]), np.array([[200, 200]]), one, plan, (0, 0), many)
        for mirrored in (False, True):
            chips = [chip for chip in as_list(table) if chip.mirrored == mirrored]
            (positive,) = (chip.window for chip in chips if chip.learned)
            negative = [chip.window for chip in chips if not chip.learned]
            assert len(negative) == 2 and len(set(negative)) == 2
            seen.update(negative)
            boxes = place(many.boxes, 200, 200, mirrored)
            free = [box for box in boxes if not touches(positive, box)]
            assert all(sum(holds(window, box) for box in free) > 5 for window in negative)
    assert len(seen) > 60, "chance chooses among many"


def touches(window: tuple[int, ...], box: np.ndarray) -> bool:
    across = min(box[2], window[2]) - max(box[0], window[0])
    return bool(across >= 1 and min(box[3], window[3]) - max(box[1], window[1]) >= 1)


def test_images_without_objects_have_negative_chips_only() -> None:
    given = crowd(0)
    empty = given._replace(
        objects=BoxLists(np.zeros(31, np.int64), np.empty((0, 4)), np.empty(0, bool))
    )
    table = plan_all(empty, WITH_NEGATIVES, negatives=True)
    assert len(table) > 60 and not len(table.objects)
    assert np.bincount(table.images * 2 + table.mirrored).max() == 2
    assert len(plan_all(empty, WITH_NEGATIVES)) == 0


def test_each_loop_is_compiled_once() -> None:
    """Other types would be compiled anew, for seconds."""
    for plan in PLANS:
        plan_all(crowd(0, 2), plan, negatives=True)
    empty = crowd(0, 1, 0, 0)
    plan_all(empty, WITH_NEGATIVES, negatives=True)
    assert len(cover_all.signatures) == len(assign_all.signatures) == 1


def test_without_a_place_for_the_cache_the_loops_still_compile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What numba does in a read-only installation for a user without a home."""
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])

    def double(value: int) -> int:
        return 2 * value

    assert compiled(double)(21) == 42


CACHED = """
import sys
import numpy as np
from detransfer.detection.chip_cover import cover_all
from detransfer.detection.chip_planner import BoxLists, plan_chips
from detransfer.detection.chips import ChipPlan, ChipScale

objects = BoxLists(np.array([0, 1]), np.array([[10.0, 10, 40, 40]]), np.ones(1, bool))
plan = ChipPlan((ChipScale(long=512),))
plan_chips(np.array([0]), np.array([[640, 480]]), objects, plan, (0, 0))
print(sum(cover_all.stats.cache_hits.values()), sum(cover_all.stats.cache_misses.values()))
"""


@pytest.mark.slow
def test_the_second_process_finds_what_the_first_compiled(repository: Path, tmp_path: Path) -> None:
    def hits_and_misses() -> str:
        environment = {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(repository / "src")}
        command = [sys.executable, "-c", CACHED]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        ).stdout.strip()

    assert hits_and_misses() == "0 1"
    assert hits_and_misses() == "1 0"
