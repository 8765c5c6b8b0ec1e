"""MAT-files of version 5, as far as data sets use them: numbers, texts, cells and structures.

SciPy trusts the lengths that stand in a file, and a damaged one can take the whole process down
with a segmentation fault. Nothing here reads outside the file. Format: "MAT-File Format" (The
MathWorks), chapter 1, "Level 5 MAT-File Format".
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from detransfer.console import InputError

LARGEST = 1 << 28  # bytes of a variable, unpacked; the data sets' have at most some millions
HEAD = 128  # bytes before the first variable; the last two tell the order of bytes
MATRIX, COMPRESSED = 14, 15  # kinds of element that hold others
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8",
          13: "u8"}  # fmt: skip
ENCODING = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
CELL, STRUCT, TEXT, SPARSE = 1, 2, 4, 5  # classes of matrices, besides numbers
NUMBERS = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8",
           15: "u8"}  # fmt: skip
Elements = Iterator[tuple[int, memoryview]]


def read_mat(path: Path, name: str) -> Any:
    """Return a variable: an array of numbers in its shape, a text, or a list.

    A list holds the cells of a cell array, or one dictionary by field of each element of a
    structure, in MATLAB's order (columns first). A sparse matrix is None. Raises InputError for a
    file that is missing, damaged or of another version, and where there is no such variable.
    """
    try:
        content = memoryview(path.read_bytes())
        order = {b"IM": "<", b"MI": ">"}.get(bytes(content[HEAD - 2 : HEAD]))
        if order is None:
            raise ValueError("it is no MAT-file of version 5")
        for kind, data in _elements(content[HEAD:], order):
            if kind == COMPRESSED:
                kind, data = _next(_elements(memoryview(_inflate(data)), order))
            if kind == MATRIX:
                found, value = _matrix(data, order)
                if found == name:
                    return value
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file; is the archive whole?") from None
    except (OSError, ValueError, KeyError, zlib.error, RecursionError) as error:
        raise InputError(f"{path}: not a readable MAT-file ({error})") from None
    raise InputError(f"{path}: has no variable {name!r}")


def _inflate(data: memoryview) -> bytes:
    """Return a compressed variable; raises ValueError where it is larger than any data set's."""
    stream = zlib.decompressobj()
    content = stream.decompress(data, LARGEST)
    if stream.unconsumed_tail:
        raise ValueError(f"a variable has more than {LARGEST} bytes")
    if not stream.eof:
        raise ValueError("a compressed variable is cut off")
    return content


def _elements(data: memoryview, order: str) -> Elements:
    """Yield kind and content of the elements one after the other.

    A tag has 8 bytes; up to 4 bytes of content may stand inside it. Elements begin at multiples of
    8 bytes, unless they are compressed. Raises ValueError where one is longer than what is left.
    """
    at = 0
    while at < len(data):
        if len(data) - at < 8:
            raise ValueError("it ends in the middle of an element")
        kind, size = struct.unpack_from(f"{order}II", data, at)
        start, end = at + 8, at + 8 + size
        if kind >> 16:
            kind, size = kind & 0xFFFF, kind >> 16
            start, end = at + 4, at + 8
        elif kind != COMPRESSED:
            end += -size % 8
        if start + size > min(end, len(data)):
            raise ValueError("an element is longer than the file")
        yield kind, data[start : start + size]
        at = end


def _next(elements: Elements) -> tuple[int, memoryview]:
    found = next(elements, None)
    if found is None:
        raise ValueError("a part of a matrix is missing")
    return found


def _matrix(data: memoryview, order: str) -> tuple[str, Any]:
    """Return name and value of a matrix."""
    if not data:
        return "", np.empty((0, 0))  # what MATLAB writes for an empty cell
    parts = _elements(data, order)
    flags = _numbers(_next(parts), order)
    shape = [int(side) for side in _numbers(_next(parts), order)]
    if not len(flags) or len(shape) < 2 or min(shape) < 0:
        raise ValueError("a matrix has no class or no shape")
    name = bytes(_next(parts)[1]).decode("latin-1")
    kind = int(flags[0]) & 0xFF
    if kind == CELL:
        return name, [_inner(parts, order) for _ in range(math.prod(shape))]
    if kind == STRUCT:
        fields = _fields(parts, order)
        rows = range(math.prod(shape) if fields else 0)
        return name, [{field: _inner(parts, order) for field in fields} for _ in rows]
    if kind == TEXT:
        return name, _text(_next(parts), order)
    if kind == SPARSE:
        return name, None
    values = _numbers(_next(parts), order)  # stored as small as they fit, whatever their class
    if kind not in NUMBERS or len(values) != math.prod(shape):
        raise ValueError(f"a matrix of class {kind} has {len(values)} numbers in shape {shape}")
    return name, values.astype(NUMBERS[kind]).reshape(shape, order="F")


def _inner(parts: Elements, order: str) -> Any:
    kind, data = _next(parts)
    if kind != MATRIX:
        raise ValueError(f"an element of kind {kind} stands where a matrix should be")
    return _matrix(data, order)[1]


def _numbers(element: tuple[int, memoryview], order: str) -> np.ndarray:
    kind, data = element
    if kind not in STORED:
        raise ValueError(f"an element of kind {kind} stands where numbers should be")
    return np.frombuffer(data, order + STORED[kind])


def _text(element: tuple[int, memoryview], order: str) -> str:
    kind, data = element
    if kind not in ENCODING:
        raise ValueError(f"an element of kind {kind} stands where a text should be")
    wide = {"<": "-le", ">": "-be"}[order] if kind in (4, 17, 18) else ""
    return bytes(data).decode(ENCODING[kind] + wide)


def _fields(parts: Elements, order: str) -> list[str]:
    """Return the names of a structure's fields; each fills the same number of bytes."""
    lengths = _numbers(_next(parts), order)
    names = bytes(_next(parts)[1])
    length = int(lengths[0]) if len(lengths) else 0
    if length < 1 or len(names) % length:
        raise ValueError("the fields of a structure have no names")
    starts = range(0, len(names), length)
    return [names[start : start + length].partition(b"\0")[0].decode("latin-1") for start in starts]
