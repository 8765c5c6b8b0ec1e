from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detransfer.console import InputError
from detransfer.detection.chips import (
    Chip,
    ChipPlan,
    ChipScale,
    candidate_windows,
    cover,
    image_chips,
    mirror,
)
from tests.detection.voc_records import read_records

VOC_SCALES = (
    ChipScale(short=1400, long=2000, valid_range=(0, 80)),
    ChipScale(short=800, long=1280, valid_range=(32, 150)),
    ChipScale(short=-1, long=512, valid_range=(120, math.inf)),
)
VOC = ChipPlan(VOC_SCALES)
VOC_57 = ChipPlan(VOC_SCALES, stride=(57, 57))
OPENIMAGES = ChipPlan(
    (ChipScale(factor=1.0, valid_range=(0, 300)), ChipScale(long=512, valid_range=(300, math.inf))),
    stride=(52, 59),
    coarsest_takes_rest=True,
)
IMAGENET_3130 = ChipPlan((ChipScale(long=512),))


def chips_of(boxes: list, size: tuple[int, int] = (500, 375), plan: ChipPlan = VOC, **more) -> list:
    return image_chips(np.array(boxes, float), *size, plan, np.random.default_rng(0), **more)


@pytest.mark.parametrize(
    ("size", "resized"),
    [
        ((500, 375), [(1867, 1400), (1067, 800), (512, 384)]),
        ((375, 500), [(1400, 1867), (800, 1067), (384, 512)]),
        ((640, 480), [(1867, 1400), (1067, 800), (512, 384)]),
        ((500, 333), [(2000, 1332), (1201, 800), (512, 341)]),
        ((1000, 100), [(2000, 200), (1280, 128), (512, 51)]),
    ],
)
def test_resized_images_have_the_known_sizes(
    size: tuple[int, int], resized: list[tuple[int, int]]
) -> None:
    factors = [scale.resize_factor(*size) for scale in VOC_SCALES]
    assert [(round(size[0] * f), round(size[1] * f)) for f in factors] == resized


def test_factors_of_the_other_modes() -> None:
    assert ChipScale(factor=1.667).resize_factor(640, 480) == 1.667
    assert ChipScale(long=512).resize_factor(1024, 768) == 0.5
    assert ChipScale(short=480, long=512).resize_factor(640, 480) == 0.8
    assert ChipScale(short=768, long=1024).resize_factor(1024, 768) == 1.0
    # 1333.4 rounds to the cap, 1333.6 beyond it
    assert ChipScale(short=800, long=1333).resize_factor(16667, 10000) == 0.08
    assert ChipScale(short=800, long=1333).resize_factor(16670, 10000) == 1333 / 16670


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"factor": 2.0, "long": 512}, "give either factor, or long with or without short"),
        ({"short": 512}, "give either factor"),
        ({}, "give either factor"),
        ({"factor": 0.0}, "must be positive"),
        ({"short": -2, "long": 512}, "must be positive"),
        ({"long": 512, "valid_range": (120, -1)}, "valid_range must rise"),
    ],
)
def test_wrong_scales_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ChipScale(**wrong)


def test_wrong_plans_are_refused() -> None:
    with pytest.raises(InputError, match="at least one scale"):
        ChipPlan(())
    with pytest.raises(InputError, match=r"stride \(59, 56\): must rise"):
        ChipPlan(VOC_SCALES, stride=(59, 56))
    with pytest.raises(InputError, match=r"must rise and lie in 1 \.\. 30"):
        ChipPlan(VOC_SCALES, size=32, stride=(20, 31))
    with pytest.raises(InputError, match="minimum_side -1"):
        ChipPlan(VOC_SCALES, minimum_side=-1)


