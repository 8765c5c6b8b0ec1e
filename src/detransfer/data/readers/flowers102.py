"""Oxford Flowers-102: ``jpg/image_<number>.jpg``, labels and splits in two MATLAB files.

Files under the root: ``jpg/image_00001.jpg``, ``imagelabels.mat`` (``labels``: class 1 to 102 of
every image) and ``setid.mat`` (``trnid``, ``valid``, ``tstid``: numbers of the images). See
Nilsback and Zisserman, ICVGIP 2008.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from detransfer.console import InputError
from detransfer.data.images import image_sizes
from detransfer.data.index import Index, empty_objects
from detransfer.data.matfile import read_mat
from detransfer.data.options.flowers102 import Options

SPLITS = {"train": "trnid", "val": "valid", "test": "tstid"}


def read(root: Path, options: Options) -> Index:
    """Read the splits ``train``, ``val`` and ``test``.

    ``image_id`` is the number of the image and ``source_id`` that of the class, both from 1 as in
    the official files. Images that no split names are left out. Raises InputError, naming file and
    image, for labels without a name, images without a label and images in two splits.
    """
    labels = _numbers(root / "imagelabels.mat", "labels")
    images = pd.concat(
        [_split(root / "setid.mat", split, labels) for split in SPLITS], ignore_index=True
    )
    twice = images.loc[images["image_id"].duplicated(), "image_id"]
    if len(twice):
        raise InputError(f"{root / 'setid.mat'}: image {twice.iloc[0]} is there twice")
    _check_labels(root / "imagelabels.mat", labels, len(options.classes))
    images["path"] = [f"jpg/image_{number:05d}.jpg" for number in images["image_id"]]
    images[["width", "height"]] = image_sizes(root, images["path"].tolist())
    classes = pd.DataFrame(
        {
            "class_id": range(len(options.classes)),
            "name": options.classes,
            "source_id": [str(number) for number in range(1, len(options.classes) + 1)],
            "superclass": "",
        }
    )
    return Index(images, empty_objects(), classes, root)


def _split(path: Path, split: str, labels: np.ndarray) -> pd.DataFrame:
    numbers = _numbers(path, SPLITS[split])
    wrong = numbers[(numbers < 1) | (numbers > len(labels))]
    if len(wrong):
        raise InputError(
            f"{path}: {SPLITS[split]} names image {wrong[0]}, but imagelabels.mat has labels for "
            f"images 1 to {len(labels)}"
        )
    class_ids = labels[numbers - 1] - 1
    return pd.DataFrame({"image_id": numbers, "class_id": class_ids, "split": split})


def _check_labels(path: Path, labels: np.ndarray, classes: int) -> None:
    wrong = np.flatnonzero((labels < 1) | (labels > classes))
    if len(wrong):
        raise InputError(
            f"{path}: image {wrong[0] + 1} has label {labels[wrong[0]]}, but there are names for "
            f"classes 1 to {classes}; correct the option 'classes'"
        )


def _numbers(path: Path, key: str) -> np.ndarray:
    """Return one variable of a MATLAB file as a vector of whole numbers."""
    values = read_mat(path, key)
    values = np.squeeze(values) if isinstance(values, np.ndarray) else np.empty((0, 0))
    numbers = np.atleast_1d(values)
    if numbers.ndim != 1 or not len(numbers) or not (numbers % 1 == 0).all():
        raise InputError(f"{path}: {key!r} should be a row of whole numbers")
    return numbers.astype(np.int64)
