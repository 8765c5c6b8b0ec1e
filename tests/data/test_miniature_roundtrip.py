"""Render, pack, extract, read: what comes out is the renderer's own truth, data set by data set.

The truth of an image is found by the bytes of its file, which name its scene. ImageNet's boxes and
DET are in test_miniature_sources.py, masks in test_miniature_targets.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detransfer.data.index import Index
from detransfer.data.miniature import openimages
from detransfer.data.miniature.flowers import FLOWERS, render_flower
from detransfer.data.miniature.packing import Stream, jpeg, labels
from detransfer.data.miniature.places import PLACES, render_place
from detransfer.data.miniature.scenes import Scene, render_classification, render_scene
from detransfer.data.miniature.world import World, WorldRecipe, make_world
from tests.data.miniature_sets import by_bytes, read, render_and_extract

RECIPE: dict[str, Any] = {
    "imagenet_cls": {"classes": 6, "train": 4, "val": 2},
    "coco": {"classes": 6, "train": 30, "val": 8, "crowd_share": 0.3},
    "voc": {"classes": 4, "trainval2007": 10, "trainval2012": 8, "test2007": 12, "sbd": 4},
    "caltech": {"classes": 3, "images": 5},
    "openimages": {"classes": 6, "train": 24, "validation": 6, "test": 4, "group_share": 0.25,
                   "depiction_share": 0.25},
    "sun397": {"classes": 3, "train": 2, "test": 2},
    "flowers102": {"classes": 3, "train": 2, "val": 1, "test": 2},
}  # fmt: skip
Row = tuple[Any, ...]


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(WorldRecipe.model_validate(RECIPE))


def indexed(world: World, folder: Path, name: str, **options: Any) -> Index:
    render_and_extract(world, name, folder)
    return read(folder, name, **options)


def truth(scene: Scene, name: list[str], flags: dict[str, Any]) -> list[Row]:
    """Return name, box and flags of each object; the box is that of the drawn pixels."""
    rows = []
    for item in scene.objects:
        y, x = np.nonzero(item.full_mask(*scene.instances.shape))
        box = item.box if item.crowd else (x.min(), y.min(), x.max() + 1, y.max() + 1)
        known = {flag: bool(tell(item)) for flag, tell in flags.items()}
        rows.append((name[item.class_id], *map(float, box), *known.values()))
    return sorted(rows)


def found(index: Index, image_id: int, flags: Iterable[str]) -> list[Row]:
    part = index.objects[index.objects["image_id"] == image_id]
    names = index.classes["name"].to_numpy()[part["class_id"]]
    columns = part[["x1", "y1", "x2", "y2", *flags]].itertuples(index=False)
    return sorted((name, *row) for name, row in zip(names, columns, strict=True))


def hard(item: Any) -> bool:
    x1, y1, x2, y2 = item.box
    return min(x2 - x1, y2 - y1) < 8 or item.visible_share < 0.3


def test_coco(world: World, tmp_path: Path) -> None:
    index = indexed(world, tmp_path, "coco")
    names = [spec.name.replace("_", " ") for spec in world.coco]
    assert list(index.classes["name"]) == names
    assert list(index.classes["superclass"]) == [spec.family for spec in world.coco]
    flags = {"crowd": lambda item: item.crowd}
    for split, stream, count in (("train2017", Stream.COCO_TRAIN, 30),
                                 ("val2017", Stream.COCO_VAL, 8)):  # fmt: skip
        scenes = by_bytes(
            world, (render_scene(world, world.coco, stream, k, 0.3) for k in range(count))
        )
        part = index.split(split)
        assert len(part.images) == len(scenes) == count
        for row in part.images.itertuples():
            scene = scenes.pop((index.root / row.path).read_bytes())
            assert (row.height, row.width) == scene.instances.shape
            assert found(part, row.image_id, flags) == truth(scene, names, flags)
    assert index.objects["crowd"].sum() > 3


def test_voc_detection(world: World, tmp_path: Path) -> None:
    names = [spec.name for spec in world.voc]
    index = indexed(world, tmp_path, "voc_detection", classes=names)
    flags = {"difficult": hard, "truncated": lambda item: item.truncated_share > 0.02}
    for split, stream, count, more in (
        ("voc2007_trainval", Stream.VOC_TRAINVAL_2007, 10, {}),
        ("voc2007_test", Stream.VOC_TEST_2007, 12, {}),
        ("voc2012_trainval", Stream.VOC_TRAINVAL_2012, 8,
         {"occluded": lambda item: item.visible_share < 0.95}),
    ):  # fmt: skip
        scenes = by_bytes(world, (render_scene(world, world.voc, stream, k) for k in range(count)))
        part = index.split(split)
        assert len(part.images) == len(scenes) == count
        for row in part.images.itertuples():
            scene = scenes.pop((index.root / row.path).read_bytes())
            both = {**flags, **more}
            assert found(part, row.image_id, both) == truth(scene, names, both)
        assert part.objects["occluded"].any() == bool(more)


def test_openimages(world: World, tmp_path: Path) -> None:
    """A box's label is the class, its body alone for tiny objects; above it body and family."""
    render_and_extract(world, "openimages", tmp_path)
    index = read(tmp_path, "openimages", vocabulary=601)
    whole = read(tmp_path, "openimages", vocabulary=601, expand_hierarchy=True)
    flags = {
        "group_of": lambda item: item.crowd,
        "occluded": lambda item: item.visible_share < 0.95,
        "truncated": lambda item: item.truncated_share > 0.02,
    }
    names = [spec.name.replace("_", " ").capitalize() for spec in world.openimages]
    family = {spec.name.split("_")[-1].capitalize(): spec.family.capitalize()
              for spec in world.openimages}  # fmt: skip
    for split, count in (("train", 24), ("validation", 6), ("test", 4)):
        scenes = by_bytes(world, (openimages.render(world, split, k) for k in range(count)))
        part = index.split(split)
        assert len(part.images) == len(scenes) == count
        for row in part.images.itertuples():
            scene = scenes.pop((index.root / row.path).read_bytes())
            expected = [(coarse(row[0], row[1:5]), *row[1:]) for row in truth(scene, names, flags)]
            assert found(part, row.image_id, flags) == sorted(expected)
            above = []
            for name, *rest in expected:
                body = name.split()[-1].capitalize()
                above += [(each, *rest) for each in {name, body, family[body]}]
            assert found(whole, row.image_id, flags) == sorted(above)