def test_a_large_object_takes_the_whole_image_at_the_coarsest_scale() -> None:
    (chip,) = chips_of([[100, 50, 300, 200]])
    assert chip.window == (0, 0, 500, 375)
    assert (chip.width, chip.height, chip.scale_index, chip.factor) == (512, 384, 2, 1.024)
    np.testing.assert_allclose(chip.boxes, [[102.4, 51.2, 307.2, 204.8]], rtol=1e-6)
    assert chip.valid.tolist() == [True] and chip.object_rows.tolist() == [0]
    assert chip.valid_range == (120 * 1.024, math.inf)


def test_an_object_of_two_ranges_is_learned_at_two_scales() -> None:
    fine, middle = chips_of([[200, 200, 250, 250]])
    assert (fine.scale_index, middle.scale_index) == (0, 1)
    assert fine.valid_range == pytest.approx((0, 80 * 1400 / 375))
    assert fine.valid.all() and middle.valid.all()
    assert (fine.width, fine.height, middle.width, middle.height) == (512,) * 4
    # 512 / 3.733 and 512 / 2.133 pixels, widened to whole ones
    assert all(138 <= side <= 139 for side in (_width(fine), _height(fine)))
    assert all(240 <= side <= 242 for side in (_width(middle), _height(middle)))


@pytest.mark.parametrize(
    ("side", "scales"),
    [(31, {0}), (32, {0, 1}), (79, {0, 1}), (80, {1}), (119, {1}), (120, {1, 2}), (150, {2})],
)
def test_ranges_hold_their_lower_end_but_not_their_upper(side: int, scales: set[int]) -> None:
    assert {chip.scale_index for chip in chips_of([[100, 100, 100 + side, 100 + side]])} == scales


def test_the_rest_is_learned_beyond_the_upper_end_as_well() -> None:
    scale = ChipScale(long=512, valid_range=(0, 50))
    boxes = [[100, 100, 200, 200]]
    assert chips_of(boxes, plan=ChipPlan((scale,))) == []
    (chip,) = chips_of(boxes, plan=ChipPlan((scale,), coarsest_takes_rest=True))
    assert chip.valid.all()


def test_a_small_object_is_learned_in_a_middle_chip_that_another_called_for() -> None:
    """box_assigner: s < 150 at the middle scale, without the lower end of chip generation."""
    small, medium = [240, 180, 260, 200], [200, 150, 300, 250]
    assert {chip.scale_index for chip in chips_of([small])} == {0}
    (middle,) = (chip for chip in chips_of([small, medium]) if chip.scale_index == 1)
    assert dict(zip(middle.object_rows, middle.valid, strict=True)) == {0: True, 1: True}


def test_objects_out_of_range_stay_in_the_chip_as_not_valid() -> None:
    large, small, tiny = [100, 50, 300, 250], [10, 10, 30, 30], [400, 300, 408, 309]
    coarse = chips_of([large, small, tiny])[-1]
    assert coarse.scale_index == 2
    assert coarse.object_rows.tolist() == [0, 1], "8 x 9 pixels are below ten chip pixels"
    assert coarse.valid.tolist() == [True, False]
    plan = ChipPlan(VOC_SCALES, minimum_side=5)
    assert chips_of([large, small, tiny], plan=plan)[-1].object_rows.tolist() == [0, 1, 2]


def test_a_part_below_the_coarsest_range_is_not_valid() -> None:
    """Two objects wider than a chip, in an image larger than one: 290 x 100 and 100 x 40 show."""
    scale = ChipScale(factor=1.0, valid_range=(100, math.inf))
    plan = ChipPlan((scale,), size=300, stride=(40, 40))
    boxes = [[0, 0, 290, 290], [10, 0, 330, 100], [200, 100, 520, 140]]
    (chip,) = chips_of(boxes, (700, 300), plan)
    assert chip.window == (0, 0, 300, 300)
    assert dict(zip(chip.object_rows, chip.valid, strict=True)) == {0: True, 1: True, 2: False}


def test_a_long_thin_object_falls_through_unless_the_coarsest_takes_the_rest() -> None:
    """300 x 20: its size, 77, is below the coarsest range, its side too long for finer chips."""
    thin = [[100, 100, 400, 120]]
    assert chips_of(thin) == []
    (chip,) = chips_of(thin, plan=ChipPlan(VOC_SCALES, coarsest_takes_rest=True))
    assert chip.scale_index == 2 and chip.valid.tolist() == [True]


