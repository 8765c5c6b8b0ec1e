"""The rendered scenes: annotations against pixels, the dial, the three kinds of distinction."""

from __future__ import annotations

from itertools import combinations, pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression

from detransfer.console import InputError
from detransfer.data.miniature.annotations import voc_xml
from detransfer.data.miniature.flowers import FLOWERS, render_flower
from detransfer.data.miniature.places import PLACES, render_place
from detransfer.data.miniature.recipe import FlowersRecipe, SunRecipe, WorldRecipe
from detransfer.data.miniature.scenes import Scene, render_classification, render_scene
from detransfer.data.miniature.world import World, make_world
from detransfer.strict import load_file

SMALL = {
    name: {"classes": 4}
    for name in ("imagenet_cls", "coco", "openimages", "imagenet_loc", "voc", "caltech")
}
# The most classes that each kind of world has, in the same order.
LARGEST = {
    kind: {name: {"classes": n} for name, n in zip(SMALL, counts, strict=True)}
    for kind, counts in (
        ("body_and_part", (36, 12, 36, 36, 14, 24)),
        ("part_only", (8, 8, 8, 8, 4, 4)),
        ("extent_only", (13, 8, 13, 13, 6, 6)),
    )
}
RECIPE = Path(__file__).parents[2] / "config" / "recipes" / "demo" / "world.yaml"


def world(**keys: Any) -> World:
    return make_world(WorldRecipe(**keys))


def scenes(count: int, **keys: Any) -> list[Scene]:
    made = world(**keys)
    return [render_scene(made, made.voc, 1, i, crowd_share=0.2) for i in range(count)]


@pytest.fixture(scope="module")
def sample() -> list[Scene]:
    return scenes(60)


def test_equal_keys_give_equal_pixels_and_each_part_of_the_key_counts() -> None:
    made = world()
    first = render_scene(made, made.voc, 1, 7)
    assert np.array_equal(first.image, render_scene(made, made.voc, 1, 7).image)
    for other in (
        render_scene(made, made.voc, 2, 7),
        render_scene(made, made.voc, 1, 8),
        render_scene(world(seed=1), made.voc, 1, 7),
    ):
        assert not np.array_equal(first.image, other.image)


def test_boxes_are_tight_and_masks_are_where_the_pixels_change(sample: list[Scene]) -> None:
    for scene in sample:
        height, width = scene.instances.shape
        union = np.zeros((height, width), np.uint8)
        for item in scene.objects:
            x1, y1, x2, y2 = item.box
            rows, columns = np.nonzero(item.full_mask(height, width))
            assert (x1, y1) == (columns.min(), rows.min())
            assert (x2, y2) == (columns.max() + 1, rows.max() + 1)
            union |= item.full_mask(height, width).astype(np.uint8)
        changed = (scene.image != scene.background).any(-1)
        reach = cv2.dilate(union, np.ones((5, 5), np.uint8)).astype(bool)  # soft edges and tips
        assert not (changed & ~reach).any()
        assert changed[union.astype(bool)].mean() > 0.95 if union.any() else not changed.any()


def test_visible_share_equals_a_count_over_all_later_masks(sample: list[Scene]) -> None:
    shares = []
    for scene in sample:
        masks = [item.full_mask(*scene.instances.shape) for item in scene.objects]
        for i, item in enumerate(scene.objects):
            later = np.any([np.zeros_like(masks[i]), *masks[i + 1 :]], axis=0)
            assert item.visible_share == (masks[i] & ~later).sum() / masks[i].sum()
            assert np.array_equal(scene.instances == i, masks[i] & ~later)
            shares.append(item.visible_share)
    assert min(shares) >= 0.2  # the recipe's least share
    assert np.mean(np.array(shares) < 0.95) > 0.1  # occlusion does occur


def test_only_objects_at_the_frame_are_truncated(sample: list[Scene]) -> None:
    cut = []
    for scene in sample:
        height, width = scene.instances.shape
        for item in (o for o in scene.objects if not o.crowd):
            x1, y1, x2, y2 = item.box
            touches = x1 == 0 or y1 == 0 or x2 == width or y2 == height
            assert touches or item.truncated_share == 0
            assert 0 <= item.truncated_share <= 1 - 0.35
            cut.append(item.truncated_share > 0)
    assert 0.03 < np.mean(cut) < 0.4


