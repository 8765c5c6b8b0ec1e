"""The miniature world in the official archives, equal byte for byte for equal recipes.

Names, layouts and numbering are the official ones, so that the same fetch, extract and index code
reads them. File numbers are shuffled over all classes and every image file has the same length
(a JPEG comment fills it), so that neither says anything about the label.
"""

from __future__ import annotations

import gzip
import io
import json
import logging
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detransfer.data.miniature.annotations import (
    coco_annotation,
    coco_categories,
    imagenet_meta,
    voc_xml,
)
from detransfer.data.miniature.scenes import Scene, render_classification, render_scene
from detransfer.data.miniature.textures import Bytes
from detransfer.data.miniature.world import World
from detransfer.files import atomic, sha256

log = logging.getLogger(__name__)

_MOMENT = (2012, 1, 1, 0, 0, 0)  # the time stamp of every member
_SECONDS = 1325376000  # the same in seconds since 1970
_COMMENT = 65533  # the longest text of one JPEG comment
# Files are filled up to this many bytes a pixel of a square image; the longest file of the default
# world has 0.61. An image that does not fit is encoded again at a lower quality.
_BYTES_PER_PIXEL = 0.75


class Stream(IntEnum):
    """What an image is rendered for; part of the key of its random numbers."""

    IMAGENET_TRAIN = 1
    IMAGENET_VAL = 2
    COCO_TRAIN = 3
    COCO_VAL = 4
    VOC_TRAINVAL_2007 = 5
    VOC_TEST_2007 = 6
    VOC_TRAINVAL_2012 = 7
    CALTECH = 8
    NUMBERS = 9


ARCHIVES = (
    "256_ObjectCategories.tar",
    "ILSVRC2012_devkit_t12.tar.gz",
    "ILSVRC2012_img_train.tar",
    "ILSVRC2012_img_val.tar",
    "VOCtest_06-Nov-2007.tar",
    "VOCtrainval_06-Nov-2007.tar",
    "VOCtrainval_11-May-2012.tar",
    "annotations_trainval2017.zip",
    "train2017.zip",
    "val2017.zip",
)


def write_archives(world: World, folder: Path) -> None:
    """Render a world into ``folder``: the archives of ``ARCHIVES`` and their ``SHA256SUMS``.

    Each file appears whole under its name or not at all; the checksums come last.
    """
    log.info("rendering the classification source (%d classes)", len(world.imagenet_cls))
    _write_imagenet(world, folder)
    log.info("rendering the detection source (%d images)", world.recipe.coco.train)
    _write_coco(world, folder)
    log.info("rendering the detection target (%d classes)", len(world.voc))
    _write_voc(world, folder)
    log.info("rendering the classification target (%d classes)", len(world.caltech))
    _write_caltech(world, folder)
    lines = [f"{sha256(folder / name)}  {name}\n" for name in ARCHIVES]
    with atomic(folder / "SHA256SUMS") as temporary:
        temporary.write_text("".join(lines))


def encode_jpeg(image: Bytes, quality: int, length: int) -> bytes:
    """Return an (h, w, 3) RGB image as a JPEG file of exactly ``length`` bytes.

    Chroma is not subsampled, so that an 8-pixel block holds nothing of its neighbours. Comments
    fill the file up; the quality is lowered, in steps of 5, until the image fits.
    Raises ValueError when it does not fit at any quality.
    """
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    for lowered in range(quality, 4, -5):
        options = [*sampling, cv2.IMWRITE_JPEG_QUALITY, lowered]
        encoded = cv2.imencode(".jpg", bgr, options)[1].tobytes()
        free = length - len(encoded)
        if free == 0 or free >= 4:
            return encoded[:2] + _comments(free) + encoded[2:]
    raise ValueError(f"an image of {image.shape} does not fit into {length} bytes")


def _comments(free: int) -> bytes:
    """Return JPEG comment segments of ``free`` bytes in all (0, or at least 4)."""
    segments = []
    while free:
        text = min(free - 4, _COMMENT)
        if 0 < free - 4 - text < 4:  # what is left must hold a segment's head
            text -= 4
        segments.append(b"\xff\xfe" + (text + 2).to_bytes(2, "big") + b" " * text)
        free -= text + 4
    return b"".join(segments)


