"""Large CSV files in blocks of typed columns, with the line of whatever is wrong."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from detransfer.console import InputError

Kind = Literal["text", "number", "flag"]
TYPES = {"text": pa.dictionary(pa.int32(), pa.string()), "number": pa.float64(), "flag": pa.int8()}
PARSERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "number": (float, "a number"),
    "flag": (int, "a whole number"),
}
BLOCK = 2**24  # bytes read at a time


@dataclass(frozen=True)
class Block:
    """Some rows of a table: the number of the first (0-based) and the columns by name.

    Columns are numpy arrays, those of kind ``text`` dictionary arrays.
    """

    first: int
    columns: dict[str, Any]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def text(self, name: str) -> tuple[np.ndarray, list[str]]:
        """Return a text column as codes (n,) and the texts that they stand for."""
        column = self.columns[name]
        return column.indices.to_numpy(), column.dictionary.to_pylist()

    def value(self, name: str, row: int) -> Any:
        """Return one value."""
        column = self.columns[name]
        return column[row] if isinstance(column, np.ndarray) else column[int(row)].as_py()


def read_blocks(path: Path, columns: Mapping[str, Kind]) -> Iterator[Block]:
    """Yield the named columns of a CSV file with a head; other columns are not looked at.

    Raises InputError, naming the line, for a file that is missing, empty or not UTF-8, a missing
    column, a line of the wrong length and a value of the wrong kind.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; extract it first")
    convert = pacsv.ConvertOptions(
        include_columns=list(columns),
        column_types={name: TYPES[kind] for name, kind in columns.items()},
        null_values=[],
    )
    first = 0
    try:
        with pacsv.open_csv(
            path, pacsv.ReadOptions(block_size=BLOCK), convert_options=convert
        ) as reader:
            for batch in reader:
                yield Block(first, {name: _column(batch.column(name)) for name in columns})
                first += len(batch)
    except (pa.ArrowException, OSError) as error:
        _explain(path, columns)
        raise InputError(f"{path}: not a readable CSV file ({error})") from error


def line_number(path: Path, row: int) -> int:
    """Return the line (1-based) of a row (0-based, without the head); empty lines are no rows."""
    with path.open("rb") as file:
        rows = (number for number, line in enumerate(file, 1) if line.strip(b"\r\n"))
        for _ in range(row + 1):
            next(rows)
        return next(rows)


def text_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield number and fields of every line of a CSV file that is not empty.

    Raises InputError for a file that is missing or not UTF-8 and for an open quote.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                if text:
                    yield number, next(csv.reader([text], strict=True))
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file; extract it first") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: line {number}: not UTF-8 CSV text ({error})") from None


def _column(column: pa.Array) -> Any:
    return column if pa.types.is_dictionary(column.type) else column.to_numpy()


def _explain(path: Path, columns: Mapping[str, Kind]) -> None:
    """Raise InputError for the first line that is wrong; slow, so only after a failure."""
    lines = text_lines(path)
    _, head = next(lines, (0, []))
    if not head:
        raise InputError(f"{path}: the file is empty")
    for name in columns:
        if name not in head:
            raise InputError(f"{path}: line 1: has no column {name!r}; it has: {', '.join(head)}")
    kinds = [(head.index(name), name, *PARSERS[kind])
             for name, kind in columns.items() if kind in PARSERS]  # fmt: skip
    for number, fields in lines:
        if len(fields) != len(head):
            raise InputError(
                f"{path}: line {number}: has {len(fields)} values, but the head has {len(head)}"
            )
        for place, name, parse, kind in kinds:
            try:
                parse(fields[place])
            except ValueError:
                raise InputError(
                    f"{path}: line {number}: {name} should be {kind}, got {fields[place]!r}"
                ) from None
