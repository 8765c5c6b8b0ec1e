"""Open Images V4: boxes and verified labels in CSV files, the classes in a hierarchy.

Folders under the root: ``annotations/`` with the CSV and JSON files under their official names, and
``train_0/`` to ``train_f/`` (by the first digit of the image id), ``validation/``, ``test/`` with
``<image id>.jpg``. Boxes are given as shares of the image's sides ("Data formats" at
storage.googleapis.com/openimages/web/download.html); the sizes come from the image headers.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from detransfer.console import InputError
from detransfer.data.images import image_sizes
from detransfer.data.index import BOX, OBJECT_TYPES, Index
from detransfer.data.options.openimages import DIGITS, Digit, Options, Split
from detransfer.data.readers.faults import Faults
from detransfer.data.readers.lists import utf8_named
from detransfer.data.readers.openimages_classes import BOXABLE, Vocabulary, read_vocabulary
from detransfer.data.readers.tables import Block, Kind, line_number, read_blocks

log = logging.getLogger(__name__)
SIDES = ("XMin", "YMin", "XMax", "YMax")
FLAGS = {"IsTruncated": "truncated", "IsOccluded": "occluded", "IsGroupOf": "group_of"}
BOX_COLUMNS: dict[str, Kind] = {
    "ImageID": "text",
    "LabelName": "text",
    **dict.fromkeys(SIDES, "number"),
    **dict.fromkeys((*FLAGS, "IsDepiction"), "flag"),
}
LABEL_COLUMNS: dict[str, Kind] = {"ImageID": "text", "LabelName": "text", "Confidence": "number"}


def read(root: Path, options: Options) -> Index:
    """Read the boxes of the splits and, as the table ``negatives``, the labels verified as absent.

    ``image_id`` is the place in the order of splits and file names, ``source_id`` of a class its
    label (``/m/...``), ``superclass`` its topmost ancestor. Flags that are unknown (-1) count as
    unset. Boxes of classes outside the vocabulary are left out and counted in the log. Boxes of no
    area are left out and counted under either policy. Raises InputError, naming file and line, for
    everything that is malformed.
    """
    images = find_images(root, options)
    images[["width", "height"]] = image_sizes(root, images["path"].tolist())
    return annotate(root, options, images)


def find_images(root: Path, options: Options) -> pd.DataFrame:
    """Return ``image_id``, ``path`` and ``split`` of the images on disk, in order of file name.

    Raises InputError for a split without images.
    """
    tables = []
    for split in dict.fromkeys(options.splits):
        folders = [str(split)]
        if split == "train":
            folders = [f"train_{digit}" for digit in DIGITS if digit in options.train_archives]
        paths = [path for folder in folders for path in _jpegs(root, folder)]
        if not paths:
            raise InputError(f"{root}: split {split!r} has no images in {', '.join(folders)}")
        tables.append(pd.DataFrame({"path": paths, "split": split}))
    images = pd.concat(tables, ignore_index=True)
    images["image_id"] = np.arange(len(images), dtype=np.int32)
    return images


def annotate(root: Path, options: Options, images: pd.DataFrame) -> Index:
    """Return the index of images whose sizes are known, in the order of :func:`find_images`."""
    vocabulary = read_vocabulary(root / "annotations", options.vocabulary, options.expand_hierarchy)
    faults = Faults(options.on_bad_object)
    boxes: list[dict[str, np.ndarray]] = []
    absent: list[np.ndarray] = []
    for split in dict.fromkeys(options.splits):
        found = _Images(split, images[images["split"] == split], options.train_archives)
        path = root / "annotations" / f"{split}-annotations-bbox.csv"
        boxes += _boxes(path, found, vocabulary, options, faults)
        if options.negatives:
            path = path.with_name(f"{split}-annotations-human-imagelabels-boxable.csv")
            absent += _negatives(path, found, vocabulary, faults)
    faults.report()
    objects = _join(boxes).assign(difficult=False, crowd=False)[list(OBJECT_TYPES)]
    negatives = None
    if options.negatives:
        negatives = pd.DataFrame(
            np.unique(np.concatenate(absent), axis=0), columns=["image_id", "class_id"]
        )
    return Index(images, objects, vocabulary.classes, root, faults.counts, negatives)


def _jpegs(root: Path, folder: str) -> list[str]:
    """Return the paths of a folder's images, but hidden ones, in order; none without the folder.

    A missing folder shows as soon as a box names one of its images. Raises InputError for a name
    that is not UTF-8.
    """
    if not (root / folder).is_dir():
        return []
    with os.scandir(root / folder) as entries:
        found = [e.name for e in entries if e.name.endswith(".jpg") and not e.name.startswith(".")]
    for name in found:
        if not name.isascii():
            utf8_named(root / folder / name)
    names = sorted(name.removesuffix(".jpg") for name in found)
    return [f"{folder}/{name}.jpg" for name in names]


class _Images:
    """The images of one split: finds their rows by official id."""

    def __init__(self, split: Split, images: pd.DataFrame, archives: tuple[Digit, ...]) -> None:
        self.split, self.archives = split, archives
        names = [path[path.rindex("/") + 1 :].removesuffix(".jpg") for path in images["path"]]
        self.names = np.array([name.encode() for name in names], dtype=np.bytes_)
        unordered = np.flatnonzero(self.names[1:] <= self.names[:-1])
        if len(unordered):
            path = images["path"].iloc[unordered[0] + 1]
            raise InputError(f"{path}: is in the wrong folder: train_<d> has the ids that begin so")
        self.first = int(images["image_id"].iloc[0])
        self.sizes = images[["width", "height"]].to_numpy()

    def rows(self, ids: list[str]) -> np.ndarray:
        """Return the row of each id, -1 where it is not on disk, -2 where its archive is unused."""
        wanted = np.array([name.encode() for name in ids], dtype=np.bytes_)
        rows = np.minimum(np.searchsorted(self.names, wanted), len(self.names) - 1)
        rows = np.where(self.names[rows] == wanted, rows, -1)
        if self.split == "train":
            unused = np.array([not name.startswith(self.archives) for name in ids], bool)
            rows[(rows == -1) & unused] = -2
        return rows

    def archive(self, name: str) -> str:
        """Return the archive that holds an image."""
        return f"train_{name[:1]}.tar.gz" if self.split == "train" else f"{self.split}.tar.gz"


@dataclass(frozen=True)
class _Rows:
    """The rows of a block that are fine so far, and where the others are reported."""

    path: Path
    block: Block
    good: np.ndarray
    faults: Faults

    def refuse(
        self, wrong: np.ndarray, kind: str, describe: Callable[[dict[str, Any]], str]
    ) -> None:
        """Take out the rows that are ``wrong``; ``describe`` gets the values of the first."""
        rows = np.flatnonzero(wrong & self.good)
        if len(rows):
            self.faults.bad(kind, self._message(rows[0], describe), len(rows))
            self.good[rows] = False

    def leave_out_empty(self, rows: np.ndarray) -> None:
        """Count boxes of no area, which are left out whatever the policy, as COCO's are."""
        if len(rows):
            message = self._message(rows[0], lambda row: f"{_named(row)} has no area")
            self.faults.leave_out("no area", message, len(rows))

    def _message(self, row: int, describe: Callable[[dict[str, Any]], str]) -> str:
        values = {name: self.block.value(name, row) for name in self.block.columns}
        line = line_number(self.path, self.block.first + int(row))
        return f"{self.path}: line {line}: {describe(values)}"


