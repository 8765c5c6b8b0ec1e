"""A folder of your own: ``<split>/<class>/*.jpg``, one folder a split and in it one a class.

The form that torchvision calls ImageFolder. Give the data set in the configuration with ``reader:
image_folder`` and its ``folder``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from detransfer.console import InputError
from detransfer.data.images import image_sizes
from detransfer.data.index import Index, empty_objects
from detransfer.data.options.image_folder import Options
from detransfer.data.readers.lists import SUFFIXES, image_files, subfolders
from detransfer.strict import suggest


def read(root: Path, options: Options) -> Index:
    """Read all images of the splits.

    Classes are numbered in order of name, or as the option ``classes`` lists them (a split may then
    lack one); ``image_id`` is the place in order of split, class and file. Hidden files, folders
    inside a class and files that are no images are skipped and logged. Raises InputError for an
    empty class and for splits with different classes.
    """
    found = [folder.name for folder in subfolders(root)]
    splits = list(options.splits or found)
    for split in splits:
        if split not in found:
            raise InputError(f"{root}: there is no split {split!r}{suggest(split, found)}")
    if not splits:
        raise InputError(f"{root}: has no folders; expected <split>/<class>/<image>")
    classes = _classes(root, splits, options)
    tables = [
        _table(root, f"{split}/{name}", split, class_id)
        for split in splits
        for class_id, name in enumerate(classes)
        if (root / split / name).is_dir()
    ]
    images = pd.concat(tables, ignore_index=True)
    images["image_id"] = np.arange(len(images), dtype=np.int32)
    images[["width", "height"]] = image_sizes(root, images["path"].tolist())
    return Index(images, empty_objects(), _class_table(classes), root)


def _classes(root: Path, splits: list[str], options: Options) -> list[str]:
    found = {split: [folder.name for folder in subfolders(root / split)] for split in splits}
    if options.classes is not None:
        known = sorted({name for names in found.values() for name in names})
        for name in options.classes:
            if name not in known:
                raise InputError(f"{root}: no split has a class {name!r}{suggest(name, known)}")
        for split in splits:
            if not set(options.classes) & set(found[split]):
                raise InputError(f"{root / split}: has none of the classes of the option 'classes'")
        return list(options.classes)
    first = splits[0]
    for split in splits:
        if not found[split]:
            raise InputError(f"{root / split}: has no class folders; expected <class>/<image>")
        for name in sorted(set(found[first]) ^ set(found[split])):
            here, there = (first, split) if name in found[first] else (split, first)
            raise InputError(
                f"{root}: split {here!r} has a class {name!r} that {there!r} lacks; rename the "
                "folder, or list the classes in the option 'classes'"
            )
    return found[first]


def _table(root: Path, folder: str, split: str, class_id: int) -> pd.DataFrame:
    files = image_files(root / folder)
    if not files:
        raise InputError(
            f"{root / folder}: has no images ({', '.join(SUFFIXES)}); add some or move it away"
        )
    paths = [f"{folder}/{file}" for file in files]
    return pd.DataFrame({"path": paths, "class_id": class_id, "split": split})


def _class_table(classes: list[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "class_id": range(len(classes)),
            "name": classes,
            "source_id": classes,
            "superclass": "",
        }
    )
