"""Caltech-256: one folder a class, ``256_ObjectCategories/<number>.<name>/*.jpg``.

There is no official split; the paper's (15.4 K for training, 15.2 K for testing) is drawn here.
"""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path

import numpy as np
import pandas as pd

from detransfer.console import InputError
from detransfer.data.images import image_sizes
from detransfer.data.index import Index, empty_objects
from detransfer.data.options.caltech256 import Options
from detransfer.data.readers.lists import image_files

log = logging.getLogger(__name__)
FOLDER = "256_ObjectCategories"
CLASS_FOLDER = re.compile(r"(\d{3})\.(.+)")
SUFFIXES = (".jpg", ".jpeg", ".png")


def read(root: Path, options: Options) -> Index:
    """Read all classes and draw the splits ``train`` and ``test``.

    The draw of a class depends on the seed and the class name alone, so that another class more or
    less changes no other. ``image_id`` is the place in order of path; ``source_id`` is the number
    of the folder. Folders inside a class and files that are no images (the official archive has
    ``056.dog/greg`` and ``198.spider/RENAME2``) are skipped and logged. Raises InputError for a
    class with too few images and for images that cannot be read.
    """
    folders = _class_folders(root / FOLDER)
    tables = []
    for class_id, folder in enumerate(folders):
        files = image_files(folder, SUFFIXES)
        split = split_class(len(files), _name(folder), folder, options)
        paths = [f"{FOLDER}/{folder.name}/{file}" for file in files]
        tables.append(pd.DataFrame({"path": paths, "class_id": class_id, "split": split}))
    images = _cut(pd.concat(tables, ignore_index=True), options)
    images["image_id"] = np.arange(len(images), dtype=np.int32)
    images[["width", "height"]] = image_sizes(root, images["path"].tolist())
    return Index(images, empty_objects(), _class_table(folders), root)


def split_class(count: int, name: str, folder: Path, options: Options) -> np.ndarray:
    """Return ``train`` or ``test`` for each of a class's images, in order of file name.

    Raises InputError when nothing would be left to test on.
    """
    if count <= options.train_per_class:
        raise InputError(
            f"{folder}: has {count} images, which leaves none to test on after "
            f"{options.train_per_class} for training; lower the option 'train_per_class'"
        )
    split = np.full(count, "test", dtype=object)
    split[_generator(options.seed, name).permutation(count)[: options.train_per_class]] = "train"
    return split


def _cut(images: pd.DataFrame, options: Options) -> pd.DataFrame:
    """Drop test images at random until ``eval_total`` are left."""
    rest = np.flatnonzero(images["split"] == "test")
    if options.eval_total is None or len(rest) <= options.eval_total:
        return images
    log.info("cutting %d test images to %d", len(rest), options.eval_total)
    dropped = _generator(options.seed, "").permutation(rest)[options.eval_total :]
    return images[~images.index.isin(dropped)].reset_index(drop=True)


def _generator(seed: int, name: str) -> np.random.Generator:
    key = int.from_bytes(hashlib.sha256(name.encode()).digest(), "big")
    return np.random.default_rng([seed, key])


def _class_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder; extract {FOLDER}.tar first")
    folders = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    for path in folders:
        if not path.is_dir() or not CLASS_FOLDER.fullmatch(path.name):
            raise InputError(f"{path}: not a class folder named like '056.dog'; move it away")
    if not folders:
        raise InputError(f"{root}: has no class folders")
    return folders


def _name(folder: Path) -> str:
    return folder.name.partition(".")[2]


def _class_table(folders: list[Path]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "class_id": range(len(folders)),
            "name": [_name(folder) for folder in folders],
            "source_id": [folder.name.partition(".")[0] for folder in folders],
            "superclass": "",
        }
    )
