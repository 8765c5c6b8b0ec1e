from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd
import pytest

from detransfer.console import InputError
from detransfer.detection.detections import (
    DETECTION_TYPES,
    empty_detections,
    read_detections,
    write_detections,
)

CLASSES = ["cat", "dog", "ox"]


def table(**changes: object) -> pd.DataFrame:
    columns: dict[str, object] = {
        "image_id": [3, 1, 3],
        "class_id": [0, 2, 0],
        "score": [0.5, 0.5, 0.9],
        "x1": [0.0, 1.5, 2.0],
        "y1": [0.0, 1.0, 2.0],
        "x2": [4.0, 3.0, 2.0],
        "y2": [5.0, 4.0, 2.0],
    }
    return pd.DataFrame(columns | changes)


def test_what_is_written_is_read_back_in_order_and_typed(tmp_path: Path) -> None:
    path = tmp_path / "run" / "detections.parquet"
    write_detections(path, table(extra=["a", "b", "c"]), CLASSES)
    back = read_detections(path, image_ids={1, 3})
    assert dict(back.dtypes.astype(str)) == DETECTION_TYPES
    pd.testing.assert_frame_equal(back, table().astype(DETECTION_TYPES))


def test_a_detector_that_found_nothing(tmp_path: Path) -> None:
    path = tmp_path / "detections.parquet"
    write_detections(path, empty_detections(), CLASSES)
    back = read_detections(path, image_ids=[])
    assert len(back) == 0
    assert dict(back.dtypes.astype(str)) == DETECTION_TYPES


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": [0.5, float("nan"), 1]}, r"detection 1 \(.*score=nan.*the score is not finite"),
        ({"y2": [5.0, 4.0, float("inf")]}, r"detection 2 .*the box is not finite"),
        ({"x2": [4.0, 1.0, 2.0]}, r"detection 1 .*x1=1\.5.*the box is inverted"),
        ({"image_id": [-1, 1, 3]}, r"detection 0 .*image_id is negative"),
        ({"class_id": [0, 3, 1]}, r"detection 1 .*the data set has 3 classes"),
        ({"class_id": [0, 2, 2**31]}, r"detection 2 .*class_id is negative or too large"),
        ({"image_id": [0.0, 1.0, 3.0]}, r"column image_id holds float64, not integers"),
    ],
)
def test_wrong_rows_are_refused_and_not_written(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    path = tmp_path / "detections.parquet"
    with pytest.raises(InputError, match=message) as caught:
        write_detections(path, table(**changes), CLASSES)
    assert str(path) in str(caught.value)
    assert not path.exists()


def test_an_image_of_another_data_set_is_named(tmp_path: Path) -> None:
    path = tmp_path / "detections.parquet"
    write_detections(path, table(), CLASSES)
    with pytest.raises(InputError, match=r"detection 1 \(image_id=1, .*has no such image"):
        read_detections(path, image_ids=[3, 4])


@pytest.mark.parametrize("names", [["cat", "ox", "dog"], ["cat", "dog", "cow"]])
def test_detections_of_other_classes_are_refused(tmp_path: Path, names: list[str]) -> None:
    path = tmp_path / "detections.parquet"
    write_detections(path, table(), CLASSES)
    assert len(read_detections(path)) == len(read_detections(path, classes=CLASSES)) == 3
    here, there = (hashlib_of(each)[:12] for each in (CLASSES, names))
    with pytest.raises(InputError, match=rf"{here} there, {there} here, both of 3\); detect again"):
        read_detections(path, classes=names)
    for number in (2, 4):
        message = rf"detections\.parquet: numbers 3 classes, but the data set has {number}; detect"
        with pytest.raises(InputError, match=message):
            read_detections(path, classes=list("abcd")[:number])


def hashlib_of(names: list[str]) -> str:
    """Return the digest of a class list: SHA-256 of the names' SHA-256, one after the other."""
    each = b"".join(hashlib.sha256(name.encode()).digest() for name in names)
    return hashlib.sha256(each).hexdigest()


def test_a_table_that_does_not_say_its_classes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "detections.parquet"
    table().to_parquet(path)
    assert len(read_detections(path)) == 3
    with pytest.raises(InputError, match="does not say which classes it numbers; detect again"):
        read_detections(path, classes=CLASSES)


def test_a_missing_column_and_a_broken_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "detections.parquet"
    with pytest.raises(InputError, match="no column score; a table of detections has image_id"):
        write_detections(path, table().drop(columns="score"), CLASSES)
    table().drop(columns="x1").to_parquet(path)
    with pytest.raises(InputError, match="no column x1"):
        read_detections(path)
    path.write_text("not parquet")
    with pytest.raises(InputError, match="not a readable table of detections"):
        read_detections(path)
    with pytest.raises(InputError, match=r"absent\.parquet: not a readable table"):
        read_detections(tmp_path / "absent.parquet")
