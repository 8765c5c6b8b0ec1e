"""From the archives through extraction and the readers back to what was rendered.

The truth is found by the bytes of each image file, which name its scene.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from detransfer.data.index import Index
from detransfer.data.miniature import imagenet, openimages
from detransfer.data.miniature.packing import Stream, jpeg, labels
from detransfer.data.miniature.recipe import WorldRecipe
from detransfer.data.miniature.scenes import Scene, SceneObject, render_scene
from detransfer.data.miniature.world import World, make_world
from detransfer.data.readers import imagenet_det
from tests.data.miniature_sets import RECIPE, by_bytes, read, render_and_extract, small_world


@pytest.fixture(scope="module")
def world() -> World:
    return small_world()


@pytest.fixture(scope="module")
def data(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one extracted folder for each of the sets."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("openimages", "imagenet_loc", "imagenet_det"):
        render_and_extract(world, name, folder)
    return folder


def expected_rows(scene: Scene, names: list[str]) -> list[tuple[Any, ...]]:
    """Return (class, x1, y1, x2, y2, difficult, truncated) of each object, from its mask."""
    rows = []
    for item in scene.objects:
        y, x = np.nonzero(item.full_mask(*scene.instances.shape))
        box = (x.min(), y.min(), x.max() + 1, y.max() + 1)
        hard = min(box[2] - box[0], box[3] - box[1]) < 8 or item.visible_share < 0.3
        rows.append((names[item.class_id], *map(float, box), hard, item.truncated_share > 0.02))
    return sorted(rows)


def rows_of(index: Index, image_id: int) -> list[tuple[Any, ...]]:
    objects = index.objects[index.objects["image_id"] == image_id]
    names = index.classes["name"].to_numpy()[objects["class_id"]]
    columns = objects[["x1", "y1", "x2", "y2", "difficult", "truncated"]].itertuples(index=False)
    return sorted((name, *row) for name, row in zip(names, columns, strict=True))


# --- ImageNet -------------------------------------------------------------------------------------


def test_imagenet_loc_is_what_was_rendered(world: World, data: Path) -> None:
    index = read(data, "imagenet_loc", on_bad_object="fail")
    names = [spec.name.replace("_", " ") for spec in world.imagenet_loc]
    assert sorted(index.classes["name"]) == sorted(names)
    assert list(index.classes["source_id"]) == sorted(index.classes["source_id"])
    assert len(index.images) == 14 * 5, "one image in six has no boxes"
    assert len(list((data / "imagenet_loc" / "images").rglob("*.JPEG"))) == 14 * 6
    shuffled = labels(world, Stream.IMAGENET_LOC, 14, 6)
    truth: dict[bytes, tuple[Scene, str]] = {}
    for k, label in enumerate(shuffled):
        scene = imagenet.render_loc(world, world.imagenet_loc[label], k)
        truth[jpeg(world, scene)] = scene, names[label]
    objects = []
    for row in index.images.itertuples():
        scene, name = truth[(index.root / row.path).read_bytes()]
        found = rows_of(index, row.image_id)
        assert found == expected_rows(scene, [name])
        objects.append(len(found))
        longest = max(max(o.box[2] - o.box[0], o.box[3] - o.box[1]) for o in scene.objects)
        assert longest > 35
    assert 0.6 < np.mean(np.array(objects) == 1) < 0.95, "mostly single"


def det_name(name: str) -> str:
    """Return what the DET class of a class is called, from the class's own name."""
    body = name.replace("_", " ").split()[-1]
    return "sign" if body in ("star", "gear", "moon") else body


def test_imagenet_det_is_what_was_rendered(world: World, data: Path) -> None:
    index = read(data, "imagenet_det")
    names = [det_name(spec.name) for spec in world.imagenet_loc]
    assert list(index.classes["name"]) == sorted(set(names))
    assert len(index.images) == 60
    truth = by_bytes(
        world,
        (render_scene(world, world.imagenet_loc, Stream.IMAGENET_DET, k) for k in range(60)),
    )
    blacklisted = 0
    for row in index.images.itertuples():
        expected = expected_rows(truth[(index.root / row.path).read_bytes()], names)
        # The blacklist makes all of a class difficult where one object of it is.
        hard = {name for name, *_, difficult, _ in expected if difficult}
        expected = sorted((*r[:5], r[0] in hard, r[6]) for r in expected)
        blacklisted += len(hard)
        assert rows_of(index, row.image_id) == expected
    assert blacklisted > 0