def _jpeg(world: World, scene: Scene) -> bytes:
    length = round(_BYTES_PER_PIXEL * world.recipe.image_size**2) + 1024
    return encode_jpeg(scene.image, world.recipe.jpeg_quality, length)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mtime = len(content), _SECONDS
    archive.addfile(member, io.BytesIO(content))


def _open_tar(path: Path) -> tarfile.TarFile:
    return tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)


def _numbers(world: World, stream: Stream, count: int, largest: int) -> list[int]:
    """Return ``count`` different numbers of 1..largest in random order."""
    rng = np.random.default_rng((world.recipe.seed, Stream.NUMBERS, stream))
    return [int(number) + 1 for number in rng.choice(largest, count, replace=False)]


def _labels(world: World, stream: Stream, classes: int, each: int) -> NDArray[np.int64]:
    """Return a shuffled list of labels, ``each`` of every class."""
    rng = np.random.default_rng((world.recipe.seed, Stream.NUMBERS, stream, 1))
    return rng.permutation(np.repeat(np.arange(classes), each))


def _write_imagenet(world: World, folder: Path) -> None:
    recipe, classes = world.recipe.imagenet_cls, world.imagenet_cls
    nodes = len(classes) + len({spec.family for spec in classes}) + 1
    # n9...: no synset of WordNet 3.0 starts so; sorted, as the official labels are.
    wnids = [f"n9{number:07d}" for number in _numbers(world, Stream.IMAGENET_TRAIN, nodes, 9999999)]
    wnids = sorted(wnids[: len(classes)]) + wnids[len(classes) :]
    labels = _labels(world, Stream.IMAGENET_TRAIN, len(classes), recipe.train)
    numbers = _numbers(world, Stream.IMAGENET_TRAIN, len(labels), 10 * len(labels))
    with atomic(folder / "ILSVRC2012_img_train.tar") as path, _open_tar(path) as archive:
        for label, wnid in enumerate(wnids[: len(classes)]):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w", format=tarfile.USTAR_FORMAT) as synset:
                chosen = sorted(np.flatnonzero(labels == label).tolist(), key=numbers.__getitem__)
                for index in chosen:
                    scene = render_classification(
                        world, classes[label], Stream.IMAGENET_TRAIN, index
                    )
                    _add(synset, f"{wnid}_{numbers[index]}.JPEG", _jpeg(world, scene))
            _add(archive, f"{wnid}.tar", inner.getvalue())
    labels = _labels(world, Stream.IMAGENET_VAL, len(classes), recipe.val)
    with atomic(folder / "ILSVRC2012_img_val.tar") as path, _open_tar(path) as archive:
        for index, label in enumerate(labels):
            scene = render_classification(world, classes[label], Stream.IMAGENET_VAL, index)
            _add(archive, f"ILSVRC2012_val_{index + 1:08d}.JPEG", _jpeg(world, scene))
    kit = {
        "meta.mat": imagenet_meta(classes, wnids, recipe.train),
        "ILSVRC2012_validation_ground_truth.txt": "".join(f"{k + 1}\n" for k in labels).encode(),
    }
    with (
        atomic(folder / "ILSVRC2012_devkit_t12.tar.gz") as path,
        path.open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=_SECONDS) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, content in kit.items():
            _add(archive, f"ILSVRC2012_devkit_t12/data/{name}", content)


def _zip_add(archive: zipfile.ZipFile, name: str, content: bytes, squeeze: bool = False) -> None:
    member = zipfile.ZipInfo(name, _MOMENT)
    member.create_system, member.external_attr = 3, 0o644 << 16
    member.compress_type = zipfile.ZIP_DEFLATED if squeeze else zipfile.ZIP_STORED
    archive.writestr(member, content)


