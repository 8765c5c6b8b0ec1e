"""The index: what every data set looks like after its reader, whatever its official format.

Files in one folder, with one writer and one reader, the last two where a data set has them:

``images.parquet``
    one row an image: ``image_id`` int32, ``path`` (relative to the extracted data set), ``width``,
    ``height`` int32 (pixels), ``split``, and where they apply ``class_id`` int32 (classification)
    and ``mask`` (path of the segmentation mask); ``fingerprint`` int64, which changes with the
    image's bytes (:mod:`detransfer.data.fingerprint`).
``objects.parquet``
    one row an object: ``image_id``, ``class_id`` int32, ``x1 y1 x2 y2`` float32 in pixels,
    **0-based and half-open** (a box that covers the whole image is 0, 0, width, height), and the
    flags ``difficult truncated occluded crowd group_of``. Rows stand in the order of their images,
    so that the objects of an image are one slice (:attr:`Index.offsets`).
``classes.csv``
    ``class_id`` (0-based, dense), ``name``, ``source_id``, ``superclass``.
``negatives.parquet``
    classes that people confirmed to be absent: ``image_id``, ``class_id`` int32.
``class_map.csv``
    classes of other data sets that mean one of these: ``source_id`` there, ``class_id`` here.

Beside each parquet file lies a copy that is opened by mapping it (:mod:`detransfer.data.storage`).
Everything on the way from the files to one image is done on whole columns: OpenImages has 14.6
million objects.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from detransfer.console import InputError
from detransfer.data.storage import read_table, write_table
from detransfer.files import atomic

BOX = ["x1", "y1", "x2", "y2"]
FLAGS = ["difficult", "truncated", "occluded", "crowd", "group_of"]
IMAGE_TYPES = {
    "image_id": "int32",
    "path": "str",
    "width": "int32",
    "height": "int32",
    "split": "str",
}
OPTIONAL_IMAGE_TYPES = {"class_id": "int32", "mask": "str", "fingerprint": "int64"}
OBJECT_TYPES = {
    "image_id": "int32",
    "class_id": "int32",
    **dict.fromkeys(BOX, "float32"),
    **dict.fromkeys(FLAGS, "bool"),
}
NEGATIVE_TYPES = {"image_id": "int32", "class_id": "int32"}
CLASS_COLUMNS = ["class_id", "name", "source_id", "superclass"]
CLASS_TYPES = dict.fromkeys(CLASS_COLUMNS[1:], "str")  # a class may be called 007
CHECKED = 2**20  # boxes checked at a time, which bounds the memory


@dataclass(frozen=True)
class Index:
    """A data set in memory: its three tables (see the module) and the folder of its files."""

    images: pd.DataFrame
    objects: pd.DataFrame
    classes: pd.DataFrame
    root: Path
    dropped: dict[str, int] = field(default_factory=dict)  # faulty objects left out, by fault
    negatives: pd.DataFrame | None = None
    class_map: pd.DataFrame | None = None

    @property
    def offsets(self) -> np.ndarray:
        """Where the objects of each image begin: int64 of shape (images + 1,).

        The objects of the image in row i are ``objects[offsets[i]:offsets[i + 1]]``. Raises
        ValueError when the objects are not in the order of their images (see :meth:`in_order`).
        """
        if self._found is None:
            raise ValueError("the objects are not in the order of their images")
        return self._found

    @cached_property
    def _found(self) -> np.ndarray | None:
        return _offsets(self.images, self.objects)

    def in_order(self) -> Index:
        """Return the index with its objects in the order of their images.

        Objects of one image keep their order; those of no image come first.
        """
        if self._found is not None:
            return self
        order = np.argsort(_image_rows(self.images, self.objects), kind="stable")
        return replace(self, objects=self.objects.iloc[order].reset_index(drop=True))

    def split(self, *names: str) -> Index:
        """Return the part of the data set that belongs to the named splits.

        Raises InputError when a split does not exist or holds no image.
        """
        for name in names:
            if not (self.images["split"] == name).any():
                known = ", ".join(sorted(self.images["split"].unique())) or "none"
                raise InputError(f"{self.root}: split {name!r} is empty; the index has: {known}")
        return self._part(np.flatnonzero(self.images["split"].isin(names)))

    def counted(self) -> Index:
        """Return the images with an object that counts in evaluation; all where there is none."""
        index = self.in_order()
        counts = ~index.objects[["difficult", "crowd"]].any(axis=1)
        rows = np.unique(_image_rows(index.images, index.objects[counts]))
        return index._part(rows) if len(rows) else index

    def sample(self, count: int) -> Index:
        """Return ``count`` images at most, spread over the data set, the same in every call."""
        rows = np.random.default_rng(0).permutation(len(self.images))[:count]
        return self._part(np.sort(rows))

    def _part(self, rows: np.ndarray) -> Index:
        """Return the images in these ascending rows; neighbours are not copied."""
        index = self.in_order()
        images, offsets = index.images, index.offsets
        chosen = np.zeros(len(images), bool)
        chosen[rows] = True
        negatives = index.negatives
        if negatives is not None:
            negatives = negatives[chosen[_image_rows(images, negatives)]].reset_index(drop=True)
        if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
            images = images.iloc[rows[0] : rows[-1] + 1]
            objects = index.objects.iloc[offsets[rows[0]] : offsets[rows[-1] + 1]]
        else:
            images, objects = images[chosen], index.objects[np.repeat(chosen, np.diff(offsets))]
        return replace(
            index,
            images=images.reset_index(drop=True),
            objects=objects.reset_index(drop=True),
            negatives=negatives,
        )

    def digest(self) -> str:
        """Return a SHA-256 over the rows of all tables, the images' fingerprints among them.

        It is the same before and after writing.
        """
        total = hashlib.sha256()
        for table in _typed_tables(self.in_order()).values():
            for name, column in table.items():
                total.update(f"{name} {len(table)}\n".encode())
                for part in _content(column):
                    total.update(part)
        return total.hexdigest()


def empty_objects() -> pd.DataFrame:
    """Return the object table of a data set without boxes."""
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in OBJECT_TYPES.items()})


def write_index(folder: Path, index: Index) -> None:
    """Check the tables and write them, the objects in the order of their images.

    Raises InputError for ids that repeat or lead nowhere, and for boxes that are empty or leave
    their image. Readers give better messages (they know the file); this is the last door.
    """
    tables = _typed_tables(index)
    check_tables(tables["images"], tables["objects"], tables["classes"], tables.get("negatives"))
    tables["objects"] = replace(index, objects=tables["objects"]).in_order().objects
    classes = tables.pop("classes")
    metadata = {
        b"root": os.path.relpath(index.root.resolve(), folder.resolve()).encode(),
        b"dropped": json.dumps(index.dropped, sort_keys=True).encode(),
    }
    if index.negatives is None:
        for kind in ("parquet", "arrow"):
            (folder / f"negatives.{kind}").unlink(missing_ok=True)
    for name, table in tables.items():
        write_table(folder / f"{name}.parquet", table, metadata)
    _write_texts(folder / "classes.csv", classes)
    _write_texts(folder / "class_map.csv", index.class_map)


def _write_texts(path: Path, table: pd.DataFrame | None) -> None:
    """Write a small table as CSV; one that a data set does not have leaves no file behind."""
    if table is None:
        path.unlink(missing_ok=True)
        return
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False)


def read_index(folder: Path) -> Index:
    """Read an index; the folder of the images is found relative to the index itself.

    Raises InputError when a file is missing or not what :func:`write_index` writes.
    """
    try:
        images, metadata = read_table(folder / "images.parquet")
        objects, _ = read_table(folder / "objects.parquet")
        absent = folder / "negatives.parquet"
        negatives = read_table(absent)[0] if absent.is_file() else None
        classes = pd.read_csv(folder / "classes.csv", keep_default_na=False, dtype=CLASS_TYPES)
        mapped = folder / "class_map.csv"
        class_map = pd.read_csv(mapped, dtype={"source_id": "str"}) if mapped.is_file() else None
        root = Path(os.path.normpath(folder / metadata[b"root"].decode()))
        dropped = json.loads(metadata.get(b"dropped", b"{}"))
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{folder}: not a readable index ({error}); make it again") from error
    return Index(images, objects, classes, root, dropped, negatives, class_map)


def check_tables(
    images: pd.DataFrame,
    objects: pd.DataFrame,
    classes: pd.DataFrame,
    negatives: pd.DataFrame | None = None,
) -> None:
    """Raise InputError at the first row that breaks a rule of the index."""
    for message in broken_rules(images, objects, classes, negatives):
        raise InputError(message)


def broken_rules(
    images: pd.DataFrame,
    objects: pd.DataFrame,
    classes: pd.DataFrame,
    negatives: pd.DataFrame | None = None,
) -> Iterator[str]:
    """Yield every break of a rule of the index: of the tables as a whole, or else of a row."""
    whole = {
        "the index has no image; is the data set extracted where it should be?": images.empty,
        "two images share one image_id": not images["image_id"].is_unique,
        "class ids are not 0, 1, 2, ...": list(classes["class_id"]) != list(range(len(classes))),
    }
    broken = [message for message, wrong in whole.items() if wrong]
    yield from broken
    if broken:
        return
    tables = {"an image": images, "an object": objects, "a verified negative": negatives}
    for name, table in tables.items():
        if table is None or "class_id" not in table:
            continue
        rows = _image_rows(images, table)
        listed = table["class_id"].between(0, len(classes) - 1).to_numpy()
        for wrong, message in (
            (rows < 0, "belongs to an image that the index does not have"),
            (~listed, "has a class that classes.csv does not list"),
        ):
            for row in np.flatnonzero(wrong):
                yield f"{name} {message} (row {row} of its table)"
        if table is objects:
            yield from _wrong_boxes(images, objects, rows)


def _wrong_boxes(images: pd.DataFrame, objects: pd.DataFrame, rows: np.ndarray) -> Iterator[str]:
    """Yield what is wrong with the boxes whose image, the row in ``rows``, is known."""
    sizes = images[["width", "height"]].to_numpy()
    for start in range(0, len(objects), CHECKED):
        part = slice(start, start + CHECKED)
        box, size = objects[BOX].iloc[part].to_numpy(), sizes[rows[part]]
        inside = (box[:, :2] >= 0).all(1) & (box[:, 2:] <= size).all(1)
        sound = inside & (box[:, 2:] > box[:, :2]).all(1)
        for row in np.flatnonzero(~sound & (rows[part] >= 0)):
            width, height = size[row]
            yield (
                f"{images['path'].iloc[rows[start + row]]}: box {[float(v) for v in box[row]]} is "
                f"empty, inverted or leaves the image ({width} x {height})"
            )


def _image_rows(images: pd.DataFrame, table: pd.DataFrame) -> np.ndarray:
    """Return the row of its image for each row of a table, int32; -1 where there is none."""
    ids = table["image_id"].to_numpy()
    starts = _run_starts(ids)  # rows of one image mostly follow each other: look up once
    return np.repeat(_find(images, ids[starts]), np.diff(starts, append=len(ids)))


def _offsets(images: pd.DataFrame, objects: pd.DataFrame) -> np.ndarray | None:
    """Return :attr:`Index.offsets`, or None for objects that are not in order."""
    ids = objects["image_id"].to_numpy()
    starts = _run_starts(ids)
    rows = _find(images, ids[starts])
    if (rows < 0).any() or (np.diff(rows) <= 0).any():
        return None
    offsets = np.zeros(len(images) + 1, np.int64)
    offsets[rows + 1] = np.diff(starts, append=len(ids))
    return np.cumsum(offsets)


def _find(images: pd.DataFrame, ids: np.ndarray) -> np.ndarray:
    """Return the row of the image with each id, int32; -1 where there is none.

    The ids of the images are unique.
    """
    known = images["image_id"].to_numpy()
    if len(known) and np.array_equal(known, np.arange(known[0], known[0] + len(known))):
        rows = ids.astype(np.int64) - known[0]  # consecutive ids need no look-up
        return np.where((rows >= 0) & (rows < len(known)), rows, -1).astype(np.int32)
    return pd.Index(known).get_indexer(ids).astype(np.int32)


def _run_starts(values: np.ndarray) -> np.ndarray:
    """Return where runs of equal neighbours begin."""
    if not len(values):
        return np.empty(0, np.int64)
    return np.append(0, np.flatnonzero(values[1:] != values[:-1]) + 1)


def _content(column: pd.Series) -> Iterator[memoryview]:
    """Yield the bytes that make up a column: its numbers, or the lengths and text of its texts."""
    if column.dtype.kind in "biuf":
        yield memoryview(np.ascontiguousarray(column.to_numpy())).cast("B")
        return
    texts = pa.array(column, type=pa.large_string(), from_pandas=True)
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    lengths = pc.fill_null(pc.binary_length(texts), -1)
    yield memoryview(np.ascontiguousarray(lengths.to_numpy(zero_copy_only=False))).cast("B")
    texts = texts.drop_null()
    _, ends, text = texts.buffers()
    if text is not None and len(texts):
        ends = np.frombuffer(ends, np.int64)[texts.offset : texts.offset + len(texts) + 1]
        yield memoryview(text)[ends[0] : ends[-1]]


def _typed_tables(index: Index) -> dict[str, pd.DataFrame]:
    """Return the tables by file name, with exactly the columns and types of the files."""
    tables = {
        "images": _typed(index.images, IMAGE_TYPES, OPTIONAL_IMAGE_TYPES),
        "objects": _typed(index.objects, OBJECT_TYPES, {}),
        "classes": _typed(index.classes, {"class_id": "int64", **CLASS_TYPES}, {}),
    }
    if index.negatives is not None:
        tables["negatives"] = _typed(index.negatives, NEGATIVE_TYPES, {})
    return tables


def _typed(table: pd.DataFrame, required: dict[str, str], optional: dict[str, str]) -> pd.DataFrame:
    types = {**required, **{name: kind for name, kind in optional.items() if name in table}}
    return table.loc[:, list(types)].astype(types)
