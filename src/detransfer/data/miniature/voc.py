"""The archives of PASCAL VOC 2007 and 2012 and of the Semantic Boundaries Dataset (SBD).

Masks hold what is seen: the class of the object in front at each pixel. VOC's have a void border
around every object, and objects that are difficult are void as a whole; SBD's have no void.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array

from detransfer.data.masks import VOID, encode_mask
from detransfer.data.miniature.annotations import difficult, voc_xml
from detransfer.data.miniature.packing import (
    Stream,
    add,
    jpeg,
    matlab,
    numbers,
    open_tar,
    open_tgz,
)
from detransfer.data.miniature.scenes import Scene, render_scene
from detransfer.data.miniature.textures import Bytes
from detransfer.data.miniature.world import World

TRAINVAL_2007 = ("VOCtrainval_06-Nov-2007.tar",)
TEST_2007 = ("VOCtest_06-Nov-2007.tar",)
TRAINVAL_2012 = ("VOCtrainval_11-May-2012.tar",)
SBD = ("benchmark.tgz",)
SBD_CLASSES = 20  # SBD's files have one list of boundaries for each of VOC's classes


def write_trainval_2007(world: World, folder: Path) -> None:
    """Write VOC2007's training and validation images."""
    ids = _ids_2007(world)[: world.recipe.voc.trainval2007]
    _write(world, folder / TRAINVAL_2007[0], 2007, Stream.VOC_TRAINVAL_2007, ids)


def write_test_2007(world: World, folder: Path) -> None:
    """Write VOC2007's test images."""
    ids = _ids_2007(world)[world.recipe.voc.trainval2007 :]
    _write(world, folder / TEST_2007[0], 2007, Stream.VOC_TEST_2007, ids)


def test_scenes_2007(world: World) -> Iterator[tuple[str, Scene]]:
    """Yield name and scene of each of VOC2007's test images, in order of name."""
    ids = _ids_2007(world)[world.recipe.voc.trainval2007 :]
    yield from _scenes(world, Stream.VOC_TEST_2007, ids)


def write_trainval_2012(world: World, folder: Path) -> None:
    """Write VOC2012's training and validation images, all of them with masks."""
    ids = _ids_2012(world)[: world.recipe.voc.trainval2012]
    _write(world, folder / TRAINVAL_2012[0], 2012, Stream.VOC_TRAINVAL_2012, ids)


def write_sbd(world: World, folder: Path) -> None:
    """Write SBD: its own images, and half of both VOC2012 lists over again.

    Its two lists mix what VOC holds for training, for validation and not at all, as the official
    ones do.
    """
    with open_tgz(folder / SBD[0]) as archive:
        root = "benchmark_RELEASE/dataset"
        lists: dict[str, list[str]] = {"train": [], "val": []}
        for name, split, stream, index in _sbd_images(world):
            scene = render_scene(world, world.voc, stream, index)
            add(archive, f"{root}/img/{name}.jpg", jpeg(world, scene))
            add(archive, f"{root}/cls/{name}.mat", _sbd_file(class_mask(scene)))
            lists[split].append(name)
        for split, names in lists.items():
            add(archive, f"{root}/{split}.txt", "".join(f"{name}\n" for name in names).encode())