def test_every_class_with_boxes_has_the_det_class_that_its_name_says(data: Path) -> None:
    boxes, det = read(data, "imagenet_loc"), read(data, "imagenet_det")
    edges = imagenet_det.read_hierarchy(data / "imagenet_det" / "wordnet.is_a.txt")
    table = imagenet_det.class_mapping(
        list(boxes.classes["source_id"]), list(det.classes["source_id"]), edges
    )
    found = dict(zip(table["source_id"], det.classes["name"][table["class_id"]], strict=True))
    expected = {row.source_id: det_name(row.name) for row in boxes.classes.itertuples(index=False)}
    assert found == expected
    assert not set(boxes.classes["source_id"]) & set(det.classes["source_id"])
    assert len(set(expected.values())) < len(expected)


def test_a_class_has_one_wnid_in_all_of_imagenet(world: World) -> None:
    ids = imagenet.wnids(world)
    shared = {spec.name for spec in world.imagenet_cls} & {s.name for s in world.imagenet_loc}
    assert len(shared) == 14
    assert len(set(ids.values())) == len(ids)
    whole = make_world(WorldRecipe.model_validate({**RECIPE, "imagenet_loc": {"classes": 30}}))
    more = imagenet.wnids(whole)
    assert {name: more[name] for name in shared} == {name: ids[name] for name in shared}


# --- Open Images ----------------------------------------------------------------------------------


def table(data: Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((data / "openimages/annotations" / name).read_text())))


def open_images(world: World, data: Path) -> Iterator[tuple[str, str, Scene]]:
    """Yield split, image id and scene of every image, found by the bytes of its file."""
    for split, count in (("train", 60), ("validation", 9), ("test", 5)):
        truth = by_bytes(world, (openimages.render(world, split, k) for k in range(count)))
        folders = [f"train_{d}" for d in "0123456789abcdef"] if split == "train" else [split]
        files = [path for folder in folders
                 for path in (data / "openimages").rglob(f"{folder}/*.jpg")]  # fmt: skip
        assert len(files) == count
        for path in files:
            assert split != "train" or path.parent.name == f"train_{path.stem[0]}"
            yield split, path.stem, truth[path.read_bytes()]


def descriptions(data: Path, name: str) -> dict[str, str]:
    lines = (data / "openimages/annotations" / name).read_text().splitlines()
    return dict(line.split(",") for line in lines)  # type: ignore[misc]


def coarse(item: SceneObject, name: str) -> str:
    """Return what a class is called in the tables; tiny objects are known by their body alone."""
    tiny = min(item.box[2] - item.box[0], item.box[3] - item.box[1]) < 12
    return (name.split("_")[-1] if tiny else name.replace("_", " ")).capitalize()


def test_open_images_boxes_and_flags_are_what_was_rendered(world: World, data: Path) -> None:
    names = descriptions(data, "class-descriptions-boxable.csv")
    boxes = {s: pd.DataFrame(table(data, f"{s}-annotations-bbox.csv")) for s in openimages.SPLITS}
    seen = {"crowd": 0, "depiction": 0, "coarse": 0, "occluded": 0, "truncated": 0}
    groups: list[int] = []
    single: list[int] = []
    for split, image_id, scene in open_images(world, data):
        height, width = scene.instances.shape
        rows = boxes[split][boxes[split]["ImageID"] == image_id]
        assert len(rows) == len(scene.objects)
        for row, item in zip(rows.to_dict("records"), scene.objects, strict=True):
            spec = world.openimages[item.class_id]
            assert names[row["LabelName"]] == coarse(item, spec.name)
            corners = [float(row[k]) for k in ("XMin", "YMin", "XMax", "YMax")]
            pixels = np.float32(np.array(corners) * [width, height, width, height])
            assert pixels.tolist() == list(item.box)
            truths = {
                "IsOccluded": item.visible_share < 0.95,
                "IsTruncated": item.truncated_share > 0.02,
                "IsGroupOf": item.crowd,
                "IsDepiction": item.depiction,
                "IsInside": False,
            }
            assert {k: row[k] for k in truths} == {k: str(int(v)) for k, v in truths.items()}
            (groups if item.crowd else single).append(pieces(item.mask))
            seen["crowd"] += row["IsGroupOf"] == "1"
            seen["depiction"] += row["IsDepiction"] == "1"
            seen["coarse"] += names[row["LabelName"]] == spec.name.split("_")[-1].capitalize()
            seen["occluded"] += truths["IsOccluded"]
            seen["truncated"] += truths["IsTruncated"]
    assert min(seen.values()) >= 3, seen
    assert np.mean(groups) > 6 > 2 > np.mean(single), "a group is many objects"


