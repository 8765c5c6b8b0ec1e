"""Tables on disk: parquet to exchange, and beside it a copy that opens without being read.

The copy, ``objects.arrow`` beside ``objects.parquet``, holds the same rows as they lie in memory
(Arrow's IPC format, not compressed, a byte for each truth value). It is mapped: no row is read
before it is used, and all processes share its pages. A parquet file without a copy, or one that
was written after its copy, is read itself.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from detransfer.files import atomic

MARK = b"copy of"  # key of the copy's metadata: which parquet file it is a copy of
FOOTER = 2**16  # bytes at the end of a parquet file that hold its schema, sizes and statistics


def write_table(path: Path, table: pd.DataFrame, metadata: Mapping[bytes, bytes]) -> None:
    """Write a table of numbers, truth values and texts as parquet, then the copy beside it."""
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), **metadata})
    with atomic(path) as temporary:
        pq.write_table(arrow, temporary)
    columns = {name: _plain(arrow[name]) for name in arrow.column_names}
    copy = pa.table(columns, metadata={**metadata, MARK: _mark(path)})
    with (
        atomic(path.with_suffix(".arrow")) as temporary,
        pa.OSFile(str(temporary), "wb") as file,
        pa.ipc.new_file(file, copy.schema) as writer,
    ):
        writer.write_table(copy)


def read_table(path: Path) -> tuple[pd.DataFrame, dict[bytes, bytes]]:
    """Return a table and its metadata; the columns of a mapped copy cannot be written to.

    Raises OSError, ValueError or a pyarrow error for files that are missing or damaged.
    """
    table = _copy_of(path)
    if table is None:
        table = pq.read_table(path)
    columns = {}
    for name in table.column_names:
        values = _plain(table[name])
        if pa.types.is_large_string(values.type):
            columns[name] = pd.array(values, dtype="str")
        else:
            numbers = values.to_numpy(zero_copy_only=False)
            columns[name] = numbers.view(bool) if numbers.dtype == "uint8" else numbers
    return pd.DataFrame(columns, copy=False), table.schema.metadata or {}


def _copy_of(path: Path) -> pa.Table | None:
    """Map the copy of a parquet file; None where it has none that is as new as itself."""
    copy = path.with_suffix(".arrow")
    if not copy.is_file() or copy.stat().st_mtime_ns < path.stat().st_mtime_ns:
        return None
    table = pa.ipc.open_file(pa.memory_map(str(copy))).read_all()
    return table if (table.schema.metadata or {}).get(MARK) == _mark(path) else None


def _mark(path: Path) -> bytes:
    """Return what tells a parquet file from another one: its length and the hash of its footer."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(-min(size, FOOTER), os.SEEK_END)
        return f"{size} {hashlib.sha256(file.read()).hexdigest()}".encode()


def _plain(column: pa.ChunkedArray) -> pa.Array:
    """Return a column in one piece; truth values as bytes (uint8), texts as large_string."""
    kind = column.type
    if pa.types.is_boolean(kind):
        column = column.cast(pa.uint8())
    elif pa.types.is_string(kind) or pa.types.is_dictionary(kind):
        column = column.cast(pa.large_string())
    if column.num_chunks == 1:
        return column.chunk(0)  # as it lies there; combine_chunks would copy it
    return column.combine_chunks()
