"""One reader for each official format, all making the same :class:`~detransfer.data.index.Index`.

A reader is a module with ``read(root, options)``, where ``root`` is the folder of the extracted
archives and ``options`` are those of its format (:mod:`detransfer.data.options`). A new format is a
module here, one there, and one line in :mod:`detransfer.data.formats`. Modules are imported when
needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detransfer.console import InputError
from detransfer.data.formats import READERS
from detransfer.strict import suggest, validate

if TYPE_CHECKING:
    from detransfer.data.index import Index


def check_options(reader: str, options: Mapping[str, Any]) -> Any:
    """Return the ``Options`` of a reader's format, without importing the reader.

    Raises InputError for an unknown reader, an unknown option or a wrong value.
    """
    if reader not in READERS:
        raise InputError(f"unknown reader {reader!r}{suggest(reader, READERS)}")
    module = importlib.import_module(f"detransfer.data.options.{reader}")
    return validate(module.Options, options, f"options of reader {reader!r}")


def read_dataset(reader: str, root: Path, options: Mapping[str, Any]) -> Index:
    """Read the extracted data set under ``root``.

    Raises InputError for wrong options and for everything that is wrong with the files, naming the
    file and the object.
    """
    checked = check_options(reader, options)
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder; extract the data set first")
    index: Index = importlib.import_module(READERS[reader]).read(root, checked)
    return index
