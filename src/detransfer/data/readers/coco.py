"""COCO: one JSON file a set in the official "instances" form (cocodataset.org, "Data format").

Folders under the root: ``annotations/instances_<set>.json`` and ``<set>/<file name>``.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field

from detransfer.console import InputError
from detransfer.data.images import image_sizes
from detransfer.data.index import BOX, OBJECT_TYPES, Index
from detransfer.study import Strict

log = logging.getLogger(__name__)
ROUNDING = 1.0  # pixels by which an official box may leave its image; such boxes are clipped
KEYS = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}


class CocoSet(Strict):
    """The files of one split, relative to the root."""

    annotations: str = Field(description="JSON file")
    images: str = Field(description="folder of the images")


class Options(Strict):
    """What can be chosen."""

    sets: dict[str, CocoSet] = Field(
        {
            name: CocoSet(annotations=f"annotations/instances_{name}.json", images=name)
            for name in ("train2017", "val2017")
        },
        min_length=1,
        description="files by split",
    )


def read(root: Path, options: Options) -> Index:
    """Read the sets that the options name.

    ``image_id`` is COCO's; classes are numbered in order of COCO's category ids, which stand in
    ``source_id``; ``superclass`` is the supercategory. Boxes of no area are dropped and counted in
    the log. Raises InputError, naming file and annotation, for everything that is malformed.
    """
    images, objects = [], []
    classes: pd.DataFrame | None = None
    for split, files in options.sets.items():
        path = root / files.annotations
        content = _load(path)
        found = _classes(content["categories"], path)
        if classes is not None and not classes.equals(found):
            raise InputError(f"{path}: its categories differ from those of the sets before it")
        classes = found
        table = _images(root, path, content["images"], files.images, split)
        images.append(table)
        objects.append(_objects(path, content["annotations"], table, classes))
    assert classes is not None  # the options have at least one set
    table = pd.concat(images, ignore_index=True)
    twice = table.loc[table["image_id"].duplicated(), "path"]
    if len(twice):
        raise InputError(f"{root / twice.iloc[0]}: its image id occurs twice in the sets")
    return Index(table, pd.concat(objects, ignore_index=True), classes, root)


def _load(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(file, object_hook=_without_outline)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such annotation file; extract it first") from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: line {error.lineno}, column {error.colno}: malformed JSON ({error.msg})"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file ({error})") from None
    for key, needed in KEYS.items():
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise InputError(f"{path}: has no list {key!r}; is it an instances file of COCO?")
        for number, entry in enumerate(entries, 1):
            lacks = [k for k in needed if not isinstance(entry, dict) or entry.get(k) is None]
            if lacks:
                name = entry.get("id", "?") if isinstance(entry, dict) else "?"
                raise InputError(f"{path}: entry {number} of {key} (id {name}) lacks {lacks[0]!r}")
    return content


def _without_outline(entry: dict[str, Any]) -> dict[str, Any]:
    entry.pop("segmentation", None)  # nine tenths of the file, and nobody here reads it
    return entry


def _classes(categories: list[dict[str, Any]], path: Path) -> pd.DataFrame:
    ordered = sorted(categories, key=lambda category: category["id"])
    ids = [category["id"] for category in ordered]
    if not ids or len(set(ids)) < len(ids):
        raise InputError(f"{path}: has no categories, or two with one id")
    return pd.DataFrame(
        {
            "class_id": range(len(ids)),
            "name": [str(category["name"]) for category in ordered],
            "source_id": [str(number) for number in ids],
            "superclass": [str(category.get("supercategory", "")) for category in ordered],
        }
    )


def _images(
    root: Path, source: Path, entries: list[dict[str, Any]], folder: str, split: str
) -> pd.DataFrame:
    if not entries:
        raise InputError(f"{source}: split {split!r} is empty (no images)")
    paths = [f"{folder}/{entry['file_name']}" for entry in entries]
    table = pd.DataFrame(
        {
            "image_id": np.array([entry["id"] for entry in entries], np.int32),
            "path": paths,
            "width": [entry["width"] for entry in entries],
            "height": [entry["height"] for entry in entries],
            "split": split,
        }
    )
    sizes = image_sizes(root, paths)
    stated = table[["width", "height"]].to_numpy()
    wrong = np.flatnonzero((stated != sizes).any(1))
    if len(wrong):
        row = wrong[0]
        (width, height), found = stated[row], sizes[row]
        raise InputError(
            f"{source}: says that {paths[row]} has {width} x {height} pixels, "
            f"but the image has {found[0]} x {found[1]}"
        )
    return table


def _objects(
    source: Path, entries: list[dict[str, Any]], images: pd.DataFrame, classes: pd.DataFrame
) -> pd.DataFrame:
    """Return the object table; boxes [x, y, w, h] become corners, clipped by at most a pixel."""
    ids = [entry["id"] for entry in entries]
    image_id = pd.Series([entry["image_id"] for entry in entries], dtype="int64")
    sizes = images.set_index("image_id")[["width", "height"]]
    _refuse(source, ids, ~image_id.isin(sizes.index), "belongs to an unknown image")
    number = dict(zip(classes["source_id"].astype(int), classes["class_id"], strict=True))
    category = pd.Series([entry["category_id"] for entry in entries], dtype="int64")
    _refuse(source, ids, ~category.isin(number.keys()), "has an unknown category")

    box = _corners(source, entries, ids)
    limits = sizes.loc[image_id].to_numpy(float)
    over = np.any((box < -ROUNDING) | (box > np.hstack([limits, limits]) + ROUNDING), axis=1)
    _refuse(source, ids, over, "has a box that leaves its image", box, limits)
    box = np.clip(box, 0, np.hstack([limits, limits])).astype(np.float32)

    table = pd.DataFrame(box, columns=BOX)
    table["image_id"], table["class_id"] = image_id, category.map(number)
    table[["difficult", "truncated", "occluded", "group_of"]] = False
    table["crowd"] = [bool(entry.get("iscrowd", 0)) for entry in entries]
    filled = (box[:, 2:] > box[:, :2]).all(1)
    if not filled.all():
        log.info("%s: dropped %d boxes of no area", source, (~filled).sum())
    return table.loc[filled, list(OBJECT_TYPES)].astype(OBJECT_TYPES).reset_index(drop=True)


def _corners(source: Path, entries: list[dict[str, Any]], ids: list[Any]) -> np.ndarray:
    for entry in entries:
        box = entry["bbox"]
        numbers = isinstance(box, list) and all(isinstance(v, int | float) for v in box)
        if not numbers or len(box) != 4:
            raise InputError(
                f"{source}: annotation {entry['id']}: bbox should be [x, y, width, height], "
                f"got {box!r}"
            )
    box = np.array([entry["bbox"] for entry in entries], float).reshape(-1, 4)
    _refuse(source, ids, ~np.isfinite(box).all(1), "has a box that is not finite", box)
    _refuse(source, ids, np.any(box[:, 2:] < 0, axis=1), "has an inverted box [x, y, w, h]", box)
    box[:, 2:] += box[:, :2]
    return box


def _refuse(
    source: Path,
    ids: list[Any],
    wrong: np.ndarray | pd.Series,
    message: str,
    box: np.ndarray | None = None,
    limits: np.ndarray | None = None,
) -> None:
    """Raise InputError for the first annotation that is ``wrong``."""
    rows = np.flatnonzero(wrong)
    if not len(rows):
        return
    details = "" if box is None else f" {[round(float(v), 2) for v in box[rows[0]]]}"
    if limits is not None:
        details += f" of {limits[rows[0]][0]:.0f} x {limits[rows[0]][1]:.0f} pixels"
    raise InputError(f"{source}: annotation {ids[rows[0]]} {message}{details}")
