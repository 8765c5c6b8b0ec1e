"""The header of a weight file: what it is and where it comes from, readable without torch."""

from __future__ import annotations

import json
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
