"""PASCAL VOC 2012 segmentation, with the further masks of the Semantic Boundaries Dataset (SBD).

Folders under the root: ``VOCdevkit/VOC2012/{ImageSets/Segmentation,JPEGImages,SegmentationClass}``
and ``benchmark_RELEASE/dataset`` with ``train.txt``, ``val.txt``, ``img/*.jpg`` and ``cls/*.mat``.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from detransfer.console import InputError
from detransfer.data.images import image_sizes
from detransfer.data.index import Index, empty_objects
from detransfer.data.masks import read_mask
from detransfer.data.options.voc import SUPERCLASS
from detransfer.data.options.voc_segmentation import Options
from detransfer.data.readers.lists import read_names
from detransfer.data.readers.voc import image_ids

BACKGROUND = "background"
SBD = "benchmark_RELEASE/dataset"
THREADS = 8


def read(root: Path, options: Options) -> Index:
    """Read the splits ``train`` and ``val``.

    ``val`` is VOC's. ``train`` is VOC's training list and, with ``sbd``, both of SBD's lists
    without VOC's validation images: 10,582 images in full. Where an image lies in both, VOC's own
    mask (which has void borders) and image are used; SBD's masks have no void.
    ``class_id`` is the value in the masks, 0 being the background; ``mask`` is a file for
    :func:`detransfer.data.masks.read_mask`. Every mask is read once here. Raises InputError for
    missing and damaged files, unknown mask values and masks of another size than their image.
    """
    voc = f"VOCdevkit/{options.folder}"
    lists = root / voc / "ImageSets" / "Segmentation"
    train, val = (read_names(lists / f"{name}.txt", "list of images") for name in ("train", "val"))
    both = sorted(set(train) & set(val))
    if both:
        raise InputError(f"{lists}: image {both[0]} is in train.txt and in val.txt")
    rows = [_voc(voc, name, "train") for name in train]
    if options.sbd:
        known = {*train, *val}
        rows += [_sbd(name) for name in _sbd_names(root / SBD) if name not in known]
    rows += [_voc(voc, name, "val") for name in val]
    images = pd.DataFrame(rows, columns=["path", "mask", "split"])
    places = [(Path(path).parts[0], Path(path).stem) for path in images["path"]]
    images["image_id"] = np.array(image_ids(places), np.int32)
    sizes = image_sizes(root, images["path"].tolist())
    images[["width", "height"]] = sizes
    _check_masks(root, images, sizes, len(options.classes))
    return Index(images, empty_objects(), _class_table(options), root)


def _voc(voc: str, name: str, split: str) -> tuple[str, str, str]:
    return f"{voc}/JPEGImages/{name}.jpg", f"{voc}/SegmentationClass/{name}.png", split


def _sbd(name: str) -> tuple[str, str, str]:
    return f"{SBD}/img/{name}.jpg", f"{SBD}/cls/{name}.mat", "train"


def _sbd_names(folder: Path) -> list[str]:
    """Return the images of both lists of SBD, which share none."""
    if not folder.is_dir():
        raise InputError(
            f"{folder}: there is no such folder; extract benchmark.tgz, or set the option 'sbd' to "
            "false"
        )
    train, val = (read_names(folder / f"{name}.txt", "list of images") for name in ("train", "val"))
    return list({**train, **val})


def _check_masks(root: Path, images: pd.DataFrame, sizes: np.ndarray, classes: int) -> None:
    def size(mask: str) -> tuple[int, int]:
        height, width = read_mask(root / mask, classes).shape
        return width, height

    with ThreadPoolExecutor(THREADS) as pool:
        found = tqdm(
            pool.map(size, images["mask"]), "masks", len(images), unit=" masks", disable=None
        )
        for path, mask, stated, (width, height) in zip(
            images["path"], images["mask"], sizes, found, strict=True
        ):
            if (width, height) != tuple(stated):
                raise InputError(
                    f"{root / mask}: the mask has {width} x {height} pixels, but its image {path} "
                    f"has {stated[0]} x {stated[1]}"
                )


def _class_table(options: Options) -> pd.DataFrame:
    names = [BACKGROUND, *options.classes]
    return pd.DataFrame(
        {
            "class_id": range(len(names)),
            "name": names,
            "source_id": [str(value) for value in range(len(names))],
            "superclass": [SUPERCLASS.get(name, "") for name in names],
        }
    )
