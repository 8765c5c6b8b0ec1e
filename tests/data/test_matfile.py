"""MAT-files: what SciPy writes is read as SciPy reads it, and damage is refused, never followed."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from detransfer.console import InputError
from detransfer.data.matfile import read_mat

KINDS = st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
SHAPES = arrays.array_shapes(min_dims=2, max_dims=3, min_side=0, max_side=4)
NUMBERS = KINDS.flatmap(lambda kind: arrays.arrays(kind, SHAPES))
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6)
LEAF = st.one_of(NUMBERS, TEXT)
NAME = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)


@st.composite
def structures(draw: st.DrawFn) -> np.ndarray:
    """A row of structures with the same fields, whose values may be cells."""
    fields = draw(st.lists(NAME, min_size=1, max_size=3, unique=True))
    cell = st.lists(LEAF, min_size=1, max_size=3).map(as_cell)
    rows = [
        tuple(draw(st.one_of(LEAF, cell)) for _ in fields) for _ in range(draw(st.integers(1, 3)))
    ]
    table = np.empty((1, len(rows)), dtype=[(field, object) for field in fields])
    for place, row in enumerate(rows):
        table[0, place] = row
    return table


def as_cell(values: list[Any]) -> np.ndarray:
    cell = np.empty((1, len(values)), object)
    for place, value in enumerate(values):
        cell[0, place] = value
    return cell


def same(ours: Any, theirs: Any) -> None:
    """Compare with what scipy.io.loadmat returns for the same file."""
    if isinstance(theirs, np.ndarray) and theirs.dtype.names:
        assert len(ours) == theirs.size
        for row, other in zip(ours, theirs.ravel(order="F"), strict=True):
            assert tuple(row) == theirs.dtype.names
            for field in row:
                same(row[field], other[field])
    elif isinstance(theirs, np.ndarray) and theirs.dtype == object:
        assert len(ours) == theirs.size
        for value, other in zip(ours, theirs.ravel(order="F"), strict=True):
            same(value, other)
    elif isinstance(theirs, np.ndarray) and theirs.dtype.kind == "U":
        assert ours == "".join(theirs)
    else:
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


@settings(max_examples=120, deadline=None)
@given(st.one_of(NUMBERS, TEXT, structures()), st.booleans())
def test_what_scipy_writes_is_read_as_scipy_reads_it(value: Any, compress: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.mat")
        scipy.io.savemat(path, {"before": np.arange(3), "x": value}, do_compression=compress)
        same(read_mat(path, "x"), scipy.io.loadmat(path)["x"])
        with pytest.raises(InputError, match=r"x\.mat: has no variable 'y'"):
            read_mat(path, "y")


def big_endian() -> bytes:
    """A file by hand: one double matrix [1, 2], stored as bytes inside its tag."""
    flags = struct.pack(">IIII", 6, 8, 6, 0)
    shape = struct.pack(">IIii", 5, 8, 1, 2)
    name = struct.pack(">HH", 1, 1) + b"x\0\0\0"
    real = struct.pack(">HH", 2, 2) + bytes([1, 2, 0, 0])
    body = flags + shape + name + real
    return b"by hand".ljust(124) + struct.pack(">H2s", 0x0100, b"MI") + struct.pack(
        ">II", 14, len(body)
    ) + body  # fmt: skip


def test_the_other_order_of_bytes(tmp_path: Path) -> None:
    (tmp_path / "x.mat").write_bytes(big_endian())
    found = read_mat(tmp_path / "x.mat", "x")
    assert found.tolist() == [[1.0, 2.0]] and found.dtype == float
    np.testing.assert_array_equal(found, scipy.io.loadmat(tmp_path / "x.mat")["x"])


def test_a_sparse_matrix_is_passed_over(tmp_path: Path) -> None:
    content = {"edges": scipy.sparse.eye_array(3, format="csc"), "mask": np.eye(2, dtype=np.uint8)}
    scipy.io.savemat(tmp_path / "x.mat", {"x": content})
    (row,) = read_mat(tmp_path / "x.mat", "x")
    assert row["edges"] is None and row["mask"].tolist() == [[1, 0], [0, 1]]


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_damaged_file_is_read_or_refused(data: st.DataObject) -> None:
    """A structure as SBD's masks have it; SciPy's reader can crash on some of these."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.mat")
        value = {"Segmentation": np.zeros((3, 4), np.uint8), "name": "é", "cell": as_cell(["a"])}
        scipy.io.savemat(path, {"x": value})
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(120, len(content) - 1))
            content[place] = data.draw(st.sampled_from([0, 1, 2, 14, 15, 127, 128, 255]))
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        try:
            read_mat(path, "x")
        except InputError as error:
            assert str(error).startswith(f"{path}: ") and len(str(error).splitlines()) == 1


def test_faults_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    with pytest.raises(InputError, match="there is no such file"):
        read_mat(path, "x")
    scipy.io.savemat(path, {"x": np.arange(9)})
    whole = path.read_bytes()
    for content, message in (
        (b"", "no MAT-file of version 5"),
        (whole[:-8], "an element is longer than the file"),
        (whole[:132], "ends in the middle of an element"),
        (whole.replace(struct.pack("<ii", 1, 9), struct.pack("<ii", 1, 8)), "9 numbers in shape"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"x\.mat: not a readable MAT-file \(.*{message}"):
            read_mat(path, "x")