def test_scenes_hold_tiny_and_large_objects_repeats_and_crowds(sample: list[Scene]) -> None:
    sides = [max(o.mask.shape) for s in sample for o in s.objects if not o.crowd]
    assert min(sides) < 18 and max(sides) > 75
    assert any(len({o.class_id for o in s.objects}) < len(s.objects) for s in sample)
    assert any(o.crowd for s in sample for o in s.objects)
    assert len({s.instances.shape for s in sample}) == 5


def test_contrast_zero_is_the_background_and_the_signal_rises_with_contrast() -> None:
    dial = [scenes(5, contrast=c) for c in (0.0, 0.25, 0.5, 0.75, 1.0)]
    for steps in zip(*dial, strict=True):
        assert np.array_equal(steps[0].image, steps[0].background)
        signal = [
            np.abs(s.image.astype(float) - s.background).mean() if s.objects else 0.0 for s in steps
        ]
        assert all(a < b for a, b in pairwise(signal)) or max(signal) == 0
        for step in steps:
            assert np.array_equal(step.background, steps[0].background)
            assert [o.box for o in step.objects] == [o.box for o in steps[0].objects]


def test_part_only_classes_share_the_distribution_of_bodies() -> None:
    made = world(distinction="part_only", **SMALL)
    for index in range(12):
        images = [render_classification(made, spec, 1, index) for spec in made.imagenet_cls]
        first = images[0].objects[0]
        for other in images[1:]:
            assert np.array_equal(other.instances, images[0].instances)
            changed = (other.image != images[0].image).any(-1)
            share = changed.sum() / first.mask.sum()
            assert 0.01 < share < 0.6, "only a part of the object may tell the class"


def test_extent_only_classes_differ_in_aspect_and_in_nothing_else() -> None:
    made = world(distinction="extent_only", **SMALL)
    for index in range(12):
        objects = [render_classification(made, c, 1, index).objects[0] for c in made.imagenet_cls]
        aspects = [(o.box[2] - o.box[0]) / (o.box[3] - o.box[1]) for o in objects]
        assert aspects == sorted(aspects) and aspects[-1] > 4 * aspects[0]
        areas = np.array([o.mask.sum() for o in objects])
        assert np.ptp(areas) < 0.08 * areas.mean()


@pytest.mark.parametrize("distinction", list(LARGEST))
def test_sources_and_targets_share_no_class(distinction: str) -> None:
    made = world(distinction=distinction, **LARGEST[distinction])
    sources = {*made.imagenet_cls, *made.openimages, *made.imagenet_loc}
    sets = [
        {(c.body, c.part, c.aspect) for c in classes}
        for classes in (sources, made.voc, made.caltech)
    ]
    assert set(made.coco) <= set(made.imagenet_cls)
    assert all(not a & b for i, a in enumerate(sets) for b in sets[i + 1 :])
    for classes in (made.imagenet_cls, made.openimages, made.imagenet_loc, made.voc, made.caltech):
        assert len({c.name for c in classes}) == len(classes)
    names = {c.name for c in (*sources, *made.voc, *made.caltech)}
    assert len(names) == sum(map(len, sets))


def test_classification_objects_keep_the_margin_of_one_jpeg_block() -> None:
    made = world()
    for index in range(40):
        spec = made.imagenet_cls[index % len(made.imagenet_cls)]
        scene = render_classification(made, spec, 1, index)
        inner = (scene.image != scene.background).any(-1)
        inner[8:-8, 8:-8] = False
        assert not inner.any()
        assert len(scene.objects) == 1 and scene.objects[0].truncated_share == 0
        assert all(side % 8 == 0 for side in scene.instances.shape)


def test_there_is_a_drawing_for_every_class_that_a_recipe_may_ask_for() -> None:
    for recipe, drawn in ((SunRecipe, PLACES), (FlowersRecipe, FLOWERS)):
        recipe(classes=len(drawn))
        with pytest.raises(ValidationError, match=f"less than or equal to {len(drawn)}"):
            recipe(classes=len(drawn) + 1)


