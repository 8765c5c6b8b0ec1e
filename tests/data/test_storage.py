"""Tables on disk: the mapped copy is the parquet file, is really mapped, and is never outdated."""

from __future__ import annotations

import os
import struct
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detransfer.data.storage import FOOTER, read_table, write_table

NUMBER = st.floats(width=32, allow_nan=False)
ROWS = st.lists(
    st.tuples(st.integers(-(2**31), 2**31 - 1), NUMBER, st.booleans(),
              st.text(st.characters(codec="utf-8"), max_size=5), st.integers(-(2**63), 2**63 - 1)),
    max_size=8,
)  # fmt: skip
TYPES = {"id": "int32", "x": "float32", "flag": "bool", "name": "str", "long": "int64"}


def table(rows: list[tuple]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(TYPES)).astype(TYPES)


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_with_and_without_its_copy_a_table_is_the_same(rows: list[tuple]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.parquet")
        write_table(path, table(rows), {b"root": b"x"})
        mapped, metadata = read_table(path)
        pd.testing.assert_frame_equal(mapped, table(rows))
        pd.testing.assert_frame_equal(pd.read_parquet(path), table(rows))
        assert metadata[b"root"] == b"x"
        path.with_suffix(".arrow").unlink()
        alone, metadata = read_table(path)
        pd.testing.assert_frame_equal(alone, table(rows))
        assert metadata[b"root"] == b"x"


def mapped_kib(path: Path) -> int:
    """Return how much of a file this process has in memory, from the kernel's own account."""
    blocks = Path("/proc/self/smaps").read_text().split(str(path))[1:]
    return sum(int(block.split("Rss:")[1].split()[0]) for block in blocks)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="asks Linux what is mapped")
def test_only_the_rows_that_are_used_come_into_memory(tmp_path: Path) -> None:
    rows = 4_000_000
    large = pd.DataFrame({"id": np.arange(rows, dtype=np.int32), "x": np.float32(1), "flag": True})
    path, copy = tmp_path / "t.parquet", tmp_path / "t.arrow"
    write_table(path, large, {})
    found, _ = read_table(path)
    opened = mapped_kib(copy)
    assert found["id"].iloc[rows // 2] == rows // 2 and found["flag"].iloc[-1]
    assert copy.stat().st_size > 30 * 2**20
    assert opened <= mapped_kib(copy) < 8000, "some pages, with what the kernel maps around them"
    assert found["id"].sum() == rows * (rows - 1) // 2
    assert mapped_kib(copy) > 15_000
    with pytest.raises(ValueError, match="read-only"):
        found["id"].to_numpy()[0] = 7


def test_a_parquet_file_that_was_written_later_counts(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    numbers = np.random.default_rng(0).integers(0, 2**60, 30_000).tolist()
    rows = [(1, (0.5, 1.5)[n % 2], True, "a", number) for n, number in enumerate(numbers)]
    write_table(path, table(rows), {b"root": b"x"})
    # Values are corrected in place: schema, length, footer and extremes stay what they were.
    stored, content = pq.read_table(path), path.read_bytes()
    values = struct.pack("<ff", 0.5, 1.5)
    assert content.count(values) == 1 and content.index(values) < len(content) - 2 * FOOTER
    path.write_bytes(content.replace(values, struct.pack("<ff", 1.5, 0.5)))
    assert read_table(path)[0]["x"][:2].tolist() == [1.5, 0.5]
    # Another file with an older date, such as one from a backup.
    write_table(path, table([(1, 0.5, True, "a", 9)]), {})
    pq.write_table(stored, path)
    os.utime(path, (0, 0))
    assert read_table(path)[0]["x"][:2].tolist() == [0.5, 1.5]


def test_what_is_damaged_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_table(path, table([(1, 0.5, True, "a", 9)]), {})
    copy = tmp_path / "t.arrow"
    copy.write_bytes(copy.read_bytes()[:-20])
    with pytest.raises(pa.ArrowInvalid):
        read_table(path)
    with pytest.raises(OSError, match="none"):
        read_table(tmp_path / "none.parquet")
