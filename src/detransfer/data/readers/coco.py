"""COCO: one JSON file a set in the official "instances" form (cocodataset.org, "Data format").

Folders under the root: ``annotations/instances_<set>.json`` and ``<set>/<file name>``.

The images called minival2014 are those of val2017, and train2014 with the rest of val2014 is
train2017 (Detectron, "Setting Up Datasets"); the file names differ. That split is therefore read
with ``only`` and ``without``: see the data set ``coco2014`` in the catalog. A test set has no
annotations: its archives are test2017.zip and image_info_test2017.zip, and its set is
``{annotations: annotations/image_info_test-dev2017.json, images: test2017, labelled: false}``.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from detransfer.console import InputError
from detransfer.data.images import image_sizes
from detransfer.data.index import BOX, OBJECT_TYPES, Index, empty_objects
from detransfer.data.options.coco import CocoSet, Options
from detransfer.data.readers.faults import Faults

log = logging.getLogger(__name__)
ROUNDING = 1.0  # pixels by which an official box may leave its image; such boxes are clipped
KEYS = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}
TEXTS = ("file_name", "name", "supercategory")
NUMBERS = ("id", "width", "height")


def read(root: Path, options: Options) -> Index:
    """Read the sets that the options name.

    ``image_id`` is COCO's; classes are numbered in order of COCO's category ids, which stand in
    ``source_id``; ``superclass`` is the supercategory. Boxes of no area are left out and counted
    under either policy, since the official files have some. Raises InputError, naming file and
    annotation, for everything that is malformed; the option ``on_bad_object`` leaves out malformed
    objects instead, but never an image.
    """
    faults = Faults(options.on_bad_object)
    images, objects = [], []
    classes: pd.DataFrame | None = None
    for split, files in options.sets.items():
        path = root / files.annotations
        content = _choose(root, files, _load(path, files.labelled))
        found = _classes(content["categories"], path)
        if classes is not None and not classes.equals(found):
            raise InputError(f"{path}: its categories differ from those of the sets before it")
        classes = found
        table = _images(root, path, content["images"], files.images, split)
        images.append(table)
        if files.labelled:
            objects.append(_objects(path, content["annotations"], table, classes, faults))
    assert classes is not None  # the options have at least one set
    table = pd.concat(images, ignore_index=True)
    twice = table.loc[table["image_id"].duplicated(), "path"]
    if len(twice):
        raise InputError(f"{root / twice.iloc[0]}: its image id occurs twice in the sets")
    faults.report()
    boxes = pd.concat(objects, ignore_index=True) if objects else empty_objects()
    return Index(table, boxes, classes, root, faults.counts)


def _choose(root: Path, files: CocoSet, content: dict[str, Any]) -> dict[str, Any]:
    """Keep the images that ``only`` and ``without`` leave, and what belongs to them."""
    ids = {entry["id"] for entry in content["images"]}
    left_out: set[Any] = set()
    if files.only is not None:
        wanted = _image_ids(root / files.only)
        if strange := wanted - ids:
            raise InputError(
                f"{root / files.annotations}: has no image {min(strange)}, which {files.only} lists"
            )
        left_out |= ids - wanted
    if files.without is not None:
        left_out |= ids & _image_ids(root / files.without)
    if not left_out:
        return content
    chosen = [
        entry
        for entry in content["annotations"]
        if not (_is_id(entry["image_id"]) and entry["image_id"] in left_out)
    ]
    kept = [entry for entry in content["images"] if entry["id"] not in left_out]
    return {**content, "images": kept, "annotations": chosen}


def _image_ids(path: Path) -> set[Any]:
    return {entry["id"] for entry in _load(path, labelled=False)["images"]}


def _load(path: Path, labelled: bool) -> dict[str, list[dict[str, Any]]]:
    """Read and check the three lists of a file; that of a test set lacks the annotations."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            content = json.load(file, object_hook=_without_outline)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such annotation file; extract it first") from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: line {error.lineno}, column {error.colno}: malformed JSON ({error.msg})"
        ) from None
    except (OSError, ValueError, RecursionError) as error:  # no text; a number of 5,000 digits
        raise InputError(f"{path}: not a readable JSON file ({error})") from None
    if not labelled and isinstance(content, dict):
        content["annotations"] = []
    for key, needed in KEYS.items():
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise InputError(f"{path}: has no list {key!r}; is it an instances file of COCO?")
        for number, entry in enumerate(entries, 1):
            lacks = [k for k in needed if not isinstance(entry, dict) or entry.get(k) is None]
            if lacks:
                name = entry.get("id", "?") if isinstance(entry, dict) else "?"
                raise InputError(f"{path}: entry {number} of {key} (id {name}) lacks {lacks[0]!r}")
    _check_entries(path, content)
    return content


