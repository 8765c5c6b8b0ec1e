"""The header of a weight file: what it is and where it comes from, readable without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from detransfer.console import InputError

HEADER = "detransfer"  # one header key: the order of several is not reproducible


def read_header(path: Path) -> dict[str, Any]:
    """Return the header of a ``.safetensors`` file; empty for one that others wrote.

    Raises InputError for a missing or damaged file.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such weight file")
    try:
        with safe_open(path, framework="numpy") as file:
            header: dict[str, Any] = json.loads((file.metadata() or {}).get(HEADER, "{}"))
            return header
    except SafetensorError as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from error


def check_classes(
    path: Path, header: Mapping[str, Any], classes: Sequence[str], index: Path
) -> None:
    """Raise InputError unless a model's classes are those of an index, in the same order."""
    own = header["classes"]
    for place in range(max(len(own), len(classes))):
        here, there = own[place : place + 1], list(classes[place : place + 1])
        if here != there:
            raise InputError(
                f"{path}: was trained for other classes than {index} has: class {place} is "
                f"{here[0] if here else 'none'!r} there and {there[0] if there else 'none'!r} here"
                "; train it again on this data set, or give the index that it was trained on"
            )
