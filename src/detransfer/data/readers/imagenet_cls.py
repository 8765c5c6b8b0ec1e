"""ImageNet classification (ILSVRC 2012): 1,000 classes of WordNet, official train and val.

Folders under the root: ``train/<WNID>/*.JPEG``, ``val/*.JPEG`` and
``devkit/ILSVRC2012_devkit_t12/data`` with ``meta.mat`` and the labels of val.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from detransfer.console import InputError
from detransfer.data.images import image_sizes
from detransfer.data.index import Index, empty_objects
from detransfer.data.matfile import read_mat
from detransfer.data.options.imagenet_cls import Options
from detransfer.data.readers.lists import image_files, read_lines, subfolders

FIELDS = ("ILSVRC2012_ID", "WNID", "words", "num_children", "num_train_images")


def read(root: Path, options: Options) -> Index:
    """Read the splits ``train`` and ``val``.

    Classes are the synsets without children, in order of WNID: the order of the outputs of every
    published ImageNet classifier; ``source_id`` is the WNID and ``name`` all its words.
    ``image_id`` counts the images in order of path, train before val. Raises InputError when
    folders, images and labels do not match what the development kit says.
    """
    devkit = root / options.devkit
    synsets = _synsets(devkit / "meta.mat")
    train = _train(root, synsets)
    val = _val(root, devkit / "ILSVRC2012_validation_ground_truth.txt", synsets)
    images = pd.concat([train, val], ignore_index=True)
    images["image_id"] = np.arange(len(images), dtype=np.int32)
    images[["width", "height"]] = image_sizes(root, images["path"].tolist())
    classes = pd.DataFrame(
        {
            "class_id": range(len(synsets)),
            "name": synsets["words"],
            "source_id": synsets["WNID"],
            "superclass": "",
        }
    )
    return Index(images, empty_objects(), classes, root)


def _synsets(path: Path) -> pd.DataFrame:
    """Return the leaf synsets of meta.mat in order of WNID, with the columns ``FIELDS``."""
    rows = read_mat(path, "synsets")
    try:
        synsets = pd.DataFrame([{field: _single(row[field]) for field in FIELDS} for row in rows])
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"{path}: not the synset table of ILSVRC 2012 ({error!r})") from error
    if synsets.empty:
        raise InputError(f"{path}: has no synsets")
    leaves = synsets[synsets["num_children"] == 0]
    if leaves.empty or not (leaves["WNID"].is_unique and leaves["ILSVRC2012_ID"].is_unique):
        raise InputError(f"{path}: has no leaf synsets, or two with one WNID or ILSVRC2012_ID")
    return leaves.sort_values("WNID", ignore_index=True)


def _single(value: Any) -> Any:
    """Return a text as it is, and the one number of an array as int."""
    return value if isinstance(value, str) else int(value.item())


def _train(root: Path, synsets: pd.DataFrame) -> pd.DataFrame:
    folder = root / "train"
    found = {path.name for path in subfolders(folder)}
    if unknown := sorted(found - set(synsets["WNID"])):
        raise InputError(f"{folder / unknown[0]}: not a class of meta.mat")
    tables = []
    for class_id, (wnid, count) in enumerate(
        zip(synsets["WNID"], synsets["num_train_images"], strict=True)
    ):
        paths = _images(root, f"train/{wnid}")
        if len(paths) != count:
            raise InputError(
                f"{folder / wnid}: has {len(paths)} images, but meta.mat says {count}; "
                "extract the archive again"
            )
        tables.append(_table(paths, [class_id] * len(paths), "train"))
    return pd.concat(tables, ignore_index=True)


def _val(root: Path, labels: Path, synsets: pd.DataFrame) -> pd.DataFrame:
    number = dict(zip(synsets["ILSVRC2012_ID"], synsets.index, strict=True))
    lines = list(read_lines(labels, "list of labels"))
    paths = _images(root, "val")
    if not paths or len(paths) != len(lines):
        raise InputError(
            f"{root / 'val'}: has {len(paths)} images, but {labels.name} has {len(lines)} labels"
        )
    class_ids = []
    for row, line in lines:
        if not line.isdecimal() or len(line) > 9 or int(line) not in number:
            raise InputError(f"{labels}: line {row}: {line!r} is not a class of meta.mat")
        class_ids.append(number[int(line)])
    return _table(paths, class_ids, "val")


def _table(paths: list[str], class_ids: Sequence[int], split: str) -> pd.DataFrame:
    return pd.DataFrame({"path": paths, "class_id": class_ids, "split": split})


def _images(root: Path, folder: str) -> list[str]:
    """Return the images of a folder in order of name, relative to the root."""
    if not (root / folder).is_dir():
        return []
    return [f"{folder}/{name}" for name in image_files(root / folder, (".jpeg",))]
