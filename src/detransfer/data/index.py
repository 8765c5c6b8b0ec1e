"""The index: what every data set looks like after its reader, whatever its official format.

Three files in one folder, with one writer and one reader:

``images.parquet``
    one row an image: ``image_id`` int32, ``path`` (relative to the extracted data set), ``width``,
    ``height`` int32 (pixels), ``split``, and where they apply ``class_id`` int32 (classification)
    and ``mask`` (path of the segmentation mask).
``objects.parquet``
    one row an object: ``image_id``, ``class_id`` int32, ``x1 y1 x2 y2`` float32 in pixels,
    **0-based and half-open** (a box that covers the whole image is 0, 0, width, height), and the
    flags ``difficult truncated occluded crowd group_of``.
``classes.csv``
    ``class_id`` (0-based, dense), ``name``, ``source_id``, ``superclass``.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from detransfer.console import InputError
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
OPTIONAL_IMAGE_TYPES = {"class_id": "int32", "mask": "str"}
OBJECT_TYPES = {
    "image_id": "int32",
    "class_id": "int32",
    **dict.fromkeys(BOX, "float32"),
    **dict.fromkeys(FLAGS, "bool"),
}
CLASS_COLUMNS = ["class_id", "name", "source_id", "superclass"]


@dataclass(frozen=True)
class Index:
    """A data set in memory: its three tables (see the module) and the folder of its files."""

    images: pd.DataFrame
    objects: pd.DataFrame
    classes: pd.DataFrame
    root: Path

    def split(self, *names: str) -> Index:
        """Return the part of the data set that belongs to the named splits.

        Raises InputError when a split does not exist or holds no image.
        """
        for name in names:
            if not (self.images["split"] == name).any():
                known = ", ".join(sorted(self.images["split"].unique())) or "none"
                raise InputError(f"{self.root}: split {name!r} is empty; the index has: {known}")
        return self._of(self.images[self.images["split"].isin(names)])

    def sample(self, count: int) -> Index:
        """Return ``count`` images at most, spread over the data set, the same in every call."""
        rows = np.random.default_rng(0).permutation(len(self.images))[:count]
        return self._of(self.images.iloc[np.sort(rows)])

    def _of(self, images: pd.DataFrame) -> Index:
        objects = self.objects[self.objects["image_id"].isin(images["image_id"])]
        return Index(
            images.reset_index(drop=True), objects.reset_index(drop=True), self.classes, self.root
        )

    def digest(self) -> str:
        """Return a SHA-256 over the rows of all three tables (not over the image bytes)."""
        total = hashlib.sha256()
        for table in (self.images, self.objects, self.classes):
            total.update(",".join(table.columns).encode())
            total.update(pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes())
        return total.hexdigest()


def empty_objects() -> pd.DataFrame:
    """Return the object table of a data set without boxes."""
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in OBJECT_TYPES.items()})


def write_index(folder: Path, index: Index) -> None:
    """Check the tables and write them; the three files appear together at the end.

    Raises InputError for ids that repeat or lead nowhere, and for boxes that are empty or leave
    their image. Readers give better messages (they know the file); this is the last door.
    """
    images = _typed(index.images, IMAGE_TYPES, OPTIONAL_IMAGE_TYPES)
    objects = _typed(index.objects, OBJECT_TYPES, {})
    check_tables(images, objects, index.classes)
    metadata = {b"root": os.path.relpath(index.root.resolve(), folder.resolve()).encode()}
    for name, table in (("images", images), ("objects", objects)):
        arrow = pa.Table.from_pandas(table, preserve_index=False)
        arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), **metadata})
        with atomic(folder / f"{name}.parquet") as temporary:
            pq.write_table(arrow, temporary)
    with atomic(folder / "classes.csv") as temporary:
        index.classes[CLASS_COLUMNS].to_csv(temporary, index=False)


def read_index(folder: Path) -> Index:
    """Read an index; the folder of the images is found relative to the index itself.

    Raises InputError when a file is missing or not what :func:`write_index` writes.
    """
    try:
        tables = [pq.read_table(folder / f"{name}.parquet") for name in ("images", "objects")]
        texts = dict.fromkeys(CLASS_COLUMNS[1:], str)  # a class may be called 007
        classes = pd.read_csv(folder / "classes.csv", keep_default_na=False, dtype=texts)
        root = (tables[0].schema.metadata or {})[b"root"].decode()
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{folder}: not a readable index ({error}); make it again") from error
    images, objects = (table.to_pandas() for table in tables)
    return Index(images, objects, classes, Path(os.path.normpath(folder / root)))


def check_tables(images: pd.DataFrame, objects: pd.DataFrame, classes: pd.DataFrame) -> None:
    """Raise InputError at the first row that breaks a rule of the index."""
    if images.empty:
        raise InputError("the index has no image; is the data set extracted where it should be?")
    if not images["image_id"].is_unique:
        raise InputError("two images share one image_id")
    if list(classes["class_id"]) != list(range(len(classes))):
        raise InputError("class ids are not 0, 1, 2, ...")
    sizes = images.set_index("image_id").loc[:, ["path", "width", "height"]]
    if not objects["image_id"].isin(sizes.index).all():
        raise InputError("an object belongs to an image that the index does not have")
    if not objects["class_id"].between(0, len(classes) - 1).all():
        raise InputError("an object has a class that classes.csv does not list")
    box = objects[BOX].to_numpy()
    size = sizes.loc[objects["image_id"], ["width", "height"]].to_numpy()
    inside = (box[:, :2] >= 0).all(1) & (box[:, 2:] <= size).all(1)
    wrong = np.flatnonzero(~(inside & (box[:, 2:] > box[:, :2]).all(1)))
    if len(wrong):
        row = objects.iloc[wrong[0]]
        path = sizes.loc[row["image_id"], "path"]
        raise InputError(
            f"{path}: box {[float(v) for v in row[BOX]]} is empty, inverted or leaves the image "
            f"({size[wrong[0]][0]} x {size[wrong[0]][1]})"
        )


def _typed(table: pd.DataFrame, required: dict[str, str], optional: dict[str, str]) -> pd.DataFrame:
    types = {**required, **{name: kind for name, kind in optional.items() if name in table}}
    return table.loc[:, list(types)].astype(types)
