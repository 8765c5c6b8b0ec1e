"""SUN-397: scenes, ``SUN397/<letter>/<class>/*.jpg``, with ten official partitions.

Folders under the root: ``SUN397`` and ``Partitions`` with ``ClassName.txt`` and the lists
``Training_01.txt`` to ``Testing_10.txt`` (50 + 50 images a class each, Xiao et al., CVPR 2010).
Some files named ``.jpg`` hold PNG, GIF or BMP images; they are read by what they hold.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from detransfer.console import InputError
from detransfer.data.images import image_sizes
from detransfer.data.index import Index, empty_objects
from detransfer.data.options.sun397 import Options
from detransfer.data.readers.lists import read_names

IMAGES = "SUN397"
LISTS = {"train": "Training", "test": "Testing"}


def read(root: Path, options: Options) -> Index:
    """Read the splits ``train`` and ``test`` of one partition.

    Classes are those of ClassName.txt in its order; ``source_id`` is the official name such as
    ``/a/apartment_building/outdoor`` and ``name`` is it without the letter. ``image_id`` is the
    place in order of list, training before testing. Raises InputError, naming list and line, for an
    image of an unknown class or in both lists, and for a class without images.
    """
    folder = root / "Partitions"
    names = read_names(folder / "ClassName.txt", "list of classes")
    classes = _class_table(folder, list(names))
    number = {name: class_id for class_id, name in enumerate(names)}
    tables = []
    seen: dict[str, str] = {}
    for split, word in LISTS.items():
        path = folder / f"{word}_{options.partition:02d}.txt"
        found = read_names(path, "list of images")
        for image, line in found.items():
            if image in seen:
                raise InputError(f"{path}: line {line}: {image} is in {seen[image]} already")
        seen.update(dict.fromkeys(found, path.name))
        tables.append(_table(path, found, number, split))
    images = pd.concat(tables, ignore_index=True)
    images["image_id"] = np.arange(len(images), dtype=np.int32)
    images[["width", "height"]] = image_sizes(root, images["path"].tolist())
    return Index(images, empty_objects(), classes, root)


def _table(path: Path, found: dict[str, int], number: dict[str, int], split: str) -> pd.DataFrame:
    """Return the images of one list, each named like ``/a/abbey/sun_aaa.jpg``."""
    class_ids = []
    for image, line in found.items():
        name = image.rpartition("/")[0]
        if name not in number:
            raise InputError(f"{path}: line {line}: {image}: ClassName.txt has no class {name!r}")
        class_ids.append(number[name])
    if empty := set(number.values()) - set(class_ids):
        name = list(number)[min(empty)]
        raise InputError(f"{path}: has no image of the class {name!r} of ClassName.txt")
    paths = [f"{IMAGES}{image}" for image in found]
    return pd.DataFrame({"path": paths, "class_id": class_ids, "split": split})


def _class_table(folder: Path, names: list[str]) -> pd.DataFrame:
    for name in names:
        if len(name.split("/")) < 3 or not name.startswith("/"):
            raise InputError(
                f"{folder / 'ClassName.txt'}: {name!r} is not a class named like '/a/abbey'"
            )
    return pd.DataFrame(
        {
            "class_id": range(len(names)),
            "name": [name.split("/", 2)[2] for name in names],
            "source_id": names,
            "superclass": "",
        }
    )
