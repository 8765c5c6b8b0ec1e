"""The pixels of every image by their distance to the void: kept in one table, scored in any band.

From this table trimaps of all widths, and any resample of the images, can be scored without the
predictions. ``counts`` are those of :mod:`detransfer.segmentation.scores`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from detransfer.console import InputError
from detransfer.files import atomic

WIDTHS = 40  # the widest trimap of Figure 4, pixels
FAR = WIDTHS + 1  # the distance of all pixels outside it
CELL_TYPES = {
    "image_id": "int32",
    "distance": "uint8",
    "truth": "uint8",
    "predicted": "uint8",
    "pixels": "int32",
}


@dataclass(frozen=True)
class Confusion:
    """The pixels of each image by distance to the void, true class and predicted class.

    ``cells`` has one row (``CELL_TYPES``) for each combination that occurs; distances are those of
    :func:`detransfer.segmentation.trimap.narrowest_trimap`. ``image_ids`` also has the images
    without any labelled pixel, which have no row.
    """

    image_ids: np.ndarray
    classes: tuple[str, ...]
    cells: pd.DataFrame

    def counts(self) -> np.ndarray:
        """Return counts by image and distance: int64 (images, FAR, classes, 3)."""
        shape = (len(self.image_ids), FAR, len(self.classes))
        order = np.argsort(self.image_ids)
        ids = self.cells["image_id"].to_numpy()
        rows = order[np.searchsorted(self.image_ids, ids, sorter=order)]
        place = rows * FAR + self.cells["distance"].to_numpy(np.int64) - 1
        truth, predicted = (self.cells[name].to_numpy(np.int64) for name in ("truth", "predicted"))
        pixels = self.cells["pixels"].to_numpy(np.int64)

        def total(class_ids: np.ndarray, weight: np.ndarray) -> np.ndarray:
            cells = place * shape[2] + class_ids
            # Sums of whole numbers below 2^53 are exact in floating point.
            return np.bincount(cells, weight, np.prod(shape)).reshape(shape).astype(np.int64)

        right = np.where(truth == predicted, pixels, 0)
        return np.stack([total(truth, right), total(truth, pixels), total(predicted, pixels)], -1)


def trimap(counts: np.ndarray) -> np.ndarray:
    """Return the counts inside trimaps of width 1 to WIDTHS, (..., WIDTHS, classes, 3)."""
    return counts.cumsum(-3)[..., :WIDTHS, :, :]


def anti_trimap(counts: np.ndarray) -> np.ndarray:
    """Return the counts outside trimaps of width 1 to WIDTHS, (..., WIDTHS, classes, 3)."""
    return counts.sum(-3, keepdims=True) - trimap(counts)


def write_confusion(path: Path, confusion: Confusion) -> None:
    """Write the cells as parquet, with the images and the classes in its header."""
    table = pa.Table.from_pandas(confusion.cells.astype(CELL_TYPES), preserve_index=False)
    header = {
        "image_ids": confusion.image_ids.tolist(),
        "classes": list(confusion.classes),
    }
    metadata = {**(table.schema.metadata or {}), b"detransfer": json.dumps(header).encode()}
    with atomic(path) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary)


def read_confusion(path: Path) -> Confusion:
    """Read what :func:`write_confusion` wrote; raises InputError for any other file."""
    try:
        table = pq.read_table(path)
        header = json.loads((table.schema.metadata or {})[b"detransfer"])
        cells = table.to_pandas()[list(CELL_TYPES)].astype(CELL_TYPES)
        image_ids = np.array(header["image_ids"], np.int32)
        return Confusion(image_ids, tuple(header["classes"]), cells)
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a readable confusion table ({error}); make it again") from (
            error
        )
