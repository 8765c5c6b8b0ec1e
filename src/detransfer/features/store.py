"""Features on disk: one folder a data set and backbone, one row an image, one file a layer.

``<layer>.npy``
    float32 (n, dimension); row i is image i.
``images.parquet``
    the images of the index in that order.
``features.json``
    what they are of (digests of the index, the weights and the view) and the checksums.

A layer of 50,176 numbers is never in memory whole: rows are appended as they come and mapped when
they are read. An unfinished recording lies in a state folder that its identity names, with a mark
of how many rows are safe; started again it goes on from there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from detransfer.console import InputError
from detransfer.data.index import Index
from detransfer.files import sha256, write_json
from detransfer.locks import sole_writer

HEADER, MARK, IMAGES = "features.json", "progress.json", "images.parquet"
KNOWN_IMAGE_COLUMNS = ("image_id", "path", "width", "height", "split", "class_id")


class FeatureWriter:
    """Appends rows to all layers of an unfinished recording in ``folder``; goes on where it ended.

    ``rows`` says how many images are recorded already. Whoever makes a writer keeps other processes
    out of the folder before, and until the end (:func:`detransfer.locks.sole_writer`).
    """

    def __init__(self, folder: Path, images: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.images = folder, images
        mark = folder / MARK
        done: dict[str, Any] = json.loads(mark.read_text()) if mark.is_file() else {}
        self.rows = int(done.get("rows", 0))
        self.dimensions: dict[str, int] = done.get("dimensions", {})
        self._files: dict[str, IO[bytes]] = {}
        for name, dimension in self.dimensions.items():
            self._open(name, dimension)

    def append(self, features: Mapping[str, np.ndarray]) -> None:
        """Append the next images' rows: float32 (k, dimension) for each layer."""
        for name, values in features.items():
            if name not in self._files:
                self.dimensions[name] = values.shape[1]
                self._open(name, values.shape[1])
            self._files[name].write(np.ascontiguousarray(values, np.float32).data)
        self.rows += len(next(iter(features.values())))

    def mark(self) -> None:
        """Make sure that all rows so far survive whatever happens."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        write_json(self.folder / MARK, {"rows": self.rows, "dimensions": self.dimensions})

    def finish(self, target: Path, images: pd.DataFrame, header: Mapping[str, Any]) -> None:
        """Put the whole recording at ``target``, with checksums, and remove the unfinished one."""
        self.mark()
        for file in self._files.values():
            file.close()
        layers = {
            name: {"dimension": dimension, "sha256": sha256(self._path(name))}
            for name, dimension in self.dimensions.items()
        }
        table = images[[name for name in KNOWN_IMAGE_COLUMNS if name in images]]
        table.to_parquet(self.folder / IMAGES, index=False)
        write_json(self.folder / HEADER, {**header, "images": len(images), "layers": layers})
        (self.folder / MARK).unlink()
        aside = target.with_name(f".{target.name}.whole")
        with sole_writer(target):  # another recording's writer has another folder
            for left in (aside, target):
                shutil.rmtree(left, ignore_errors=True)
            shutil.move(self.folder, aside)  # from another disk, perhaps: nothing is atomic there
            aside.rename(target)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _open(self, name: str, dimension: int) -> None:
        """Open a layer's file behind its last safe row, writing the header of a new one."""
        path = self._path(name)
        path.touch()
        file = path.open("r+b")
        shape = {"descr": "<f4", "fortran_order": False, "shape": (self.images, dimension)}
        np.lib.format.write_array_header_1_0(file, shape)
        file.seek(4 * dimension * self.rows, os.SEEK_CUR)
        file.truncate()
        self._files[name] = file


@dataclass(frozen=True)
class Features:
    """A finished recording: where it lies, its images in order, and its header."""

    folder: Path
    images: pd.DataFrame
    header: dict[str, Any]

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(self.header["layers"])

    def layer(self, name: str) -> np.ndarray:
        """Map the rows (n, dimension) float32 of a layer.

        Raises InputError for a layer that was not recorded, and for a file that is not the one
        that was.
        """
        path = self.folder / f"{name}.npy"
        if name not in self.header["layers"]:
            raise InputError(
                f"{self.folder}: has no layer {name!r}, only {', '.join(self.layers)}; name one of "
                "these, or record it (scripts/extract_detector_features.py --layers), if the "
                "network has it"
            )
        if not path.is_file() or sha256(path) != self.header["layers"][name]["sha256"]:
            raise InputError(f"{path}: is lost or damaged; delete {self.folder}, record it again")
        values: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        return values

    def check_source(self, index: Index, weights: Path) -> None:
        """Raise InputError unless these are features of this index, by these weights."""
        part = index.split(*self.header["splits"])
        for what, place, now in (
            ("index", index.root, part.digest()),
            ("weights", weights, sha256(weights)),
        ):
            then = self.header[f"{what}_digest"]
            if now != then:
                raise InputError(
                    f"{self.folder}: these features are of other {what} ({then[:12]}) than {place} "
                    f"({now[:12]}); delete the folder and record them again"
                )


def open_features(folder: Path) -> Features:
    """Open a finished recording; raises InputError for a folder that holds none."""
    try:
        header = json.loads((folder / HEADER).read_text())
        images = pd.read_parquet(folder / IMAGES)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(
            f"{folder}: holds no features ({error}); record them with scripts/extract_features.py"
        ) from error
    if len(images) != header["images"]:
        raise InputError(f"{folder}: {IMAGES} has other images than its features; record again")
    return Features(folder, images, header)


def rows_of(features: Features, splits: Sequence[str]) -> np.ndarray:
    """Return the rows of the images of some splits; raises InputError where there are none."""
    rows = np.flatnonzero(features.images["split"].isin(splits))
    if not len(rows):
        raise InputError(
            f"{features.folder}: no image of {', '.join(splits)}; recorded are "
            f"{', '.join(features.header['splits'])}"
        )
    return rows