def test_openimages_sends_long_objects_to_the_coarse_scale() -> None:
    boxes = [[0, 0, 100, 100], [0, 0, 440, 150], [0, 0, 470, 20], [0, 0, 400, 400], [0, 0, 9, 1]]
    chips = chips_of(boxes, (1024, 768), OPENIMAGES)
    valid = {(c.scale_index, row) for c in chips for row in c.object_rows[c.valid]}
    assert valid == {(0, 0), (0, 1), (1, 2), (1, 3)}


def test_one_scale_with_an_open_range_gives_one_chip_an_image() -> None:
    (chip,) = chips_of([[0, 0, 20, 20], [100, 0, 500, 375]], plan=IMAGENET_3130)
    assert chip.valid.all() and chip.valid_range == (0, math.inf)


def test_ignored_boxes_call_for_no_chip_and_are_never_valid() -> None:
    boxes = [[100, 50, 300, 200], [20, 20, 300, 300]]
    assert chips_of(boxes, ignored=np.array([True, True])) == []
    (chip,) = chips_of(boxes, ignored=np.array([False, True]))
    assert dict(zip(chip.object_rows, chip.valid, strict=True)) == {0: True, 1: False}


def test_an_image_without_boxes_yields_nothing() -> None:
    assert image_chips(np.empty((0, 4)), 500, 375, VOC, np.random.default_rng(0)) == []


def test_candidates_worked_by_hand() -> None:
    """1000 x 700 at factor 1: x at 0, 200, 400 and 488, y at 0 and 188."""
    windows = candidate_windows(1000, 700, 1.0, 512, 200)
    expected = {(x, y, x + 512, y + 512) for x in (0, 200, 400, 488) for y in (0, 188)}
    assert {tuple(window) for window in windows.tolist()} == expected
    assert candidate_windows(500, 375, 1.024, 512, 56).tolist() == [[0, 0, 500, 375]]


def test_the_cover_worked_by_hand() -> None:
    windows = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 0, 30, 10], [40, 0, 50, 10]])
    boxes = np.array([[0, 0, 2, 2], [6, 0, 9, 9], [11, 0, 15, 3], [20, 0, 30, 10], [29, 0, 31, 2]])
    chosen = [cover(windows, boxes, np.random.default_rng(k)).tolist() for k in range(40)]
    # Windows 0 and 1 both hold two boxes; chance says which comes first. The last box fits nowhere.
    assert {tuple(rows) for rows in chosen if rows[0] == 0} == {(0, 1, 2), (0, 2, 1)}
    assert {tuple(rows) for rows in chosen if rows[0] == 1} == {(1, 0, 2), (1, 2, 0)}
    assert cover(windows, np.empty((0, 4)), np.random.default_rng(0)).tolist() == []
    assert cover(windows[:0], boxes, np.random.default_rng(0)).tolist() == []


def test_every_stride_between_its_ends_is_drawn() -> None:
    """A window that holds x from 59 to 571 begins at 59 or 60: only stride 59 has one."""
    boxes = np.array([[59, 0, 571, 512]], float)
    plans = {k: ChipPlan((ChipScale(factor=1.0),), stride=(k, k)) for k in (56, 57, 58, 59)}
    rng = np.random.default_rng(0)
    assert {k for k, plan in plans.items() if image_chips(boxes, 2000, 512, plan, rng)} == {59}
    plan = replace(plans[56], stride=(56, 59))
    drawn = sum(bool(image_chips(boxes, 2000, 512, plan, rng)) for _ in range(400))
    assert 60 < drawn < 140


