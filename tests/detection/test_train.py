from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from detransfer.backbone import build, mean_colour
from detransfer.console import InputError
from detransfer.data.index import BOX, FLAGS, Index
from detransfer.detection.chip_recipe import chip_plan, chip_scale
from detransfer.detection.chips import Chip, ChipPlan, ChipScale
from detransfer.detection.proposals import Proposals
from detransfer.detection.rpn import IGNORED
from detransfer.detection.train import (
    LARGEST_SIDE,
    ChipDataset,
    Scenes,
    check_chips,
    check_plan,
    chip_epochs,
    missed_objects,
    plan_epoch,
    scenes,
)
from detransfer.recipes.detection import DetectionRecipe, ScaleRecipe
from detransfer.strict import load_file
from tests.detection.rectangles import COLOURS, TINY, detection_recipe, write_rectangles

PLAN = chip_plan(detection_recipe().chips)
PAD = torch.tensor([7, 8, 9], dtype=torch.uint8)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return write_rectangles(tmp_path_factory.mktemp("rectangles") / "world")


@pytest.fixture(scope="module")
def chips(index: Index) -> ChipDataset:
    return ChipDataset(scenes(index), PLAN, PAD, seed=0, epoch=0)


def every(chips: ChipDataset) -> list[tuple[int, bool, Chip]]:
    """Return image number, orientation and geometry of every chip."""
    return [(int(chips.table.images[i]), *chips.chip(i)[1:]) for i in range(len(chips))]


def test_a_scene_is_an_image_with_its_objects(index: Index) -> None:
    shuffled = index.objects.sample(frac=1, random_state=3).reset_index(drop=True)
    found = scenes(Index(index.images, shuffled, index.classes, index.root))
    assert [scene.path.name for scene in found] == [f"{n}.png" for n in range(12)]  # 12 is empty
    for number, scene in enumerate(found):
        own = shuffled[shuffled["image_id"] == number]
        row = index.images.iloc[number]
        assert scene.path.parent == index.root
        assert scene.size == (row["width"], row["height"])
        assert np.array_equal(scene.boxes, own[BOX])
        assert scene.class_ids.tolist() == own["class_id"].tolist()
        assert scene.ignored.tolist() == own["difficult"].tolist()
    assert sum(scene.ignored.sum() for scene in found) == 1


@pytest.mark.parametrize("flag", ["difficult", "crowd", "group_of", "occluded", "truncated"])
def test_images_are_left_out_where_nothing_is_to_learn(index: Index, flag: str) -> None:
    objects = index.objects.copy()
    objects.loc[objects["image_id"] == 4, flag] = True
    found = scenes(Index(index.images, objects, index.classes, index.root))
    learnt = flag in ("occluded", "truncated")
    assert ("4.png" in [scene.path.name for scene in found]) == learnt
    assert len(found) == (12 if learnt else 11)


def test_scenes_follow_the_images_of_a_part(index: Index) -> None:
    part = index.split("test")
    assert [scene.path.name for scene in scenes(part)] == [f"{n}.png" for n in range(8, 12)]


def test_every_image_comes_as_it_is_and_mirrored(chips: ChipDataset) -> None:
    seen = {(number, mirrored) for number, mirrored, _ in every(chips)}
    assert seen == {(number, mirrored) for number in range(12) for mirrored in (False, True)}
    assert {chip.scale_index for _, _, chip in every(chips)} == {0, 1}


def colour_at(image: torch.Tensor, x: float, y: float) -> np.ndarray:
    return image[:, int(y), int(x)].numpy().astype(int)