def _write_coco(world: World, folder: Path) -> None:
    recipe = world.recipe.coco
    total = recipe.train + recipe.val
    image_ids = _numbers(world, Stream.COCO_TRAIN, total, 8 * total)
    categories = coco_categories(world.coco)
    contents = {}
    for split, stream, ids in (
        ("train2017", Stream.COCO_TRAIN, image_ids[: recipe.train]),
        ("val2017", Stream.COCO_VAL, image_ids[recipe.train :]),
    ):
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        with atomic(folder / f"{split}.zip") as path, zipfile.ZipFile(path, "w") as archive:
            for index, image_id in sorted(enumerate(ids), key=lambda pair: pair[1]):
                scene = render_scene(world, world.coco, stream, index, recipe.crowd_share)
                size = scene.instances.shape[0], scene.instances.shape[1]
                name = f"{image_id:012d}.jpg"
                _zip_add(archive, f"{split}/{name}", _jpeg(world, scene))
                images.append({"license": 1, "file_name": name, "coco_url": "", "height": size[0],
                               "width": size[1], "date_captured": "2012-01-01 00:00:00",
                               "flickr_url": "", "id": image_id})  # fmt: skip
                for item in scene.objects:
                    # Official ids are unique over both splits and begin at 1.
                    number = 2 * len(annotations) + 1 + (split == "val2017")
                    category = categories[item.class_id]["id"]
                    annotations.append(coco_annotation(item, size, number, image_id, category))
        contents[split] = {
            "info": {"description": "miniature world", "version": "1.0", "year": 2017},
            "licenses": [{"id": 1, "name": "rendered, free to use", "url": ""}],
            "images": images,
            "annotations": annotations,
            "categories": categories,
        }
    with (
        atomic(folder / "annotations_trainval2017.zip") as path,
        zipfile.ZipFile(path, "w") as archive,
    ):
        for split, content in contents.items():
            text = json.dumps(content, separators=(",", ":")).encode()
            _zip_add(archive, f"annotations/instances_{split}.json", text, squeeze=True)


def _write_voc(world: World, folder: Path) -> None:
    recipe = world.recipe.voc
    total = recipe.trainval2007 + recipe.test2007
    ids2007 = [f"{k:06d}" for k in _numbers(world, Stream.VOC_TRAINVAL_2007, total, total)]
    years = np.random.default_rng((world.recipe.seed, Stream.NUMBERS, Stream.VOC_TEST_2007))
    numbers = _numbers(world, Stream.VOC_TRAINVAL_2012, recipe.trainval2012, 9999)
    ids2012 = [f"{years.integers(2008, 2012)}_{number:06d}" for number in numbers]
    for name, year, stream, ids in (
        ("VOCtrainval_06-Nov-2007", 2007, Stream.VOC_TRAINVAL_2007, ids2007[: recipe.trainval2007]),
        ("VOCtest_06-Nov-2007", 2007, Stream.VOC_TEST_2007, ids2007[recipe.trainval2007 :]),
        ("VOCtrainval_11-May-2012", 2012, Stream.VOC_TRAINVAL_2012, ids2012),
    ):
        with atomic(folder / f"{name}.tar") as path, _open_tar(path) as archive:
            for member, content in _voc_files(world, year, stream, ids):
                _add(archive, f"VOCdevkit/VOC{year}/{member}", content)


def _voc_files(
    world: World, year: int, stream: Stream, ids: Sequence[str]
) -> Iterator[tuple[str, bytes]]:
    for index, image_id in sorted(enumerate(ids), key=lambda pair: pair[1]):
        scene = render_scene(world, world.voc, stream, index)
        size = scene.instances.shape[0], scene.instances.shape[1]
        xml = voc_xml(year, f"{image_id}.jpg", size, scene.objects, world.voc)
        yield f"Annotations/{image_id}.xml", xml.encode()
        yield f"JPEGImages/{image_id}.jpg", _jpeg(world, scene)
    half = len(ids) // 2
    sets = {"train": ids[:half], "val": ids[half:], "trainval": ids}
    for name, part in ({"test": ids} if stream == Stream.VOC_TEST_2007 else sets).items():
        yield f"ImageSets/Main/{name}.txt", "".join(f"{k}\n" for k in sorted(part)).encode()


def _write_caltech(world: World, folder: Path) -> None:
    classes = (*world.caltech, None)
    names = [*(spec.name.replace("_", "-") for spec in world.caltech), "clutter"]
    labels = _labels(world, Stream.CALTECH, len(classes), world.recipe.caltech.images)
    with atomic(folder / "256_ObjectCategories.tar") as path, _open_tar(path) as archive:
        for label, (spec, name) in enumerate(zip(classes, names, strict=True)):
            number = f"{label + 1:03d}"
            for order, index in enumerate(np.flatnonzero(labels == label).tolist()):
                scene = render_classification(world, spec, Stream.CALTECH, index)
                file = f"{number}.{name}/{number}_{order + 1:04d}.jpg"
                _add(archive, f"256_ObjectCategories/{file}", _jpeg(world, scene))