def test_mirroring_twice_changes_nothing() -> None:
    boxes = np.array([[0.0, 5.0, 10.0, 20.0], [30.5, 0.0, 100.0, 8.0]])
    np.testing.assert_array_equal(mirror(boxes, 100), [[90, 5, 100, 20], [0, 0, 69.5, 8]])
    np.testing.assert_array_equal(mirror(mirror(boxes, 100), 100), boxes)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int, int, int]:
    """Boxes (whole or fractional, small or large), which are ignored, width, height, a seed."""
    width, height = draw(st.integers(20, 900)), draw(st.integers(20, 900))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    count = draw(st.integers(0, 25))
    reach = draw(st.sampled_from([0.1, 0.4, 1.0]))
    corner = rng.random((count, 2)) * [width, height]
    boxes = np.hstack([corner, corner + rng.random((count, 2)) * reach * [width, height] + 0.5])
    if draw(st.booleans()):
        boxes = boxes.round()
    return np.clip(boxes, 0, [width, height] * 2), rng.random(count) < 0.1, width, height, seed


@settings(max_examples=300, deadline=None)
@given(scenes(), st.sampled_from([VOC_57, replace(OPENIMAGES, stride=(52, 52)), IMAGENET_3130]))
def test_properties_of_all_chips(scene: tuple, plan: ChipPlan) -> None:
    boxes, ignored, width, height, seed = scene
    chips = image_chips(boxes, width, height, plan, np.random.default_rng(seed), ignored)
    again = image_chips(boxes, width, height, plan, np.random.default_rng(seed), ignored)
    assert [chip.window for chip in chips] == [chip.window for chip in again]
    assert all(np.array_equal(a.boxes, b.boxes) for a, b in zip(chips, again, strict=True))
    for chip in chips:
        _check_geometry(chip, boxes, width, height, plan)
    for index, seeds in enumerate(_seeds(boxes, ignored, width, height, plan)):
        level = [chip for chip in chips if chip.scale_index == index]
        owned = np.concatenate([c.object_rows[c.valid] for c in level] + [np.empty(0, int)])
        assert len(owned) == len(set(owned)), "an object is learned in two chips of one scale"
        assert not ignored[owned].any()
        for row in seeds:
            holders = [chip for chip in level if _inside(boxes[row], chip.window)]
            assert holders, "a suitable box lies whole in no chip of its scale"
            large = (boxes[row, 2:] - boxes[row, :2]) * 0.96 * holders[0].factor > plan.minimum_side
            assert row in owned or not large.all()
        assert all(any(_inside(boxes[row], chip.window) for row in seeds) for chip in level)


@settings(max_examples=60, deadline=None)
@given(scenes(), st.integers(20, 200), st.integers(5, 40))
def test_the_cover_is_greedy_and_complete(scene: tuple, size: int, stride: int) -> None:
    boxes, _, width, height, seed = scene
    windows = candidate_windows(width, height, 1.0, size, stride)
    chosen = cover(windows, boxes, np.random.default_rng(seed)).tolist()
    holds = [{k for k, box in enumerate(boxes) if _inside(box, window)} for window in windows]
    left = set().union(*holds)
    for row in chosen:  # straight from the definition: no window would cover more at this point
        gains = [len(held & left) for held in holds]
        assert gains[row] == max(gains) > 0
        left -= holds[row]
    assert not left, "stopped although a window still covers a box"


def test_fifty_boxes_take_less_than_five_milliseconds() -> None:
    rng = np.random.default_rng(0)
    corner = rng.random((50, 2)) * [400, 300]
    boxes = np.hstack([corner, corner + rng.uniform(5, 75, (50, 2))])
    times = []
    for _ in range(20):
        start = time.process_time()
        image_chips(boxes, 500, 375, VOC, rng)
        times.append(time.process_time() - start)
    assert min(times) < 0.005