def test_boxes_lie_on_the_pixels_of_their_class(chips: ChipDataset) -> None:
    """The rectangles are far from the background's grey, and no two touch."""
    colours = list(COLOURS.values())
    checked: set[tuple[bool, int]] = set()
    for place in range(len(chips)):
        _, mirrored, chip = chips.chip(place)
        image, target, _ = chips[place]
        height, width = target["size"]
        for box, label in zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True):
            if label == IGNORED:
                continue
            x1, y1, x2, y2 = box
            own = np.array(colours[label - 1])
            assert np.abs(colour_at(image, (x1 + x2) / 2, (y1 + y2) / 2) - own).max() < 12
            inside = [(x1 + 2, y1 + 2), (x2 - 3, y2 - 3), (x1 + 2, y2 - 3), (x2 - 3, y1 + 2)]
            outside = [(x1 - 2, (y1 + y2) / 2), (x2 + 1, (y1 + y2) / 2)]
            outside += [((x1 + x2) / 2, y1 - 2), ((x1 + x2) / 2, y2 + 1)]
            if min(x2 - x1, y2 - y1) >= 6:
                assert all(np.abs(colour_at(image, *at) - own).max() < 25 for at in inside)
            for x, y in outside:
                if 0 <= x < width and 0 <= y < height:
                    assert np.abs(colour_at(image, x, y) - own).max() > 50
                    checked.add((mirrored, chip.scale_index))
    assert checked == {(False, 0), (False, 1), (True, 0), (True, 1)}


def test_labels_are_classes_from_one_on_and_difficult_ones_are_ignored(
    chips: ChipDataset,
) -> None:
    ignored = 0
    for place, (number, _, chip) in enumerate(every(chips)):
        scene, target = chips.images[number], chips[place].target
        rows = chip.object_rows
        for row, label, valid in zip(rows, target["labels"], target["valid"], strict=True):
            if scene.ignored[row]:
                assert (int(label), bool(valid)) == (IGNORED, False)
                ignored += 1
            else:
                assert int(label) == scene.class_ids[row] + 1
        assert target["valid"].any()
    assert ignored >= 2


def test_a_target_has_the_types_that_the_detector_takes(chips: ChipDataset) -> None:
    sizes = set()
    for place, (number, _, chip) in enumerate(every(chips)):
        image, target, name = chips[place]
        assert image.dtype == torch.uint8 and image.shape == (3, 64, 64)
        assert name == f"{number}.png"
        assert target["boxes"].dtype == torch.float32 and target["labels"].dtype == torch.int64
        assert target["valid"].dtype == torch.bool
        assert all(type(side) is int for side in target["size"])  # tensors would go to the GPU
        low, high = target["valid_range"].tolist()
        assert (low, high) == pytest.approx(chip.valid_range)
        if chip.scale_index == 0:
            assert (low, high) == pytest.approx((0, 30 * 1.25))
        else:
            longest = max(chips.images[number].size)
            assert low == pytest.approx(24 * 64 / longest) and high == math.inf
        height, width = target["size"]
        assert (image[:, height:] == PAD.view(3, 1, 1)).all()
        assert (image[:, :, width:] == PAD.view(3, 1, 1)).all()
        assert not (image[:, :height, :width] == PAD.view(3, 1, 1)).all(0).any()
        sizes.add((height, width))
    assert (64, 64) in sizes and len(sizes) > 3


def windows(scenes: Scenes, seed: int, epoch: int) -> list[tuple[int, bool, tuple]]:
    found = every(ChipDataset(scenes, PLAN, PAD, seed, epoch))
    return [(number, mirrored, chip.window) for number, mirrored, chip in found]


def test_chips_depend_on_seed_epoch_and_image_alone(index: Index) -> None:
    images = scenes(index)
    first = windows(images, 0, 0)
    assert windows(images, 0, 0) == first
    assert windows(images, 0, 1) != first
    assert windows(images, 1, 0) != first
    order = np.array([7, 2, 11, 0, 5])
    found = windows(images.part(order), 0, 0)
    assert found == [(k, *e[1:]) for k, n in enumerate(order) for e in first if e[0] == n]