def coarse(name: str, box: Row) -> str:
    tiny = min(box[2] - box[0], box[3] - box[1]) < 12
    return name.split()[-1].capitalize() if tiny else name


def test_imagenet_cls(world: World, tmp_path: Path) -> None:
    index = indexed(world, tmp_path, "imagenet_cls")
    for split, stream, each in (("train", Stream.IMAGENET_TRAIN, 4),
                                ("val", Stream.IMAGENET_VAL, 2)):  # fmt: skip
        chosen = labels(world, stream, 6, each)
        shown = {
            jpeg(world, render_classification(world, world.imagenet_cls[label], stream, k)): label
            for k, label in enumerate(chosen)
        }
        classes_agree(index.split(split), shown,
                      [spec.name.replace("_", " ") for spec in world.imagenet_cls])  # fmt: skip


def test_caltech256(world: World, tmp_path: Path) -> None:
    index = indexed(world, tmp_path, "caltech256", train_per_class=3)
    specs = [*world.caltech, None]
    chosen = labels(world, Stream.CALTECH, 4, 5)
    shown = {
        jpeg(world, render_classification(world, specs[label], Stream.CALTECH, k)): label
        for k, label in enumerate(chosen)
    }
    names = [*(spec.name.replace("_", "-") for spec in world.caltech), "clutter"]
    classes_agree(index, shown, names)


def test_sun397(world: World, tmp_path: Path) -> None:
    index = indexed(world, tmp_path, "sun397")
    places = list(PLACES)[:3]
    chosen = labels(world, Stream.SUN, 3, 2 + 2 + 2)  # two a class are in no list
    shown = {
        jpeg(world, render_place(world, places[label], Stream.SUN, k)): label
        for k, label in enumerate(chosen)
    }
    assert list(index.classes["source_id"]) == [f"/{place}" for place in places]
    classes_agree(index, shown, [place.split("/", 1)[1] for place in places], 12)


def test_flowers102(world: World, tmp_path: Path) -> None:
    names = [flower.name for flower in FLOWERS[:3]]
    index = indexed(world, tmp_path, "flowers102", classes=names)
    chosen = labels(world, Stream.FLOWERS, 3, 5)
    shown = {
        jpeg(world, render_flower(world, FLOWERS[label], Stream.FLOWERS, k)): label
        for k, label in enumerate(chosen)
    }
    classes_agree(index, shown, names)


def classes_agree(
    index: Index, shown: dict[bytes, int], names: list[str], count: int | None = None
) -> None:
    """Every image (of ``count``, or of all that were drawn) has the class that was drawn."""
    assert len(index.images) == (len(shown) if count is None else count)
    for row in index.images.itertuples():
        label = shown.pop((index.root / row.path).read_bytes())
        assert index.classes["name"][row.class_id] == names[label]
