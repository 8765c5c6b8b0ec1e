"""Targets: from the archives through extraction and the readers back to what was rendered.

The truth is found by the bytes of each image file, which name its scene.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import SUN397, Flowers102, SBDataset, VOCSegmentation
from torchvision.datasets import flowers102 as torchvision_flowers

from detransfer.data.masks import read_mask
from detransfer.data.miniature.packing import Stream
from detransfer.data.miniature.scenes import Scene, render_scene
from detransfer.data.miniature.world import World
from tests.data.miniature_sets import by_bytes, read, render_and_extract, small_world


@pytest.fixture(scope="module")
def world() -> World:
    return small_world()


@pytest.fixture(scope="module")
def data(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one extracted folder for each of the sets."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("voc_segmentation", "sun397", "flowers102"):
        render_and_extract(world, name, folder)
    return folder


# --- segmentation ---------------------------------------------------------------------------------


def slow_mask(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Return class and void of each pixel, by its neighbours one by one."""
    seen = scene.instances
    labels, void = np.zeros(seen.shape, np.uint8), np.zeros(seen.shape, bool)
    for y, x in np.ndindex(*seen.shape):
        around = seen[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        item = scene.objects[seen[y, x]] if seen[y, x] >= 0 else None
        if item:
            labels[y, x] = item.class_id + 1
            side = min(item.box[2] - item.box[0], item.box[3] - item.box[1])
            void[y, x] = side < 8 or item.visible_share < 0.3
        void[y, x] |= bool((around != seen[y, x]).any())
    return labels, void


def voc_scenes(world: World) -> dict[bytes, Scene]:
    counts = ((Stream.VOC_TRAINVAL_2012, 16), (Stream.SBD, 9))
    return by_bytes(
        world, (render_scene(world, world.voc, s, k) for s, count in counts for k in range(count))
    )


def test_masks_are_the_visible_objects_with_void_in_voc_alone(world: World, data: Path) -> None:
    index = read(data, "voc_segmentation", classes=tuple(spec.name for spec in world.voc))
    truth, voids = voc_scenes(world), []
    for row in index.images.itertuples():
        scene = truth[(index.root / row.path).read_bytes()]
        mask = read_mask(index.root / row.mask, 5)
        labels, void = slow_mask(scene)
        if row.mask.endswith(".mat"):
            assert np.array_equal(mask, labels)
            continue
        assert np.array_equal(mask == 255, void)
        assert np.array_equal(mask[~void], labels[~void])
        voids.append(void.mean())
    assert len(voids) == 16 and 0.01 < np.mean(voids) < 0.3


def test_the_union_with_sbd_leaves_out_vocs_validation_images(world: World, data: Path) -> None:
    root = data / "voc_segmentation"
    lists = {
        name: set((root / path).read_text().split())
        for name, path in {
            "voc_train": "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt",
            "voc_val": "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt",
            "sbd_train": "benchmark_RELEASE/dataset/train.txt",
            "sbd_val": "benchmark_RELEASE/dataset/val.txt",
        }.items()
    }
    for sbd in (lists["sbd_train"], lists["sbd_val"]):
        assert sbd & lists["voc_train"] and sbd & lists["voc_val"]
        assert sbd - lists["voc_train"] - lists["voc_val"]
    index = read(data, "voc_segmentation", classes=tuple(spec.name for spec in world.voc))
    splits = index.images.groupby("split")["path"].agg(lambda paths: {Path(p).stem for p in paths})
    assert splits["val"] == lists["voc_val"] and len(splits["val"]) == 8
    union = lists["voc_train"] | lists["sbd_train"] | lists["sbd_val"]
    assert splits["train"] == union - lists["voc_val"] and len(splits["train"]) == 8 + 9


def test_torchvision_reads_the_masks(world: World, data: Path) -> None:
    root = data / "voc_segmentation"
    voc = VOCSegmentation(root, "2012", "val")
    image, mask = voc[0]
    assert len(voc) == 8 and mask.mode == "P" and image.size == mask.size
    # The first colours of VOCdevkit's VOClabelcolormap, and that of void.
    palette = mask.getpalette()
    assert palette[:18] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128, 128, 0, 128]
    assert palette[-3:] == [224, 224, 192]
    objects = Image.open(Path(voc.masks[0].replace("Class", "Object")))
    assert np.array_equal(np.array(objects) == 255, np.array(mask) == 255)
    dataset = root / "benchmark_RELEASE" / "dataset"
    for split in ("train", "val"):
        labels = SBDataset(dataset, split, mode="segmentation")
        edges = SBDataset(dataset, split, mode="boundaries")
        for k in range(len(labels)):
            image, target = labels[k]
            mask, boundary = np.array(target), edges[k][1]
            assert image.size == target.size and boundary.shape == (20, *mask.shape)
            for label in range(1, 21):
                line = boundary[label - 1] > 0
                assert line.any() == (mask == label).any()
                assert not (line & (mask != label)).any()


# --- classification -------------------------------------------------------------------------------


def test_torchvision_reads_the_flowers_as_our_reader_does(
    world: World, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flowers-102").symlink_to(data / "flowers102")
    monkeypatch.setattr(torchvision_flowers, "check_integrity", lambda *_: True)  # the real MD5
    index = read(data, "flowers102", classes=("a", "b", "c", "d"))
    seen: set[str] = set()
    for split, each in (("train", 2), ("val", 3), ("test", 4)):
        official = Flowers102(tmp_path, split)
        assert np.bincount(official._labels).tolist() == [each] * 4
        ours = index.split(split).images.sort_values("path")
        pairs = sorted(zip((Path(p).name for p in official._image_files), official._labels,
                           strict=True))  # fmt: skip
        names = [Path(path).name for path in ours["path"]]
        assert pairs == list(zip(names, ours["class_id"], strict=True))
        assert not seen & set(names)
        seen |= set(names)
    assert seen == {path.name for path in (data / "flowers102" / "jpg").iterdir()}


def test_torchvision_reads_the_scenes_as_our_reader_does(
    data: Path,
) -> None:
    official = SUN397(data / "sun397")
    assert official.classes == ["abbey", "apartment_building/outdoor", "beach", "corridor"]
    label = {str(path): k for path, k in zip(official._image_files, official._labels, strict=True)}
    assert len(label) == 4 * (4 + 3 + 2)
    partitions = set()
    for number in range(1, 11):
        index = read(data, "sun397", partition=number)
        assert list(index.classes["name"]) == official.classes
        for split, each in (("train", 4), ("test", 3)):
            images = index.split(split).images
            assert np.bincount(images["class_id"]).tolist() == [each] * 4
            for row in images.itertuples():
                assert label[str(index.root / row.path)] == row.class_id
        partitions.add(frozenset(index.split("train").images["path"]))
    assert len(partitions) == 10