def test_flowers_differ_by_class_inside_the_margin_alone() -> None:
    made = world()
    for index in range(10):
        images = [render_flower(made, flower, 1, index) for flower in FLOWERS]
        for scene in images:
            changed = (scene.image != scene.background).any(-1)
            assert changed.mean() > 0.03
            changed[8:-8, 8:-8] = False
            assert not changed.any()
            assert np.array_equal(scene.background, images[0].background)
        # No flower is hidden under another's drawing: each pair of classes can be told apart.
        for a, b in combinations(images, 2):
            differs = np.abs(a.image.astype(int) - b.image).max(-1) > 30
            assert differs.sum() > 0.2 * (b.image != b.background).any(-1).sum()


def test_places_are_told_by_a_glance_at_their_composition() -> None:
    made, rows, labels = world(), [], []
    for label, place in enumerate(PLACES):
        for index in range(24):
            image = render_place(made, place, 1, 100 * label + index).image
            small = cv2.resize(image, (12, 12), interpolation=cv2.INTER_AREA).astype(float).mean(-1)
            rows.append(((small - small.mean()) / small.std()).ravel())
            labels.append(label)
    order = np.random.default_rng(0).permutation(len(labels))
    features, truth = np.array(rows)[order], np.array(labels)[order]
    half = len(order) // 2
    model = LogisticRegression(C=0.1, max_iter=200).fit(features[:half], truth[:half])
    score = model.score(features[half:], truth[half:])
    assert 0.5 < score < 1, "far above chance (0.125), and not a trivial task"


def test_without_contrast_neither_flower_nor_place_is_there() -> None:
    made = world(contrast=0.0)
    scene = render_flower(made, FLOWERS[0], 1, 0)
    assert np.array_equal(scene.image, scene.background) and scene.image.std() > 5
    images = [render_place(made, place, 1, 0).image for place in PLACES]
    assert all(np.array_equal(image, images[0]) for image in images)


@pytest.mark.parametrize("year", [2007, 2012])
def test_voc_boxes_agree_with_the_masks(sample: list[Scene], year: int) -> None:
    made = world()
    for scene in sample[:20]:
        height, width = scene.instances.shape
        root = ElementTree.fromstring(
            voc_xml(year, "x.jpg", (height, width), scene.objects, made.voc)
        )
        assert [root.findtext("size/width"), root.findtext("size/height")] == [
            str(width),
            str(height),
        ]
        found = root.findall("object")
        assert len(found) == len(scene.objects)
        for element, item in zip(found, scene.objects, strict=True):
            corners = [int(element.findtext(f"bndbox/{k}", "")) for k in
                       ("xmin", "ymin", "xmax", "ymax")]  # fmt: skip
            rows, columns = np.nonzero(item.full_mask(height, width))
            assert corners == [columns.min() + 1, rows.min() + 1, columns.max() + 1, rows.max() + 1]
            assert element.findtext("name") == made.voc[item.class_id].name
            assert element.findtext("truncated") == str(int(item.truncated_share > 0.02))
            hidden = str(int(item.visible_share < 0.95)) if year == 2012 else None
            assert element.findtext("occluded") == hidden
            hard = min(item.mask.shape) < 8 or item.visible_share < 0.3
            assert element.findtext("difficult") == str(int(hard))


def test_the_demo_recipe_is_the_default_and_bad_recipes_say_what_to_do(tmp_path: Path) -> None:
    assert load_file(RECIPE, WorldRecipe) == WorldRecipe()
    with pytest.raises(ValidationError, match="a part_only world has at most 8 such classes"):
        WorldRecipe(distinction="part_only")
    with pytest.raises(ValidationError, match=r"must not fall, got \[5, 2\]"):
        WorldRecipe.model_validate({"scene": {"objects": [5, 2]}})
    with pytest.raises(ValidationError, match=r"loc\.classes is 40, but a body_and_part"):
        WorldRecipe.model_validate({"imagenet_loc": {"classes": 40}})
    with pytest.raises(ValidationError, match="must not exceed 1"):
        WorldRecipe.model_validate({"openimages": {"group_share": 0.7, "depiction_share": 0.7}})
    path = tmp_path / "world.yaml"
    path.write_text("contrst: 0.5\n")
    with pytest.raises(InputError, match="contrast"):
        load_file(path, WorldRecipe)
