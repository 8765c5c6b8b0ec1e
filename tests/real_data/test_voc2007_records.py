"""All 4,952 test images of VOC 2007, written as the official annotations from VOC's own records."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from PIL import Image

from detransfer.data.index import BOX, Index, read_index, write_index
from detransfer.data.options.voc import OFFICIAL_CLASSES
from detransfer.data.readers import read_dataset

pytestmark = pytest.mark.real_data

# Objects that are not difficult, by class in alphabetical order: column "test" of VOC 2007's own
# statistics (host.robots.ox.ac.uk/pascal/VOC/voc2007/dbstats.html).
PUBLISHED = (285, 337, 459, 263, 469, 213, 1201, 358, 756, 244,
             206, 489, 348, 325, 4528, 480, 242, 239, 282, 308)  # fmt: skip


@pytest.fixture(scope="module")
def records(real_data: Path) -> list[Any]:
    path = real_data / "hoiem_voc07/VOC2007_records_test.mat"
    return list(scipy.io.loadmat(path, squeeze_me=True, struct_as_record=False)["rec"])


@pytest.fixture(scope="module")
def index(records: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Index:
    """The index of the records; each image is blank and of the recorded size."""
    root = tmp_path_factory.mktemp("voc2007")
    devkit = root / "VOCdevkit/VOC2007"
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (devkit / name).mkdir(parents=True)
    for record in records:
        width, height = (int(side) for side in record.imgsize[:2])
        blank = root / f"{width}x{height}.png"
        if not blank.exists():
            Image.new("1", (width, height)).save(blank)
        os.link(blank, devkit / "JPEGImages" / record.filename)
        objects = "".join(object_xml(item) for item in np.atleast_1d(record.objects))
        (devkit / "Annotations" / record.filename).with_suffix(".xml").write_text(
            f"<annotation><size><width>{width}</width><height>{height}</height></size>{objects}"
            "</annotation>"
        )
    names = [f"{record.filename[:6]}\n" for record in records]
    (devkit / "ImageSets/Main/test.txt").write_text("".join(names))
    write_index(root / "index", read_dataset("voc", root, {"sets": {"test": "VOC2007/test"}}))
    return read_index(root / "index")


def object_xml(item: Any) -> str:
    corners = zip(("xmin", "ymin", "xmax", "ymax"), item.bbox, strict=True)
    flags = f"<truncated>{item.truncated}</truncated><difficult>{item.difficult}</difficult>"
    box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in corners)
    name = getattr(item, "class")
    return f"<object><name>{name}</name>{flags}<bndbox>{box}</bndbox></object>"


def test_the_counts_are_the_published_ones(index: Index) -> None:
    assert len(index.images) == 4952
    assert len(index.objects) == 14_976
    assert index.objects["difficult"].sum() == 2_944
    assert index.dropped == {}
    assert index.classes["name"].tolist() == list(OFFICIAL_CLASSES)
    easy = index.objects.loc[~index.objects["difficult"], "class_id"]
    assert tuple(np.bincount(easy, minlength=20)) == PUBLISHED


def test_every_image_has_the_objects_of_its_record(index: Index, records: list[Any]) -> None:
    assert index.images["image_id"].tolist() == [int(record.filename[:6]) for record in records]
    held = [np.atleast_1d(record.objects) for record in records]
    np.testing.assert_array_equal(np.diff(index.offsets), [len(items) for items in held])
    every = [item for items in held for item in items]
    assert index.objects["truncated"].tolist() == [bool(item.truncated) for item in every]
    boxes = np.array([item.bbox for item in every], float) - [1, 1, 0, 0]
    np.testing.assert_array_equal(index.objects[BOX].to_numpy(float), boxes)