def test_neither_blocks_nor_threads_change_the_chips(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, proposals = scenes(index, background=True), everywhere(index)
    first = plan_epoch(images, NEGATIVE, 0, 0, proposals)
    monkeypatch.setattr("detransfer.detection.train.BLOCK", 5)
    again = plan_epoch(images, NEGATIVE, 0, 0, proposals, threads=3)
    for name in ("images", "mirrored", "scales", "windows", "offsets", "objects"):
        assert np.array_equal(getattr(first, name), getattr(again, name)), name


def test_workers_of_a_loader_see_what_the_main_process_sees(chips: ChipDataset) -> None:
    loader = DataLoader(chips, batch_size=None, num_workers=2)
    for example, expected in zip(loader, map(chips.__getitem__, range(len(chips))), strict=True):
        assert torch.equal(example.image, expected.image) and example.name == expected.name
        assert torch.equal(example.target["boxes"], expected.target["boxes"])


def test_an_example_is_the_same_whenever_it_is_asked_for(chips: ChipDataset) -> None:
    last, first = chips[len(chips) - 1], chips[0]
    assert torch.equal(chips[0].image, first.image)
    again = ChipDataset(chips.images, PLAN, PAD, 0, 0)
    assert torch.equal(again[len(chips) - 1].image, last.image)


def test_a_damaged_image_is_named(index: Index, tmp_path: Path) -> None:
    content = (index.root / "3.png").read_bytes()
    (tmp_path / "3.png").write_bytes(content[: len(content) // 2])
    broken = scenes(replace(index, root=tmp_path)).part(slice(3, 4))
    with pytest.raises(InputError, match=r"3\.png: .*damaged or truncated"):
        ChipDataset(broken, PLAN, PAD, 0, 0)[0]


NEGATIVE = replace(PLAN, negatives_per_image=2, minimum_proposals=(4, 4))


def everywhere(index: Index, low: float = 10, high: float = 30) -> Proposals:
    """Return 150 proposals with sides of 10 to 30 pixels, or others, in each image."""
    rng = np.random.default_rng(0)
    boxes = []
    for size in index.images[["width", "height"]].to_numpy():
        side = rng.uniform(low, high, (150, 2))
        corner = rng.random((150, 2)) * (size - side)
        boxes.append(np.hstack([corner, corner + side]))
    count = len(index.images)
    ids = index.images["image_id"].to_numpy()
    return Proposals(ids, np.arange(count + 1) * 150, np.concatenate(boxes).astype(np.float32))


def test_negative_chips_come_with_proposals_also_from_images_without_objects(index: Index) -> None:
    images = scenes(index, background=True)
    assert [scene.path.name for scene in images] == [f"{n}.png" for n in range(13)]
    positive = ChipDataset(scenes(index), NEGATIVE, PAD, 0, 0)
    both = ChipDataset(images, NEGATIVE, PAD, 0, 0, everywhere(index))
    negative = [n for n in range(len(both)) if not both[n].target["valid"].any()]
    assert len(negative) == len(both) - len(positive) > 10
    per_view = np.bincount((both.table.images * 2 + both.table.mirrored)[negative])
    assert per_view.max() == 2 and per_view[24] == per_view[25] == 2, "image 12 has no object"
    objects = [len(both[n].target["boxes"]) for n in negative]
    assert max(objects) > 0, "objects are shown in negative chips, as invalid ones"
    empty = both[negative[-1]].target
    assert empty["boxes"].shape == (0, 4) and empty["labels"].shape == (0,)


def test_negative_chips_change_nothing_about_the_positive_ones(index: Index) -> None:
    def positives(dataset: ChipDataset) -> list[tuple]:
        found = [dataset.chip(n) for n in range(len(dataset)) if len(dataset.table.learned(n))]
        return [(scene.path, mirrored, chip.window) for scene, mirrored, chip in found]

    both = ChipDataset(scenes(index, True), NEGATIVE, PAD, 0, 0, everywhere(index))
    assert positives(both) == positives(ChipDataset(scenes(index), PLAN, PAD, 0, 0))


def refused(index: Index, *scales: ChipScale) -> str:
    plan = ChipPlan(scales, 64, (8, 12))
    with pytest.raises(InputError) as caught:
        check_plan(scenes(index), plan)
        check_chips(ChipDataset(scenes(index), plan, PAD, 0, 0))
    return str(caught.value)


def test_a_scale_that_enlarges_beyond_measure_names_the_image(index: Index) -> None:
    widest = int(index.images["width"][:12].max())
    name = index.images["path"][index.images["width"][:12].idxmax()]
    factor = LARGEST_SIDE / widest + 0.01
    message = refused(index, ChipScale(factor=factor, valid_range=(0, 30)), ChipScale(long=64))
    assert f"{name}: {widest} x " in message and "chips.scales[0], more than 20000" in message
    check_plan(scenes(index), ChipPlan((ChipScale(factor=factor - 0.02),), 9000, (900, 900)))


def test_scales_in_the_wrong_order_are_refused(index: Index) -> None:
    message = refused(index, ChipScale(long=64), ChipScale(factor=1.25, valid_range=(0, 30)))
    assert message == (
        "chips.scales[0] of the recipe enlarges every image less than chips.scales[1]; "
        "put the finest scale first"
    )


def test_a_range_beyond_what_chips_hold_is_refused(index: Index) -> None:
    message = refused(index, ChipScale(factor=2, valid_range=(27.5, 60)), ChipScale(long=64))
    assert "chips.scales[0]: its chips hold objects of up to 28 original pixels" in message
    assert "its valid_range begins at 27.5" in message
    held = (ChipScale(factor=2, valid_range=(27, 60)), ChipScale(long=64))
    check_plan(scenes(index), ChipPlan(held, 64, (8, 12)))


def test_sizes_that_only_the_range_takes_and_not_the_chip_are_refused(index: Index) -> None:
    """Chips of 64 with a step of 8 hold 55 pixels: at 2.5 x objects of up to 22."""
    fine, coarse = ChipScale(factor=2.5, valid_range=(0, 30)), ChipScale(long=64)
    message = refused(index, fine, replace(coarse, valid_range=(30, math.inf)))
    assert "no chip holds objects of 22.0 to 30 original pixels" in message
    assert "factor of chips.scales[0] is 2.5" in message and "hold up to 22.0" in message
    assert "chips.scales[1] begins at 30; let that begin at 22 or less" in message
    plan = ChipPlan((fine, replace(coarse, valid_range=(22, math.inf))), 64, (8, 12))
    check_plan(scenes(index), plan)
    far = replace(plan, scales=(fine, replace(coarse, valid_range=(30, math.inf))))
    check_plan(scenes(index), replace(far, coarsest_takes_rest=True))
    between = ChipScale(factor=1.25, valid_range=(22, 32))
    check_plan(scenes(index), replace(far, scales=(fine, between, far.scales[1])))


def test_the_median_image_decides_what_chips_hold() -> None:
    """A short side of 200 enlarges images of 100 by 2, and chips of 64 then hold 27 pixels."""
    scales = (ChipScale(short=200, long=300, valid_range=(0, 40)), ChipScale(long=64))
    plan = ChipPlan((scales[0], replace(scales[1], valid_range=(30, math.inf))), 64, (8, 12))
    index = squares(5, [(10, 10)])
    small, large = index.images["image_id"] < 2, index.images["image_id"] >= 2
    index.images.loc[large, ["width", "height"]] = 200
    check_plan(scenes(index), plan)
    index.images.loc[small, ["width", "height"]] = 30
    check_plan(scenes(index), plan)
    index.images.loc[index.images["image_id"] == 2, ["width", "height"]] = 100
    with pytest.raises(InputError, match=r"objects of 27\.5 to 30 .* begin at 27 or less"):
        check_plan(scenes(index), plan)


IMAGE_SIZES = {
    "coco": [(640, 480), (640, 427), (480, 640), (500, 375), (640, 640), (640, 360)],
    "openimages": [(1024, 768), (1024, 683), (768, 1024), (1024, 1024), (683, 1024)],
    "imagenet": [(500, 375), (500, 333), (375, 500), (2048, 1536), (160, 120)],
    "voc": [(500, 375), (500, 333), (375, 500), (500, 400), (333, 500)],
}
WORLD_SIZES = [(128, 128), (128, 96), (96, 128), (112, 84)]


@pytest.mark.parametrize("study", ["paper", "evening", "sample", "demo"])
def test_the_recipes_of_this_project_suit_images_of_their_data_sets(
    repository: Path, study: str
) -> None:
    folder = repository / "config/recipes" / study
    recipes = [path for path in sorted(folder.glob("*.yaml")) if "\nchips:" in path.read_text()]
    assert recipes
    for path in recipes:
        (sizes,) = (sizes for name, sizes in IMAGE_SIZES.items() if name in path.stem)
        sizes = WORLD_SIZES if study == "demo" else sizes
        index = squares(len(sizes), [(20, 20)])
        index.images[["width", "height"]] = sizes
        check_plan(scenes(index), chip_plan(load_file(path, DetectionRecipe).chips))


def test_a_training_checks_its_plan_on_all_images_together(index: Index) -> None:
    """The coarser scale may be the finer one for a small image alone."""
    scales = [{"factor": 0.7, "valid_range": [0, 30]}, {"long": 60}]
    recipe = detection_recipe(chips={"scales": scales})
    chip_epochs(index, recipe.chips, build(TINY, 0, 16), 0)
    small = int(index.images["width"][:12].idxmin())
    one = scenes(index).part(slice(small, small + 1))
    with pytest.raises(InputError, match="put the finest scale first"):
        check_plan(one, chip_plan(recipe.chips))
    ChipDataset(one, chip_plan(recipe.chips), PAD, 0, 0)  # as the inspector looks at it


def test_objects_outside_all_ranges_are_told_from_no_objects(index: Index) -> None:
    message = refused(index, ChipScale(long=64, valid_range=(0, 9)))
    learnt = index.objects[~index.objects["difficult"]]
    sizes = ((learnt["x2"] - learnt["x1"]) * (learnt["y2"] - learnt["y1"])) ** 0.5
    expected = f"{len(learnt)} objects measure {min(sizes):.0f} to {max(sizes):.0f} pixels"
    assert f"no chip in 12 images has an object to learn: their {expected}" in message
    assert "valid_range 0 to 9" in message and "chips.coarsest_takes_rest" in message
    empty = scenes(index, background=True).part(slice(12, 13))
    with pytest.raises(InputError, match="no object to learn in 1 images"):
        check_chips(ChipDataset(empty, PLAN, PAD, 0, 0))


def test_negative_chips_alone_are_refused(index: Index) -> None:
    """Enlarged sixfold, every object is longer than a chip, but small proposals are not."""
    chips: dict[str, Any] = {"negatives": {"minimum_proposals": [0]}}
    proposals, backbone = everywhere(index, 3, 8), build(TINY, 0, 16)

    def first_epoch(factor: float) -> ChipDataset:
        recipe = detection_recipe(chips={**chips, "scales": [{"factor": factor}]}).chips
        return cast(ChipDataset, chip_epochs(index, recipe, backbone, 0, proposals)(0))

    negative = ChipDataset(
        scenes(index, background=True),
        ChipPlan((ChipScale(factor=6),), 64, (8, 12), 4, False, 2, (0,)),
        PAD,
        *(0, 0),
        proposals,
    )
    assert len(negative) > 20 and not len(negative.table.objects)
    with pytest.raises(InputError, match=r"no chip in 13 images has an object .* 0 to inf"):
        first_epoch(6)
    assert len(first_epoch(1.5).table.objects)


def squares(count: int, sides: list[tuple[int, int]]) -> Index:
    """Return so many images of 100 x 100 pixels, each with objects of these widths and heights."""
    images = pd.DataFrame({"image_id": range(count), "path": "x", "width": 100, "height": 100})
    objects = pd.DataFrame([(k, 0, 0, *side) for k in range(count) for side in sides])
    objects.columns = pd.Index(["image_id", *BOX])
    objects[FLAGS] = False
    classes = pd.DataFrame({"class_id": [0], "name": "x", "source_id": "", "superclass": ""})
    return Index(images.assign(split="train"), objects.assign(class_id=0), classes, Path())


FINE_TO_26 = ({"factor": 2, "valid_range": [0, 26]}, {"long": 64, "valid_range": [26, None]})


@pytest.mark.parametrize(
    ("others", "level"), [(1, logging.WARNING), (18, logging.WARNING), (20, logging.INFO)]
)
def test_objects_on_no_chip_are_told(
    caplog: pytest.LogCaptureFixture, others: int, level: int
) -> None:
    """One object is of the fine scale's size, but longer than the 27 pixels that its chips hold."""
    caplog.set_level(logging.INFO)
    index = squares(5, [(10, 10), (35, 15), *[(60, 60)] * (others - 1)])
    index.objects.loc[0, "difficult"] = True
    recipe = detection_recipe(chips={"scales": FINE_TO_26}).chips
    epochs = chip_epochs(index, recipe, build(TINY, 0, 16), 0)
    epochs(1)
    assert not caplog.records
    epochs(0)
    ((_, found, message),) = caplog.record_tuples
    count = 5 * (others + 1) - 1
    assert found == level
    assert f"5 of {count} objects ({5 / count:.1%}) are learned in no chip of the" in message
    assert ("scripts/inspect_chips.py" in message) == (level == logging.WARNING)
    caplog.clear()
    rest = recipe.model_copy(update={"coarsest_takes_rest": True})
    chip_epochs(index, rest, build(TINY, 0, 16), 0)(0)
    assert not caplog.records


def test_objects_are_counted_in_a_part_of_the_images() -> None:
    index = squares(5, [(10, 10), (35, 15)])
    index.objects.loc[index.objects["image_id"] == 3, "y2"] = 10
    plan = chip_plan(detection_recipe(chips={"scales": FINE_TO_26}).chips)
    chips = ChipDataset(scenes(index).part(np.array([4, 3])), plan, PAD, 0, 0)
    assert missed_objects(chips) == (2, 4)


def test_recipes_and_chips_mean_the_same_scale() -> None:
    recipe = ScaleRecipe(short=480, long=512, valid_range=(120, None))
    assert chip_scale(recipe).valid_range == (120, math.inf)
    assert chip_scale(recipe).resize_factor(640, 480) == 0.8
    assert chip_scale(ScaleRecipe(factor=3, valid_range=(0, 80))).valid_range == (0, 80)
    assert chip_scale(ScaleRecipe(long=512)).resize_factor(1024, 100) == 0.5
    plan = chip_plan(detection_recipe(chips={"stride": [9, 11], "minimum_side": 3}).chips)
    assert (plan.size, plan.stride, plan.minimum_side) == (64, (9, 11), 3)
    assert (plan.coarsest_takes_rest, plan.negatives_per_image) == (False, 0)
    more = {"coarsest_takes_rest": True, "negatives": {"minimum_proposals": [7, 5]}}
    plan = chip_plan(detection_recipe(chips=more).chips)
    assert plan.coarsest_takes_rest
    assert (plan.negatives_per_image, plan.minimum_proposals) == (2, (7, 5))


def test_the_padding_of_a_training_is_the_mean_colour(index: Index) -> None:
    pad = mean_colour(build(TINY))
    assert pad.tolist() == [124, 116, 104]
    dataset = ChipDataset(scenes(index), PLAN, pad, 0, 0)
    place = next(i for i, (_, _, chip) in enumerate(every(dataset)) if chip.height < 64)
    assert dataset[place].image[:, -1, 0].tolist() == [124, 116, 104]
