"""What chips images get, worked by hand; test_chip_planner.py compares with another program."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from detransfer.console import InputError
from detransfer.detection.chip_planner import BoxLists, plan_chips
from detransfer.detection.chips import Chip, ChipPlan, ChipScale, place, show
from tests.detection.voc_records import read_records

VOC_SCALES = (
    ChipScale(short=1400, long=2000, valid_range=(0, 80)),
    ChipScale(short=800, long=1280, valid_range=(32, 150)),
    ChipScale(short=-1, long=512, valid_range=(120, math.inf)),
)
VOC = ChipPlan(VOC_SCALES)
OPENIMAGES = ChipPlan(
    (ChipScale(factor=1.0, valid_range=(0, 300)), ChipScale(long=512, valid_range=(300, math.inf))),
    stride=(52, 59),
    coarsest_takes_rest=True,
)
IMAGENET_3130 = ChipPlan((ChipScale(long=512),))


def chips_of(
    boxes: list,
    size: tuple[int, int] = (500, 375),
    plan: ChipPlan = VOC,
    ignored: list[bool] | None = None,
) -> list[Chip]:
    """Return the chips of one image as it is."""
    return chips_of_many([boxes], size, plan, ignored)[0]


def chips_of_many(
    boxes: list[list],
    size: tuple[int, int],
    plan: ChipPlan,
    ignored: list[bool] | None = None,
) -> list[list[Chip]]:
    """Return the chips of images 0, 1, ... as they are, each with its own chance."""
    corners = [np.array(own, float).reshape(-1, 4) for own in boxes]
    offsets = np.append(0, np.cumsum([len(own) for own in corners]))
    usable = np.ones(offsets[-1], bool) if ignored is None else ~np.array(ignored)
    objects = BoxLists(offsets, np.concatenate(corners), usable)
    sizes = np.tile([size], (len(boxes), 1))
    table = plan_chips(np.arange(len(boxes)), sizes, objects, plan, (0, 0))
    factors = [scale.resize_factor(*size) for scale in plan.scales]
    found: list[list[Chip]] = [[] for _ in boxes]
    for i in np.flatnonzero(~table.mirrored):
        image, scale = int(table.images[i]), int(table.scales[i])
        chip = show(table.windows[i], corners[image], table.learned(i), plan, scale, factors[scale])
        found[image].append(chip)
    return found


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
    with pytest.raises(InputError, match="give one number for each of the 3 scales"):
        ChipPlan(VOC_SCALES, negatives_per_image=2, minimum_proposals=(25, 10))


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
    assert chips_of(boxes, ignored=[True, True]) == []
    (chip,) = chips_of(boxes, ignored=[False, True])
    assert dict(zip(chip.object_rows, chip.valid, strict=True)) == {0: True, 1: False}


def test_an_image_without_boxes_yields_nothing() -> None:
    assert chips_of([]) == []


def test_windows_worked_by_hand() -> None:
    """1000 x 700 at factor 1, step 200: x at 0, 200, 400 and 488, y at 0 and 188."""
    plan = ChipPlan((ChipScale(factor=1.0),), stride=(200, 200))
    places = [(x, y) for x in range(20, 1000, 60) for y in range(20, 700, 60)]
    boxes = [[[x, y, x + 10, y + 10]] for x, y in places * 3]
    seen = {chip.window for (chip,) in chips_of_many(boxes, (1000, 700), plan)}
    assert seen == {(x, y, x + 512, y + 512) for x in (0, 200, 400, 488) for y in (0, 188)}


@pytest.mark.parametrize(("tenths", "size", "stride"), [(6, 77, 11), (6, 77, 58), (9, 64, 12)])
def test_rounding_errors_widen_no_window(tenths: int, size: int, stride: int) -> None:
    """Where a window ends at a whole pixel, floating point often says a little more or less."""
    step, length = Fraction(stride * 10, tenths), Fraction(size * 10, tenths)
    exact = {
        (math.floor(k * step), min(math.ceil(k * step + length), 700))
        for k in range(math.ceil((700 - length) / step))
    }
    exact.add((math.floor(700 - length), 700))
    plan = ChipPlan((ChipScale(factor=tenths / 10),), size, (stride, stride))
    boxes = [[[x, 10, x + 5, 20]] for x in range(690)]
    seen = {(chip.window[0], chip.window[2]) for (chip,) in chips_of_many(boxes, (700, 50), plan)}
    assert seen <= exact and len(seen) > 0.9 * len(exact)


def test_the_greedy_choice_worked_by_hand() -> None:
    """Windows of 20 pixels at 0, 10, 20, 30 and 40; the last box is longer than any."""
    plan = ChipPlan((ChipScale(factor=1.0),), size=20, stride=(10, 10))
    boxes = [[1, 0, 4, 9], [12, 0, 18, 9], [22, 0, 28, 9], [42, 0, 48, 9], [25, 0, 47, 9]]
    found = chips_of_many([boxes] * 300, (60, 20), plan)
    chosen = {tuple(chip.window[0] for chip in chips) for chips in found}
    # 0 and 10 both hold two boxes; chance says which is first, and then between all that hold one.
    after_0 = {order for c in (10, 20) for d in (30, 40) for order in ((0, c, d), (0, d, c))}
    after_10 = {order for d in (30, 40) for order in ((10, 0, d), (10, d, 0))}
    assert chosen == after_0 | after_10


def test_every_stride_between_its_ends_is_drawn() -> None:
    """A window that holds x from 59 to 571 begins at 59 or 60: only stride 59 has one."""
    box = [[59, 0, 571, 512]]
    scale = (ChipScale(factor=1.0),)
    only = {k: ChipPlan(scale, stride=(k, k)) for k in (56, 57, 58, 59)}
    assert {k for k, plan in only.items() if chips_of(box, (2000, 512), plan)} == {59}
    plan = ChipPlan(scale, stride=(56, 59))
    drawn = sum(bool(chips) for chips in chips_of_many([box] * 400, (2000, 512), plan))
    assert 60 < drawn < 140


def test_mirroring_twice_changes_nothing() -> None:
    boxes = np.array([[0.0, 5.0, 10.0, 20.0], [30.5, 0.0, 100.0, 8.0]])
    once = place(boxes, 100, 50, True)
    np.testing.assert_array_equal(once, [[90, 5, 100, 20], [0, 0, 69.5, 8]])
    np.testing.assert_array_equal(place(once, 100, 50, True), boxes)


def test_boxes_are_clipped_to_their_own_image_and_flipped_where_asked() -> None:
    boxes = np.float32([[-3, -2, 10, 60], [5, 5, 99, 20]])
    widths, heights = np.array([100, 80]), np.array([50, 40])
    found = place(boxes, widths, heights, np.array([False, True]))
    np.testing.assert_array_equal(found, [[0, 0, 10, 50], [0, 5, 75, 20]])
    assert found.dtype == np.float64


@pytest.mark.real_data
def test_chips_of_real_images(real_data: Path) -> None:
    """A thousand VOC images: about two chips each, and nearly every object is learned somewhere."""
    images, objects = read_records(real_data)
    images = images[:1000]
    objects = objects[objects["image_id"] < 1000].sort_values("image_id", kind="stable")
    counts = np.bincount(objects["image_id"], minlength=1000)
    difficult = objects["difficult"].to_numpy()
    lists = BoxLists(
        np.append(0, np.cumsum(counts)), objects[["x1", "y1", "x2", "y2"]].to_numpy(), ~difficult
    )
    sizes = images[["width", "height"]].to_numpy()
    table = plan_chips(images["image_id"].to_numpy(), sizes, lists, VOC, (7, 0))
    learned = np.zeros(len(objects), bool)
    owner = np.repeat(table.images, np.diff(table.offsets))
    learned[lists.offsets[owner] + table.objects] = True
    missed = (~learned & ~difficult).sum()
    print(f"{len(table) / 2000:.2f} chips an image, {missed} objects never learned")
    assert 1.5 < len(table) / 2000 < 2.6
    assert missed < 0.015 * (~difficult).sum()
    assert not (learned & difficult).any()


def _width(chip: Chip) -> int:
    return chip.window[2] - chip.window[0]


def _height(chip: Chip) -> int:
    return chip.window[3] - chip.window[1]