def pieces(mask: np.ndarray) -> int:
    """Return in how many pieces a mask falls when its outermost pixels go."""
    core = cv2.erode(np.pad(mask.astype(np.uint8), 1), np.ones((3, 3), np.uint8))
    return int(cv2.connectedComponents(core)[0]) - 1


def second_colour(scene: Scene, number: int) -> float:
    """Return how far (in grey levels) an object's pixels lie off one line of colours and greys."""
    pixels = scene.image[scene.instances == number].astype(float)
    pixels -= pixels.mean(1, keepdims=True)  # noise and light are grey
    return float(np.linalg.svd(pixels - pixels.mean(0))[1][1] / np.sqrt(len(pixels)))


def test_depictions_are_printed_in_one_ink_on_paper(world: World) -> None:
    printed, real = [], []
    for index in range(60):
        scene = openimages.render(world, "train", index)
        for number, item in enumerate(scene.objects):
            if (scene.instances == number).sum() > 100 and not item.crowd:
                (printed if item.depiction else real).append(second_colour(scene, number))
    assert len(printed) > 5 and np.median(printed) < 2.2  # soft edges are a third colour
    assert np.median(real) > 2 * np.median(printed)


def test_open_images_labels_are_verified_truly(world: World, data: Path) -> None:
    names = descriptions(data, "class-descriptions-boxable.csv")
    boxes = {
        split: {(row["ImageID"], row["LabelName"])
                for row in table(data, f"{split}-annotations-bbox.csv")}
        for split in openimages.SPLITS
    }  # fmt: skip
    absent = 0
    for split, image_id, scene in open_images(world, data):
        rows = [row for row in table(data, f"{split}-annotations-human-imagelabels-boxable.csv")
                if row["ImageID"] == image_id]  # fmt: skip
        positive = {row["LabelName"] for row in rows if row["Confidence"] == "1"}
        assert positive == {label for image, label in boxes[split] if image == image_id}
        negative = {names[row["LabelName"]] for row in rows if row["Confidence"] == "0"}
        shown = {world.openimages[item.class_id].name for item in scene.objects}
        assert not negative & {name.replace("_", " ").capitalize() for name in shown}
        assert 1 <= len(negative) <= 3 and len(positive) + len(negative) == len(rows)
        absent += len(negative)
    assert absent > 74


def test_open_images_hierarchy_holds_every_class_once(world: World, data: Path) -> None:
    boxable = descriptions(data, "class-descriptions-boxable.csv")
    challenge = descriptions(data, "challenge-2018-class-descriptions-500.csv")
    tree = json.loads((data / "openimages/annotations/bbox_labels_600_hierarchy.json").read_text())
    parents: dict[str, str] = {}

    def walk(node: dict[str, Any]) -> None:
        for child in node.get("Subcategory", []):
            assert child["LabelName"] not in parents
            parents[child["LabelName"]] = node["LabelName"]
            walk(child)

    walk(tree)
    assert tree["LabelName"] == "/m/0bl9f" and set(parents) == set(boxable)
    assert challenge == {label: boxable[label] for label in set(parents) - set(parents.values())}
    assert len(challenge) == 14 and len(boxable) == 14 + 12 + 4
    for label, name in challenge.items():
        assert boxable[parents[label]] == name.split()[-1].capitalize()
