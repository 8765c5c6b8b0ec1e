"""What a detector found: the table ``detections.parquet``, with one writer and one reader.

One row a detection: ``image_id``, ``class_id`` int32, ``score`` float32 (higher is surer) and the
box ``x1 y1 x2 y2`` float32 in pixels of the original image, 0-based and half-open like the index.
The order of the rows means something: it decides between detections of the same score. The header
says which classes the numbers are of: the digest of their names in order, and how many.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from detransfer.console import InputError
from detransfer.data.index import BOX
from detransfer.files import atomic, digest

DETECTION_TYPES = {
    "image_id": "int32",
    "class_id": "int32",
    "score": "float32",
    **dict.fromkeys(BOX, "float32"),
}
DIGEST, COUNT = b"classes_digest", b"classes"  # keys of the header


def empty_detections() -> pd.DataFrame:
    """Return the table of a detector that found nothing."""
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in DETECTION_TYPES.items()})


def write_detections(path: Path, detections: pd.DataFrame, classes: Sequence[str]) -> None:
    """Check the detections and write them, the columns of the schema only, in the given order.

    ``classes``: the names of the classes that ``class_id`` counts. Raises InputError, and writes
    nothing, where :func:`check_detections` does.
    """
    check_detections(path, detections, class_count=len(classes))
    typed = detections.loc[:, list(DETECTION_TYPES)].astype(DETECTION_TYPES)
    table = pa.Table.from_pandas(typed, preserve_index=False)
    header = {DIGEST: digest(classes).encode(), COUNT: str(len(classes)).encode()}
    with atomic(path) as temporary:
        pq.write_table(table.replace_schema_metadata(header), temporary)


def read_detections(
    path: Path,
    image_ids: Collection[int] | None = None,
    classes: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Read a table of detections in the order of the file.

    ``image_ids`` and ``classes``: the images and the names of the classes of the data set, where
    they are known. Raises InputError when the file is not a readable table of detections, is one of
    other classes, or when a row is wrong.
    """
    try:
        table = pq.read_table(path)
        header, found = table.schema.metadata or {}, table.to_pandas()
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a readable table of detections ({error})") from error
    if classes is not None:
        _check_classes(path, header, classes)
    check_detections(path, found, image_ids, None if classes is None else len(classes))
    return found.loc[:, list(DETECTION_TYPES)].astype(DETECTION_TYPES)


def _check_classes(path: Path, header: Mapping[bytes, bytes], classes: Sequence[str]) -> None:
    """Raise InputError unless a header is of these classes."""
    remedy = "detect again with scripts/detect.py, which knows the data set's classes"
    if not {DIGEST, COUNT} <= header.keys():
        raise InputError(f"{path}: does not say which classes it numbers; {remedy}")
    of, there = (header[key].decode() for key in (COUNT, DIGEST))
    if of != str(len(classes)):
        raise InputError(
            f"{path}: numbers {of} classes, but the data set has {len(classes)}; {remedy}"
        )
    if there != digest(classes):
        raise InputError(
            f"{path}: numbers other classes than the data set has, or in another order (list "
            f"{there[:12]} there, {digest(classes)[:12]} here, both of {of}); {remedy}"
        )


def check_detections(
    path: Path,
    detections: pd.DataFrame,
    image_ids: Collection[int] | None = None,
    class_count: int | None = None,
) -> None:
    """Raise InputError at the first row that cannot be a detection.

    Scores and corners must be finite, ids non-negative whole numbers, boxes not inverted (an empty
    box is allowed: it matches nothing), and the image and the class known where ``image_ids`` and
    ``class_count`` are given.
    """
    missing = [name for name in DETECTION_TYPES if name not in detections]
    if missing:
        raise InputError(
            f"{path}: no column {', '.join(missing)}; a table of detections has "
            f"{', '.join(DETECTION_TYPES)}"
        )
    for name in ("image_id", "class_id"):
        if not pd.api.types.is_integer_dtype(detections[name].dtype):
            raise InputError(f"{path}: column {name} holds {detections[name].dtype}, not integers")
        known = detections[name].between(0, np.iinfo(np.int32).max)
        _refuse(path, detections, ~known.to_numpy(), f"{name} is negative or too large")
    numbers = detections[["score", *BOX]].to_numpy(np.float64)
    finite = np.isfinite(numbers)
    _refuse(path, detections, ~finite[:, 0], "the score is not finite; did the training diverge?")
    _refuse(path, detections, ~finite.all(1), "the box is not finite; did the training diverge?")
    inverted = np.any(numbers[:, 3:] < numbers[:, 1:3], axis=1)
    _refuse(path, detections, inverted, "the box is inverted; boxes are x1, y1, x2, y2")
    if image_ids is not None:
        known = detections["image_id"].isin(np.asarray(sorted(image_ids), dtype=np.int64))
        reason = "the data set has no such image; was it predicted on another one?"
        _refuse(path, detections, ~known.to_numpy(), reason)

    if class_count is not None:
        reason = f"the data set has {class_count} classes; was it predicted for another one?"
        _refuse(path, detections, (detections["class_id"] >= class_count).to_numpy(), reason)


def _refuse(path: Path, detections: pd.DataFrame, wrong: np.ndarray, reason: str) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        values = detections.iloc[row]
        shown = ", ".join(f"{name}={values[name]:g}" for name in DETECTION_TYPES)
        raise InputError(f"{path}: detection {row} ({shown}): {reason}")
