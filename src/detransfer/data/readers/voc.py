"""PASCAL VOC: one XML file an image, one text file a set (VOCdevkit, 2007 to 2012).

Folders under the root: ``VOCdevkit/VOC<year>/{Annotations,ImageSets/Main,JPEGImages}``. A folder of
your own that holds these three itself is read with ``devkit: .`` and sets such as ``./train``.
Coordinates are 1-based and inclusive in the XML files (VOCdevkit 2007 documentation, section 4).
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from detransfer.console import InputError
from detransfer.data.images import image_sizes
from detransfer.data.index import BOX, OBJECT_TYPES, Index, empty_objects
from detransfer.data.options.voc import SUPERCLASS, Options
from detransfer.data.readers.faults import BadObject, Faults
from detransfer.data.readers.lists import read_names
from detransfer.strict import suggest

OFFICIAL_NAME = re.compile(r"(?:(\d{4})_)?(\d{6})")
CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class _Image:
    """One annotated image: its set, its files and what the XML says of it."""

    split: str
    folder: str
    name: str
    size: tuple[int, ...]
    objects: list[dict[str, Any]]


def read(root: Path, options: Options) -> Index:
    """Read the sets that the options name.

    ``source_id`` of a class is its 1-based place in ``classes``: the value that stands for it in
    VOC's segmentation masks. ``image_id`` is 000123 -> 123 and 2008_000123 -> 2008000123; where
    names are of another form, or two folders use one name, images are numbered in order of
    (folder, name). Raises InputError, naming file and object, for everything that is malformed;
    the option ``on_bad_object`` leaves out malformed objects instead, but never an image.
    """
    faults = Faults(options.on_bad_object)
    kept = tuple(name for name in options.classes if options.keep is None or name in options.keep)
    devkit = root / options.devkit
    images = [
        _read_image(devkit, split, place.split("/")[0], name, options.classes, faults)
        for split, place in options.sets.items()
        for name in _names(devkit, split, place)
    ]
    _one_split_each(devkit, images)
    ids = image_ids([(image.folder, image.name) for image in images])
    folders = [PurePosixPath(options.devkit, image.folder, "JPEGImages") for image in images]
    files = [f"{image.name}{options.suffix}" for image in images]
    paths = [f"{folder}/{file}" for folder, file in zip(folders, files, strict=True)]
    sizes = image_sizes(root, paths)
    _check_sizes(devkit, images, sizes)
    table = pd.DataFrame(
        {
            "image_id": np.array(ids, np.int32),
            "path": paths,
            "width": sizes[:, 0],
            "height": sizes[:, 1],
            "split": [image.split for image in images],
        }
    )
    faults.report()
    objects = _object_table(images, ids, kept)
    return Index(table, objects, _class_table(options, kept), root, faults.counts)


def image_ids(places: list[tuple[str, str]]) -> list[int]:
    """Return one int32 number for each (folder, name); see :func:`read`."""
    matches = [OFFICIAL_NAME.fullmatch(name) for _, name in places]
    ids = [int((m[1] or "") + m[2]) for m in matches if m]
    if len(set(ids)) == len(places) and all(number < 2**31 for number in ids):
        return ids
    order = {place: number for number, place in enumerate(sorted(places))}
    return [order[place] for place in places]


def _names(devkit: Path, split: str, place: str) -> list[str]:
    folder, name = place.split("/")
    lists = devkit / folder / "ImageSets" / "Main"
    path = lists / f"{name}.txt"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in lists.glob("*.txt"))) or "none"
        raise InputError(f"{path}: split {split!r} has no such list; the folder has: {known}")
    return list(read_names(path, f"list of split {split!r}"))


def _one_split_each(devkit: Path, images: list[_Image]) -> None:
    seen: dict[tuple[str, str], str] = {}
    for image in images:
        first = seen.setdefault((image.folder, image.name), image.split)
        if first != image.split:
            raise InputError(
                f"{devkit / image.folder}: image {image.name} is in {first!r} and in "
                f"{image.split!r}; an image belongs to one split"
            )


def _read_image(
    devkit: Path, split: str, folder: str, name: str, classes: tuple[str, ...], faults: Faults
) -> _Image:
    path = devkit / folder / "Annotations" / f"{name}.xml"
    try:
        tree = ET.parse(path).getroot()
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such annotation; is the archive whole?") from None
    except ET.ParseError as error:
        line, column = error.position
        raise InputError(f"{path}: line {line}, column {column}: malformed XML ({error})") from None
    except (OSError, ValueError, LookupError) as error:  # ValueError, LookupError: the encoding
        raise InputError(f"{path}: not readable ({error})") from error
    try:
        size = tuple(int(_number(tree, f"size/{side}", str(path))) for side in ("width", "height"))
    except BadObject as fault:
        raise InputError(str(fault)) from None
    objects = list(_objects(tree, str(path), size, classes, faults))
    return _Image(split, folder, name, size, objects)


def _objects(
    tree: ET.Element, path: str, size: tuple[int, ...], classes: tuple[str, ...], faults: Faults
) -> Iterator[dict[str, Any]]:
    for number, element in enumerate(tree.findall("object"), 1):
        try:
            row = _object(element, f"{path}: object {number}", classes)
            _check_box(f"{path}: box {number}", row, size)
        except BadObject as fault:
            faults.bad(fault.kind, str(fault))
            continue
        yield {**row, "x1": row["x1"] - 1, "y1": row["y1"] - 1}


def _object(element: ET.Element, where: str, classes: tuple[str, ...]) -> dict[str, Any]:
    """Return name, corners as they stand in the file, and flags; raises BadObject."""
    name = (element.findtext("name") or "").strip()
    if name not in classes:
        hint = suggest(name, list(classes))
        raise BadObject("unknown class", f"{where}: unknown class {name!r}{hint}")
    corners = [_number(element, f"bndbox/{corner}", where) for corner in CORNERS]
    flags = {flag: _flag(element, flag, where) for flag in ("difficult", "truncated", "occluded")}
    return {"name": name, **dict(zip(BOX, corners, strict=True)), **flags}


def _check_box(where: str, row: dict[str, Any], size: tuple[int, ...]) -> None:
    """Raise BadObject unless 1 <= low <= high <= side in both axes (1-based, inclusive)."""
    for axis, side, limit in zip("xy", ("width", "height"), size, strict=True):
        low, high = row[f"{axis}1"], row[f"{axis}2"]
        if low > high:
            message = f"{where} is inverted ({axis}1={low:g}, {axis}2={high:g})"
            raise BadObject("inverted", message)
        if low < 1:
            edge = f"{axis}1={low:g}, pixels count from 1"
            raise BadObject("outside the image", f"{where} leaves the image ({edge})")
        if high > limit:
            edge = f"{axis}2={high:g}, {side}={limit}"
            raise BadObject("outside the image", f"{where} leaves the image ({edge})")


def _number(element: ET.Element, tag: str, where: str) -> float:
    text = element.findtext(tag)
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadObject("not a number", f"{where}: <{tag}> should be a number, got {text!r}")
    return value


def _flag(element: ET.Element, tag: str, where: str) -> bool:
    text = (element.findtext(tag) or "0").strip()
    if text not in ("0", "1"):
        raise BadObject("unknown flag", f"{where}: <{tag}> should be 0 or 1, got {text!r}")
    return text == "1"


def _check_sizes(devkit: Path, images: list[_Image], sizes: np.ndarray) -> None:
    for image, size in zip(images, sizes, strict=True):
        if image.size != tuple(size):
            path = devkit / image.folder / "Annotations" / f"{image.name}.xml"
            stated, found = (f"{width} x {height}" for width, height in (image.size, size))
            raise InputError(f"{path}: says {stated} pixels, but the image has {found}")


def _object_table(images: list[_Image], ids: list[int], kept: tuple[str, ...]) -> pd.DataFrame:
    number = {name: row for row, name in enumerate(kept)}
    rows = [
        {**item, "image_id": image_id, "class_id": number[item["name"]]}
        for image, image_id in zip(images, ids, strict=True)
        for item in image.objects
        if item["name"] in number
    ]
    if not rows:
        return empty_objects()
    table = pd.DataFrame(rows).assign(crowd=False, group_of=False)
    return table[list(OBJECT_TYPES)].astype(OBJECT_TYPES)


def _class_table(options: Options, kept: tuple[str, ...]) -> pd.DataFrame:
    superclass = SUPERCLASS if options.superclasses is None else options.superclasses
    return pd.DataFrame(
        {
            "class_id": range(len(kept)),
            "name": kept,
            "source_id": [str(options.classes.index(name) + 1) for name in kept],
            "superclass": [superclass.get(name, "") for name in kept],
        }
    )