@pytest.mark.real_data
def test_chips_of_real_images(real_data: Path) -> None:
    """A thousand VOC images: about two chips each, and nearly every object is learned somewhere."""
    images, objects = read_records(real_data)
    images = images[:1000]
    objects = objects[objects["image_id"] < 1000]
    learned = np.zeros(len(objects), bool)
    count = whole = 0
    for image in images.itertuples():
        rows = np.flatnonzero(objects["image_id"] == image.image_id)
        boxes = objects[["x1", "y1", "x2", "y2"]].to_numpy(float)[rows]
        difficult = objects["difficult"].to_numpy()[rows]
        rng = np.random.default_rng([7, image.image_id])
        chips = image_chips(boxes, image.width, image.height, VOC_57, rng, difficult)
        count += len(chips)
        for chip in chips:
            learned[rows[chip.object_rows[chip.valid]]] = True
        levels = _seeds(boxes, difficult, image.width, image.height, VOC_57)
        for index, seeds in enumerate(levels):
            level = [chip for chip in chips if chip.scale_index == index]
            assert all(any(_inside(boxes[row], c.window) for c in level) for row in seeds)
            whole += len(seeds)
    missed = (~learned & ~objects["difficult"].to_numpy()).sum()
    print(f"{count / 1000:.2f} chips an image, {whole} boxes whole, {missed} never learned")
    assert 1.5 < count / 1000 < 2.6
    assert missed < 0.015 * (~objects["difficult"]).sum()
    assert not (learned & objects["difficult"].to_numpy()).any()


def _seeds(
    boxes: np.ndarray, ignored: np.ndarray, width: int, height: int, plan: ChipPlan
) -> list[list[int]]:
    """Return for each scale the boxes that call for a chip, for a plan of one stride."""
    result: list[list[int]] = [[] for _ in plan.scales]
    for row, (x1, y1, x2, y2) in enumerate(boxes):
        w, h = x2 - x1, y2 - y1
        if w < 2 or h < 2 or ignored[row]:
            continue
        for index, scale in enumerate(plan.scales):
            limit = (plan.size - plan.stride[1] - 1) / scale.resize_factor(width, height)
            coarsest = index == len(plan.scales) - 1
            low, high = scale.valid_range
            if low <= math.sqrt(w * h) < high and (coarsest or max(w, h) < limit):
                result[index].append(row)
        if plan.coarsest_takes_rest and not any(row in level for level in result):
            result[-1].append(row)
    return result


def _check_geometry(chip: Chip, boxes: np.ndarray, width: int, height: int, plan: ChipPlan) -> None:
    """The window lies in the image, and the chip shows every box where it belongs."""
    x1, y1, x2, y2 = chip.window
    assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
    assert 1 <= chip.width <= plan.size and 1 <= chip.height <= plan.size
    for extent, pixels, whole in ((x2 - x1, chip.width, width), (y2 - y1, chip.height, height)):
        # As large as the chip allows, at the scale's size but for rounding outwards.
        assert extent == whole or extent >= plan.size / chip.factor
        assert -0.5 <= extent * chip.factor - pixels <= 2 * chip.factor + 0.5
    shown = []
    for row, (left, top, right, bottom) in enumerate(boxes):
        left, right = (min(max(v, x1), x2) - x1 for v in (left, right))
        top, bottom = (min(max(v, y1), y2) - y1 for v in (top, bottom))
        across, down = chip.width / (x2 - x1), chip.height / (y2 - y1)
        box = [left * across, top * down, right * across, bottom * down]
        if min(box[2] - box[0], box[3] - box[1]) >= plan.minimum_side:
            shown.append((row, box))
    assert chip.object_rows.tolist() == [row for row, _ in shown]
    assert chip.boxes.dtype == np.float32
    np.testing.assert_allclose(
        chip.boxes, np.reshape([box for _, box in shown], (-1, 4)), rtol=1e-6, atol=1e-4
    )


def _width(chip: Chip) -> int:
    return chip.window[2] - chip.window[0]


def _height(chip: Chip) -> int:
    return chip.window[3] - chip.window[1]


def _inside(box: np.ndarray, window: tuple[int, int, int, int]) -> bool:
    return bool(
        window[0] <= box[0] and window[1] <= box[1] and box[2] <= window[2] and box[3] <= window[3]
    )