def _sbd_images(world: World) -> list[tuple[str, str, Stream, int]]:
    """Return SBD's images in order of name: name, list, stream and index of the scene."""
    recipe, names = world.recipe.voc, _ids_2012(world)
    half = recipe.trainval2012 // 2
    own = [(Stream.SBD, index) for index in range(recipe.sbd)]
    found = []
    for first, scenes in (
        (0, [(Stream.VOC_TRAINVAL_2012, index) for index in range(half // 2)]),
        (half, [(Stream.VOC_TRAINVAL_2012, index) for index in range(half, half + half // 2)]),
        (recipe.trainval2012, own),
    ):
        for order, (stream, index) in enumerate(scenes):
            split = "val" if order % 4 == 3 else "train"
            found.append((names[first + order], split, stream, index))
    return sorted(found)


def class_mask(scene: Scene) -> Bytes:
    """Return the class of the object seen at each pixel, from 1; 0 is the background."""
    of_object = np.array([0, *(item.class_id + 1 for item in scene.objects)], np.uint8)
    return of_object[scene.instances + 1]


def void(scene: Scene, unit: float) -> NDArray[np.bool_]:
    """Return where VOC's masks are void: at the rim of every object, and on difficult ones."""
    seen = scene.instances.astype(np.float32)
    kernel = np.ones((2 * round(unit) + 1,) * 2, np.uint8)
    rim = cv2.dilate(seen, kernel) != cv2.erode(seen, kernel)
    hard = np.array([False, *(difficult(item) for item in scene.objects)])
    return np.asarray(rim | hard[scene.instances + 1])


def _ids_2012(world: World) -> list[str]:
    """Return the names of VOC2012's images, then of those that SBD has for itself."""
    recipe = world.recipe.voc
    years = np.random.default_rng((world.recipe.seed, Stream.NUMBERS, Stream.VOC_TEST_2007))
    voc = numbers(world, Stream.VOC_TRAINVAL_2012, recipe.trainval2012, 9999)
    known = set(voc)
    more = numbers(world, Stream.SBD, recipe.trainval2012 + recipe.sbd, 9999)
    own = [number for number in more if number not in known][: recipe.sbd]
    return [f"{years.integers(2008, 2012)}_{number:06d}" for number in (*voc, *own)]


def _ids_2007(world: World) -> list[str]:
    total = world.recipe.voc.trainval2007 + world.recipe.voc.test2007
    return [f"{k:06d}" for k in numbers(world, Stream.VOC_TRAINVAL_2007, total, total)]


def _write(world: World, path: Path, year: int, stream: Stream, ids: Sequence[str]) -> None:
    with open_tar(path) as archive:
        for member, content in _files(world, year, stream, ids):
            add(archive, f"VOCdevkit/VOC{year}/{member}", content)


def _scenes(world: World, stream: Stream, ids: Sequence[str]) -> Iterator[tuple[str, Scene]]:
    """Yield name and scene of each image of a set, in order of name."""
    for index, image_id in sorted(enumerate(ids), key=lambda pair: pair[1]):
        yield image_id, render_scene(world, world.voc, stream, index)


def _files(
    world: World, year: int, stream: Stream, ids: Sequence[str]
) -> Iterator[tuple[str, bytes]]:
    masks = stream == Stream.VOC_TRAINVAL_2012
    for image_id, scene in _scenes(world, stream, ids):
        size = scene.instances.shape[0], scene.instances.shape[1]
        xml = voc_xml(year, f"{image_id}.jpg", size, scene.objects, world.voc, segmented=masks)
        yield f"Annotations/{image_id}.xml", xml.encode()
        yield f"JPEGImages/{image_id}.jpg", jpeg(world, scene)
        if masks:
            away = void(scene, world.unit)
            for kind, mask in (("Class", class_mask(scene)), ("Object", scene.instances + 1)):
                yield f"Segmentation{kind}/{image_id}.png", encode_mask(np.where(away, VOID, mask))
    half = len(ids) // 2
    sets = {"train": ids[:half], "val": ids[half:], "trainval": ids}
    for folder in ("Main", "Segmentation") if masks else ("Main",):
        for name, part in ({"test": ids} if stream == Stream.VOC_TEST_2007 else sets).items():
            content = "".join(f"{k}\n" for k in sorted(part)).encode()
            yield f"ImageSets/{folder}/{name}.txt", content


def _sbd_file(mask: Bytes) -> bytes:
    """Return one file of SBD: ``GTcls`` with the mask, its classes and their inner boundaries."""
    boundaries = np.empty((SBD_CLASSES, 1), object)
    for label in range(1, SBD_CLASSES + 1):
        cover = (mask == label).astype(np.uint8)
        inner = cv2.erode(cover, np.ones((3, 3), np.uint8)) if cover.any() else cover
        boundaries[label - 1, 0] = csc_array((cover > inner).astype(float))
    present = np.unique(mask[mask > 0]).astype(np.uint8)[:, None]
    content = {"Boundaries": boundaries, "Segmentation": mask, "CategoriesPresent": present}
    return matlab({"GTcls": content}, compress=True)
