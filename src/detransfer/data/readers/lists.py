"""What readers share: text lists with one name a line, and folders of images."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from detransfer.console import InputError

log = logging.getLogger(__name__)
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")


def read_lines(path: Path, kind: str = "list") -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text without its blanks) of every line that is not blank.

    The file is UTF-8, with or without a byte order mark, with any line ends. ``kind`` says in
    messages what the file is. Raises InputError when it is missing or no text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such {kind}; is the archive whole?") from None
    except OSError as error:
        raise InputError(f"{path}: not readable ({error})") from error
    except UnicodeDecodeError as error:
        row = path.read_bytes()[: error.start].count(b"\n") + 1
        raise InputError(f"{path}: line {row}: not UTF-8 text; save the {kind} as UTF-8") from None
    for number, line in enumerate(text.split("\n"), 1):
        if "\0" in line:
            raise InputError(f"{path}: line {number}: not a text file (it has zero bytes)")
        if stripped := line.strip():
            yield number, stripped


def read_names(path: Path, kind: str = "list") -> dict[str, int]:
    """Return the line number of every name in a list of one name a line, in the file's order.

    Raises InputError as :func:`read_lines`, for an empty list, a name with blanks inside and a name
    that occurs twice.
    """
    found: dict[str, int] = {}
    for number, line in read_lines(path, kind):
        if len(line.split()) > 1:
            raise InputError(f"{path}: line {number}: expected one name, got {line!r}")
        if line in found:
            raise InputError(f"{path}: line {number}: {line!r} is in line {found[line]} already")
        found[line] = number
    if not found:
        raise InputError(f"{path}: the {kind} is empty")
    return found


def subfolders(folder: Path) -> list[Path]:
    """Return the folders inside a folder in order of name; hidden ones and files are skipped.

    Raises InputError when the folder is missing or a name is not UTF-8.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; is the data set whole?")
    found = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    for path in found:
        if not path.is_dir():
            log.info("%s: skipped (not a folder)", path)
    return [utf8_named(path) for path in found if path.is_dir()]


def image_files(folder: Path, suffixes: tuple[str, ...] = SUFFIXES) -> list[str]:
    """Return the names of the image files in a folder, sorted; all else is skipped and logged.

    An image is a file with one of the ``suffixes``, in capitals or not. Raises InputError for a
    name that is not UTF-8.
    """
    files = []
    for path in sorted(folder.iterdir()):
        hidden = path.name.startswith(".")  # as those that macOS leaves: ._0001.jpg
        if path.suffix.lower() in suffixes and path.is_file() and not hidden:
            files.append(utf8_named(path).name)
        elif not hidden:
            log.info("%s: skipped (%s)", path, "a folder" if path.is_dir() else "not an image")
    return files


def utf8_named(path: Path) -> Path:
    """Return the path; raises InputError where its last part is not UTF-8."""
    try:
        path.name.encode()
    except UnicodeEncodeError:
        shown = str(path).encode(errors="backslashreplace").decode()
        raise InputError(f"{shown}: its name is not UTF-8; rename it") from None
    return path
