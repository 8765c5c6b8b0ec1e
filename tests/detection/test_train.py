from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from detransfer.backbone import build, mean_colour
from detransfer.console import InputError
from detransfer.data.index import BOX, Index
from detransfer.detection.rpn import IGNORED
from detransfer.detection.train import ChipDataset, Scene, chip_plan, chip_scale, scenes
from detransfer.recipes import ScaleRecipe
from tests.detection.rectangles import COLOURS, TINY, detection_recipe, write_rectangles

PLAN = chip_plan(detection_recipe().chips)
PAD = torch.tensor([7, 8, 9], dtype=torch.uint8)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return write_rectangles(tmp_path_factory.mktemp("rectangles") / "world")


@pytest.fixture(scope="module")
def chips(index: Index) -> ChipDataset:
    return ChipDataset(scenes(index), PLAN, PAD, seed=0, epoch=0)


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
    seen = {(number, mirrored) for number, mirrored, _ in chips.chips}
    assert seen == {(number, mirrored) for number in range(12) for mirrored in (False, True)}
    assert {chip.scale_index for _, _, chip in chips.chips} == {0, 1}


def colour_at(image: torch.Tensor, x: float, y: float) -> np.ndarray:
    return image[:, int(y), int(x)].numpy().astype(int)


def test_boxes_lie_on_the_pixels_of_their_class(chips: ChipDataset) -> None:
    """The rectangles are far from the background's grey, and no two touch."""
    colours = list(COLOURS.values())
    checked: set[tuple[bool, int]] = set()
    for place in range(len(chips)):
        _, mirrored, chip = chips.chips[place]
        image, target, _ = chips[place]
        height, width = target["size"].tolist()
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
    for place, (number, _, chip) in enumerate(chips.chips):
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
    for place, (number, _, chip) in enumerate(chips.chips):
        image, target, name = chips[place]
        assert image.dtype == torch.uint8 and image.shape == (3, 64, 64)
        assert name == f"{number}.png"
        assert target["boxes"].dtype == torch.float32 and target["labels"].dtype == torch.int64
        assert target["valid"].dtype == torch.bool
        low, high = target["valid_range"].tolist()
        assert (low, high) == pytest.approx(chip.valid_range)
        if chip.scale_index == 0:
            assert (low, high) == pytest.approx((0, 30 * 1.25))
        else:
            longest = max(chips.images[number].size)
            assert low == pytest.approx(24 * 64 / longest) and high == math.inf
        height, width = target["size"].tolist()
        assert (image[:, height:] == PAD.view(3, 1, 1)).all()
        assert (image[:, :, width:] == PAD.view(3, 1, 1)).all()
        assert not (image[:, :height, :width] == PAD.view(3, 1, 1)).all(0).any()
        sizes.add((height, width))
    assert (64, 64) in sizes and len(sizes) > 3


def windows(scenes: Sequence[Scene], seed: int, epoch: int) -> list[tuple[int, bool, tuple]]:
    dataset = ChipDataset(scenes, PLAN, PAD, seed, epoch)
    return [(number, mirrored, chip.window) for number, mirrored, chip in dataset.chips]


def test_chips_depend_on_seed_epoch_and_image_alone(index: Index) -> None:
    images = scenes(index)
    first = windows(images, 0, 0)
    assert windows(images, 0, 0) == first
    assert windows(images, 0, 1) != first
    assert windows(images, 1, 0) != first
    fewer = [entry for entry in first if entry[0] < 5]
    assert windows(images[:5], 0, 0) == fewer
    copies = windows([images[2]] * 4, 0, 0)  # equal images, other draws
    assert len({tuple(w for n, _, w in copies if n == number) for number in range(4)}) > 1


def test_an_example_is_the_same_whenever_it_is_asked_for(chips: ChipDataset) -> None:
    last, first = chips[len(chips) - 1], chips[0]
    assert torch.equal(chips[0].image, first.image)
    again = ChipDataset(chips.images, PLAN, PAD, 0, 0)
    assert torch.equal(again[len(chips) - 1].image, last.image)


def test_a_damaged_image_is_named(index: Index, tmp_path: Path) -> None:
    content = (index.root / "3.png").read_bytes()
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(content[: len(content) // 2])
    scene = scenes(index)[3]
    broken = Scene(damaged, scene.size, scene.boxes, scene.class_ids, scene.ignored)
    with pytest.raises(InputError, match=r"damaged\.png: .*damaged or truncated"):
        ChipDataset([broken], PLAN, PAD, 0, 0)[0]


def test_recipes_and_chips_mean_the_same_scale() -> None:
    recipe = ScaleRecipe(short=480, long=512, valid_range=(120, None))
    assert chip_scale(recipe).valid_range == (120, math.inf)
    assert chip_scale(recipe).resize_factor(640, 480) == 0.8
    assert chip_scale(ScaleRecipe(factor=3, valid_range=(0, 80))).valid_range == (0, 80)
    assert chip_scale(ScaleRecipe(long=512)).resize_factor(1024, 100) == 0.5
    plan = chip_plan(detection_recipe(chips={"stride": [9, 11], "minimum_side": 3}).chips)
    assert (plan.size, plan.stride, plan.minimum_side) == (64, (9, 11), 3)


def test_the_padding_of_a_training_is_the_mean_colour(index: Index) -> None:
    pad = mean_colour(build(TINY))
    assert pad.tolist() == [124, 116, 104]
    dataset = ChipDataset(scenes(index), PLAN, pad, 0, 0)
    place = next(i for i, (_, _, chip) in enumerate(dataset.chips) if chip.height < 64)
    assert dataset[place].image[:, -1, 0].tolist() == [124, 116, 104]