def _check_entries(path: Path, content: dict[str, list[dict[str, Any]]]) -> None:
    """Raise InputError for images and categories whose values cannot be right."""
    for kind in ("images", "categories"):
        for number, entry in enumerate(content[kind], 1):
            wrong = {key for key in TEXTS if not _is_text(entry.get(key, ""))}
            wrong |= {key for key in NUMBERS if not _is_id(entry.get(key, 0))}
            if wrong:
                name = sorted(wrong)[0]
                raise InputError(
                    f"{path}: entry {number} of {kind} (id {entry['id']}): {name} cannot be "
                    f"{entry[name]!r}"
                )
    ids = pd.Series([entry["id"] for entry in content["images"]])
    twice = ids[ids.duplicated()]
    if len(twice):
        raise InputError(f"{path}: image id {twice.iloc[0]} occurs twice")


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
    source: Path,
    entries: list[dict[str, Any]],
    images: pd.DataFrame,
    classes: pd.DataFrame,
    faults: Faults,
) -> pd.DataFrame:
    """Return the object table; boxes [x, y, w, h] become corners, clipped by at most a pixel."""
    ids = [entry["id"] for entry in entries]
    sieve = _Sieve(source, ids, faults)
    repeated = pd.Series([str(number) for number in ids], dtype="object").duplicated().to_numpy()
    sieve.refuse(repeated, "repeated id", "has the id of an annotation before it")
    image_id = _whole_numbers(entries, "image_id")
    sizes = images.set_index("image_id")[["width", "height"]]
    sieve.refuse(~np.isin(image_id, sizes.index), "unknown image", "belongs to an unknown image")
    number = dict(zip(classes["source_id"].astype(int), classes["class_id"], strict=True))
    class_id = pd.Series(_whole_numbers(entries, "category_id")).map(number)
    sieve.refuse(class_id.isna().to_numpy(), "unknown class", "has an unknown category")

    box = _corners(entries, sieve)
    limits = np.tile(sizes.reindex(image_id).to_numpy(float), 2)
    over = np.any((box < -ROUNDING) | (box > limits + ROUNDING), axis=1)
    sieve.refuse(over, "outside the image", "has a box that leaves its image", box, limits)
    box = np.clip(box, 0, limits).astype(np.float32)
    sieve.leave_out_empty(box)

    table = pd.DataFrame(box, columns=BOX)
    table["image_id"], table["class_id"] = image_id, class_id
    table[["difficult", "truncated", "occluded", "group_of"]] = False
    table["crowd"] = _crowds(entries, sieve)
    return table.loc[sieve.kept, list(OBJECT_TYPES)].astype(OBJECT_TYPES).reset_index(drop=True)


def _crowds(entries: list[dict[str, Any]], sieve: _Sieve) -> np.ndarray:
    """Return the flag of every entry, (n,) bool; a refused one counts as unset."""
    given = [entry.get("iscrowd", 0) for entry in entries]
    sound = np.array([type(flag) in (int, bool) and flag in (0, 1) for flag in given], bool)
    wrong = np.flatnonzero(~sound & sieve.kept)
    if len(wrong):
        message = f"has iscrowd {given[wrong[0]]!r}; it should be 0 or 1"
        sieve.refuse(~sound, "unknown flag", message)
    return np.array([ok and bool(flag) for ok, flag in zip(sound, given, strict=True)], bool)


def _whole_numbers(entries: list[dict[str, Any]], key: str) -> np.ndarray:
    """Return one value of every entry; -1 stands for what is no id."""
    values = (entry[key] for entry in entries)
    return np.array([value if _is_id(value) else -1 for value in values], np.int64)


def _corners(entries: list[dict[str, Any]], sieve: _Sieve) -> np.ndarray:
    """Return (n, 4) corners x1, y1, x2, y2; refused ones may hold anything."""
    sound = np.array([_is_box(entry["bbox"]) for entry in entries], bool)
    if not sound.all():
        got = entries[int(np.argmin(sound))]["bbox"]
        sieve.refuse(~sound, "not a box", f"has no bbox [x, y, width, height]: {got!r}")
    rows = [entry["bbox"] if ok else [np.nan] * 4 for entry, ok in zip(entries, sound, strict=True)]
    box = np.array(rows, float).reshape(-1, 4)
    sieve.refuse(~np.isfinite(box).all(1), "not finite", "has a box that is not finite", box)
    inverted = np.any(box[:, 2:] < 0, axis=1)
    sieve.refuse(inverted, "inverted", "has an inverted box [x, y, w, h]", box)
    box[:, 2:] += box[:, :2]
    return box


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31  # the index holds int32


def _is_text(value: Any) -> bool:
    # JSON can write half of a character, such as "\udc80", which no table can hold.
    if not isinstance(value, str):
        return False
    return value.isascii() or not any("\ud800" <= sign <= "\udfff" for sign in value)


def _is_box(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(type(v) is float or (type(v) is int and abs(v) < 2**31) for v in value)
    )


class _Sieve:
    """Which annotations of a file are kept, after one check after another."""

    def __init__(self, source: Path, ids: list[Any], faults: Faults) -> None:
        self.source, self.ids, self.faults = source, ids, faults
        self.kept = np.ones(len(ids), bool)

    def refuse(
        self,
        wrong: np.ndarray,
        kind: str,
        message: str,
        box: np.ndarray | None = None,
        limits: np.ndarray | None = None,
    ) -> None:
        """Hand the annotations that are ``wrong``, and were kept so far, to the policy."""
        rows = np.flatnonzero(wrong & self.kept)
        if not len(rows):
            return
        row = rows[0]
        details = "" if box is None else f" {[round(float(v), 2) for v in box[row]]}"
        if limits is not None:
            details += f" of {limits[row][0]:.0f} x {limits[row][1]:.0f} pixels"
        where = f"{self.source}: annotation {self.ids[row]}"
        self.faults.bad(kind, f"{where} {message}{details}", len(rows))
        self.kept[rows] = False

    def leave_out_empty(self, box: np.ndarray) -> None:
        """Leave out the boxes of no area whatever the policy: the official files have some."""
        rows = np.flatnonzero(~(box[:, 2:] > box[:, :2]).all(1) & self.kept)
        if len(rows):
            where = f"{self.source}: annotation {self.ids[rows[0]]}"
            self.faults.leave_out("no area", f"{where} has a box of no area", len(rows))
            self.kept[rows] = False