def _known(
    path: Path, block: Block, images: _Images, vocabulary: Vocabulary, faults: Faults
) -> tuple[_Rows, np.ndarray, np.ndarray]:
    """Return the rows whose image and class are known, with their image row and label."""
    codes, ids = block.text("ImageID")
    image = images.rows(ids)[codes] if ids else np.empty(0, np.int64)
    codes, names = block.text("LabelName")
    label = vocabulary.labels(names)[codes] if names else np.empty(0, np.int64)
    rows = _Rows(path, block, image != -2, faults)
    rows.refuse(
        image == -1,
        "image not on disk",
        lambda row: (
            f"image {row['ImageID']} is not on disk; extract {images.archive(row['ImageID'])} or, "
            "for training images, leave it out by the option 'train_archives'"
        ),
    )
    rows.refuse(
        label < 0,
        "unknown class",
        lambda row: f"class {row['LabelName']} is not in {BOXABLE}",
    )
    return rows, image, label


def _boxes(
    path: Path, images: _Images, vocabulary: Vocabulary, options: Options, faults: Faults
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the objects of a split in blocks of columns."""
    seen = other = 0
    for block in read_blocks(path, BOX_COLUMNS):
        rows, image, label = _known(path, block, images, vocabulary, faults)
        share = np.stack([block.columns[side] for side in SIDES], axis=1)
        _check_boxes(rows, share)
        chosen = rows.good
        if options.drop_depictions:
            chosen = chosen & (block.columns["IsDepiction"] != 1)
        chosen = np.flatnonzero(chosen)
        size = images.sizes[image[chosen]]
        box = (share[chosen] * np.tile(size, 2)).astype(np.float32)
        filled = (box[:, 2:] > box[:, :2]).all(axis=1)
        rows.leave_out_empty(chosen[~filled])
        chosen, box = chosen[filled], box[filled]
        times, class_id = vocabulary.expand(label[chosen])
        seen += len(block)
        other += int((vocabulary.counts[label[chosen]] == 0).sum())
        flags = {ours: block.columns[name][chosen][times] == 1 for name, ours in FLAGS.items()}
        image_id = (images.first + image[chosen][times]).astype(np.int32)
        corners = {name: box[times, k] for k, name in enumerate(BOX)}
        yield {"image_id": image_id, "class_id": class_id, **corners, **flags}
    log.info("%s: %d boxes, left out: %d outside the vocabulary", path, seen, other)


def _check_boxes(rows: _Rows, share: np.ndarray) -> None:
    """Refuse boxes that are not finite, leave the image or are inverted, and unknown flags."""
    finite = np.isfinite(share).all(axis=1)
    rows.refuse(~finite, "not a number", lambda row: f"{_named(row)} is not finite")
    rows.refuse(
        np.any((share < 0) | (share > 1), axis=1),
        "outside the image",
        lambda row: f"{_named(row)} leaves the image (its sides run from 0 to 1)",
    )
    inverted = np.any(share[:, 2:] < share[:, :2], axis=1)
    rows.refuse(inverted, "inverted", lambda row: f"{_named(row)} is inverted")
    for name in (*FLAGS, "IsDepiction"):
        value = rows.block.columns[name]
        rows.refuse((value < -1) | (value > 1), "unknown flag", partial(_flag, name))


def _flag(name: str, row: dict[str, Any]) -> str:
    return f"{name} should be 1, 0 or -1, got {row[name]}"


def _named(row: dict[str, Any]) -> str:
    return f"box [{', '.join(f'{side}={row[side]:g}' for side in SIDES)}]"


def _negatives(
    path: Path, images: _Images, vocabulary: Vocabulary, faults: Faults
) -> Iterator[np.ndarray]:
    """Yield (image id, class id) of the labels verified as absent (confidence 0)."""
    yield np.empty((0, 2), np.int32)
    for block in read_blocks(path, LABEL_COLUMNS):
        rows, image, label = _known(path, block, images, vocabulary, faults)
        confidence = block.columns["Confidence"]
        rows.refuse(
            ~((confidence >= 0) & (confidence <= 1)),
            "unknown confidence",
            lambda row: f"Confidence should lie between 0 and 1, got {row['Confidence']:g}",
        )
        chosen = np.flatnonzero(rows.good & (confidence == 0))
        times, class_id = vocabulary.expand_absent(label[chosen])
        image_id = (images.first + image[chosen][times]).astype(np.int32)
        yield np.stack([image_id, class_id], axis=1)


def _join(blocks: list[dict[str, np.ndarray]]) -> pd.DataFrame:
    """Return all blocks as one table; each block's column is freed as soon as it is copied."""
    table: dict[str, np.ndarray] = {}
    for name, kind in OBJECT_TYPES.items():
        if blocks and name in blocks[0]:
            table[name] = np.concatenate([block.pop(name) for block in blocks]).astype(kind)
        elif not blocks:
            table[name] = np.empty(0, kind)
    return pd.DataFrame(table, copy=False)
