"""A data set of a few images for every reader, in its official form, and what can be wrong with it.

Each is rendered, packed in the official archives and extracted as the workflow does it.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from detransfer.console import InputError
from detransfer.data.formats import READERS
from detransfer.data.index import Index
from detransfer.data.miniature.world import WorldRecipe, make_world
from detransfer.data.readers import read_dataset
from tests.data.miniature_sets import render_and_extract

RECIPE: dict[str, Any] = {
    "image_size": 64,
    "imagenet_cls": {"classes": 2, "train": 2, "val": 1},
    "coco": {"classes": 2, "train": 3, "val": 2, "crowd_share": 0.5},
    "openimages": {"classes": 2, "train": 3, "validation": 2, "test": 1},
    "imagenet_loc": {"classes": 2, "images": 3, "unboxed_share": 0},
    "imagenet_det": {"val": 3},
    "voc": {"classes": 2, "trainval2007": 2, "trainval2012": 2, "test2007": 2, "sbd": 4},
    "caltech": {"classes": 2, "images": 3},
    "sun397": {"classes": 2, "train": 2, "test": 1},
    "flowers102": {"classes": 2, "train": 1, "val": 1, "test": 1},
}
PICTURES = {".jpg", ".JPEG", ".png"}
VOC_NAMES = ("flagged_fish", "eyed_house")


@dataclass(frozen=True)
class Case:
    """One reader on its small data set: the files that it reads, relative to the root, as globs."""

    dataset: str
    options: dict[str, Any] = field(default_factory=dict)
    images: str = "**/*.jpg"
    lists: tuple[str, ...] = ()  # text files of names, labels or boxes
    notes: tuple[str, ...] = ()  # other files besides the images


CASES: dict[str, Case] = {
    "caltech256": Case("caltech256", {"train_per_class": 2}),
    "coco": Case("coco", lists=("annotations/*.json",)),
    "flowers102": Case("flowers102", {"classes": ["a", "b"]}, notes=("*.mat",)),
    "image_folder": Case("image_folder"),
    "imagenet_cls": Case(
        "imagenet_cls",
        images="**/*.JPEG",
        lists=("devkit/*/data/*.txt",),
        notes=("devkit/*/data/meta.mat",),
    ),
    "imagenet_det": Case(
        "imagenet_det",
        images="**/*.JPEG",
        lists=(
            "ILSVRC2014_devkit/data/*.txt",
            "ILSVRC2014_devkit/data/det_lists/val.txt",
            "wordnet.is_a.txt",
            "ILSVRC2013_DET_bbox_val/*.xml",
        ),
        notes=("ILSVRC2014_devkit/data/meta_det.mat",),
    ),
    "imagenet_loc": Case(
        "imagenet_loc", images="**/*.JPEG", lists=("words.txt",), notes=("annotations/**/*.tar.gz",)
    ),
    "openimages": Case(
        "openimages",
        {"vocabulary": 601},
        lists=(
            "annotations/*-annotations-*.csv",
            "annotations/class-descriptions-boxable.csv",
            "annotations/bbox_labels_600_hierarchy.json",
        ),
    ),
    "sun397": Case("sun397", lists=("Partitions/ClassName.txt", "Partitions/*_01.txt")),
    "voc": Case(
        "voc_detection",
        {"classes": VOC_NAMES},
        lists=(
            "VOCdevkit/*/ImageSets/Main/trainval.txt",
            "VOCdevkit/*/ImageSets/Main/test.txt",
            "VOCdevkit/*/Annotations/*.xml",
        ),
    ),
    "voc_segmentation": Case(
        "voc_segmentation",
        {"classes": VOC_NAMES},
        lists=(
            "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt",
            "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt",
            "benchmark_RELEASE/dataset/*.txt",
        ),
        notes=("VOCdevkit/VOC2012/SegmentationClass/*.png", "benchmark_RELEASE/dataset/cls/*.mat"),
    ),
}
assert CASES.keys() == READERS.keys(), "every reader has a case"


def build(reader: str, folder: Path) -> Path:
    """Make the data set of a reader below ``folder``; returns its root."""
    if reader == "image_folder":
        return _image_folder(folder / "own")
    world = make_world(WorldRecipe.model_validate(RECIPE))
    render_and_extract(world, CASES[reader].dataset, folder)
    return folder / CASES[reader].dataset


def _image_folder(root: Path) -> Path:
    for number, place in enumerate(("train/cat", "train/dog", "val/cat", "val/dog")):
        (root / place).mkdir(parents=True)
        for more in range(2):
            image = Image.new("RGB", (20 + number, 16 + more))
            image.save(root / place / f"photo_{number}{more}.jpg")
    return root


def read(reader: str, root: Path, **options: Any) -> Index:
    return read_dataset(reader, root, {**CASES[reader].options, **options})


def picture(size: tuple[int, int], mode: str = "RGB", form: str = "JPEG", **save: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, form, **save)
    return buffer.getvalue()


class Bench:
    """One reader's data set to damage: its files, and the index of the sound one."""

    def __init__(self, reader: str, root: Path, mirror: Path) -> None:
        case = CASES[reader]
        self.reader, self.root, self.mirror = reader, root, mirror
        self.sound = read(reader, root)
        self.options = importlib.import_module(READERS[reader]).Options.model_fields
        # Only images that stand in the index, so that each of them matters.
        self.images = sorted(root / path for path in self.sound.images["path"])
        self.lists = sorted({path for glob in case.lists for path in root.glob(glob)})
        self.notes = sorted({path for glob in case.notes for path in root.glob(glob)})

    def attempt(self, **options: Any) -> str:
        """Read the damaged data set; say what came of it.

        ``same``: the index of before. ``changed``: another index. ``counted``: objects were left
        out, and the index says how many. ``error``: one clear line that names a file of the data
        set. Anything else raises.
        """
        try:
            index = read(self.reader, self.root, **options)
        except InputError as error:
            text = str(error)
            assert len(text.splitlines()) == 1, text
            assert text.startswith(str(self.root)), text
            return "error"
        if index.dropped:
            return "counted"
        return "same" if index.digest() == self.sound.digest() else "changed"

    def each(self, paths: list[Path], fault: Callable[[Path], object]) -> set[str]:
        """Do a fault to one file after the other and undo it; return all that came of it."""
        found = set()
        for path in paths:
            content = path.read_bytes()
            fault(path)
            try:
                found.add(self.attempt())
            finally:
                path.write_bytes(content)
        return found
