"""One reader for each official format, all making the same :class:`~detransfer.data.index.Index`.

A reader is a module with ``Options`` (a typed, frozen model of what can be chosen) and
``read(root, options)``, where ``root`` is the folder of the extracted archives. A new format is a
new module here and one line in :mod:`detransfer.data.formats`. Modules are imported when needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from detransfer.console import InputError
from detransfer.data.formats import READERS
from detransfer.study import suggest, validate

if TYPE_CHECKING:
    from detransfer.data.index import Index


def check_options(reader: str, options: Mapping[str, Any]) -> None:
    """Raise InputError for an unknown reader, an unknown option or a wrong value."""
    validate(_module(reader).Options, options, f"options of reader {reader!r}")


def read_dataset(reader: str, root: Path, options: Mapping[str, Any]) -> Index:
    """Read the extracted data set under ``root``.

    Raises InputError for wrong options and for everything that is wrong with the files, naming the
    file and the object.
    """
    module = _module(reader)
    checked = validate(module.Options, options, f"options of reader {reader!r}")
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder; extract the data set first")
    index: Index = module.read(root, checked)
    return index


def _module(reader: str) -> ModuleType:
    if reader not in READERS:
        raise InputError(f"unknown reader {reader!r}{suggest(reader, READERS)}")
    return importlib.import_module(READERS[reader])
