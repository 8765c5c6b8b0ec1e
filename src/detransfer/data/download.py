"""Files from the network or a folder, checked before they count.

A download goes to ``<output>.part``, is continued where it stopped, and takes the name of the
output only when its size and checksums are right.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

import requests
from tqdm import tqdm

from detransfer.console import InputError
from detransfer.files import atomic
from detransfer.locks import sole_writer
from detransfer.strict import suggest

log = logging.getLogger(__name__)
CHUNK = 1 << 16  # bytes between two writes: at most so much is lost when a connection breaks
TRANSIENT = (408, 425, 429)  # with all 5xx: answers that are worth another try


@dataclass(frozen=True)
class Expected:
    """What is known of a file in advance; None where it is not."""

    size: int | None = None
    sha256: str | None = None  # or its first digits
    md5: str | None = None
    source: str = "as given"  # who says so, for messages


@dataclass(frozen=True)
class Patience:
    """How long a broken download is tried again."""

    attempts: int = 6  # in a row without a single new byte
    delay: float = 2.0  # seconds before the second attempt; doubles each time
    timeout: float = 60.0  # seconds of silence that count as a broken connection


class _Interrupted(Exception):
    """A download stopped for a reason that may pass."""


def fetch_url(url: str, sha256: str | None, output: Path, patience: Patience = Patience()) -> None:
    """Put the file at an http(s) or file: URL (or a path) at ``output``, whole and checked."""
    source = url if is_remote(url) else local_path(url)
    fetch(source, output, Expected(sha256=sha256), patience)


def fetch(source: str | Path, output: Path, expected: Expected, patience: Patience) -> str:
    """Copy or download ``source`` to ``output``; the file appears only when it is right.

    Returns its SHA-256. Raises InputError for a file that is not as expected or does not come, and
    then leaves an earlier ``output`` alone.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, Path):
            return _copy(source, output, expected)
        return _download_checked(source, output, expected, patience)
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error})") from error


def _download_checked(source: str, output: Path, expected: Expected, patience: Patience) -> str:
    known = expected.sha256 is not None or expected.md5 is not None
    with sole_writer(output) as waited:  # a job that outlived its workflow has the same .part
        if waited and known and output.is_file():
            with contextlib.suppress(InputError):  # what it left may be right
                return verify(output, expected, source)
        return _download_to(output, source, expected, patience)


def _download_to(output: Path, source: str, expected: Expected, patience: Patience) -> str:
    part = output.with_name(f"{output.name}.part")
    if expected.sha256 is None and expected.md5 is None:
        part.unlink(missing_ok=True)  # nothing would tell a mixture of two versions
    _download(source, part, expected, patience)
    try:
        measured = verify(part, expected, source)
    except InputError:
        part.unlink()
        raise
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(output)
    return measured


def verify(path: Path, expected: Expected, source: str | Path) -> str:
    """Compare a file with what is known of it; return its SHA-256.

    Raises InputError with the expected and the measured value.
    """
    size = path.stat().st_size
    measured: dict[str, int | str] = {"size": size}
    if expected.size in (None, size):
        with path.open("rb") as file:
            measured |= _digests(file, ["sha256", "md5"] if expected.md5 else ["sha256"])
    for kind, wanted in (
        ("size", expected.size),
        ("sha256", expected.sha256),
        ("md5", expected.md5),
    ):
        if wanted is not None and not _agrees(kind, wanted, measured[kind]):
            raise InputError(
                f"{source}: wrong {kind}: expected {wanted} ({expected.source}), got "
                f"{measured[kind]}; the file is damaged or another version: fetch it again, or "
                "correct what is expected"
            )
    return str(measured["sha256"])


def _agrees(kind: str, wanted: int | str, found: int | str) -> bool:
    if kind == "sha256":
        return str(found).startswith(str(wanted))
    return found == wanted


def _digests(file: BinaryIO, kinds: list[str]) -> dict[str, str]:
    digests = {kind: hashlib.new(kind, usedforsecurity=False) for kind in kinds}
    while chunk := file.read(CHUNK):
        for digest in digests.values():
            digest.update(chunk)
    return {kind: digest.hexdigest() for kind, digest in digests.items()}


def _copy(source: Path, output: Path, expected: Expected) -> str:
    if not source.is_file():
        raise InputError(f"{source}: there is no such file")
    if output.exists() and source.samefile(output):
        raise InputError(f"{output}: source and output are the same file")
    with atomic(output) as temporary:
        shutil.copyfile(source, temporary)
        return verify(temporary, expected, source)


def _download(url: str, part: Path, expected: Expected, patience: Patience) -> None:
    """Download to ``part`` until it is complete, waiting longer after each fruitless attempt."""
    fruitless = 0
    furthest = _size(part)
    while True:
        try:
            _continue(url, part, expected, patience.timeout)
            return
        except (_Interrupted, requests.RequestException) as error:
            if isinstance(error, ValueError):  # no address at all: trying again cannot help
                raise InputError(f"{url}: {error}") from error
            if _size(part) > furthest:
                furthest, fruitless = _size(part), 0
            fruitless += 1
            if fruitless >= patience.attempts:
                raise InputError(
                    f"{url}: {error}; gave up after {fruitless} attempts without a new byte, "
                    f"run again to continue at byte {_size(part)}"
                ) from error
        wait = patience.delay * 2 ** (fruitless - 1)
        log.info("%s: stopped at byte %d; trying again in %.0f s", url, _size(part), wait)
        time.sleep(wait)


def _continue(url: str, part: Path, expected: Expected, timeout: float) -> None:
    """One attempt: ask for what ``part`` lacks and append it."""
    offset = _size(part)
    if expected.size is not None and offset == expected.size:
        return
    headers = {"Accept-Encoding": "identity"}  # ranges count bytes of the file, not of a gzip
    if offset:
        headers["Range"] = f"bytes={offset}-"
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
        begin, end = _range(response, url, offset)
        if begin not in (0, offset):
            part.unlink()
            raise _Interrupted(f"what is here already ({offset} bytes) does not fit the file there")
        if None not in (end, expected.size) and end != expected.size:
            raise InputError(f"{url}: wrong size: expected {expected.size}, the server has {end}")
        if response.status_code != 416:
            _append(response, part, begin, end, expected.size)
    if end is not None and _size(part) < end:
        raise _Interrupted(f"the server closed the connection at byte {_size(part)} of {end}")


def _range(response: requests.Response, url: str, offset: int) -> tuple[int, int | None]:
    """Return where the answer begins and where the file ends (None: not said), in bytes."""
    status = response.status_code
    stated = response.headers.get("Content-Range", "")
    if status == 200:
        length = response.headers.get("Content-Length")
        return 0, None if length is None else int(length)
    if status == 206:
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", stated.strip())
        if match is None:
            raise _Interrupted(f"the server sent a part with Content-Range {stated!r}")
        return int(match[1]), int(match[2]) + 1 if match[3] == "*" else int(match[3])
    if status == 416:
        match = re.fullmatch(r"bytes \*/(\d+)", stated.strip())
        # What lies here is complete, or longer than the file: then it is of another version.
        return (offset, offset) if match and int(match[1]) == offset else (-1, None)
    if status >= 500 or status in TRANSIENT:
        raise _Interrupted(f"the server answered {status} {response.reason}")
    raise InputError(f"{url}: the server answered {status} {response.reason}; is the URL right?")


def _append(
    response: requests.Response, part: Path, begin: int, end: int | None, most: int | None
) -> None:
    """Append an answer to ``part``; raises InputError when it is longer than the file can be."""
    quiet = not sys.stderr.isatty()
    progress = tqdm(
        total=end,
        initial=begin,
        desc=part.name.removesuffix(".part"),
        unit="B",
        unit_scale=True,
        mininterval=30 if quiet else 0.2,
    )
    with progress, part.open("ab" if begin else "wb") as file:
        for chunk in response.iter_content(CHUNK):
            file.write(chunk)
            progress.update(len(chunk))
            if most is not None and file.tell() > most:
                raise InputError(f"{response.url}: sends more than the {most} bytes expected")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def is_remote(location: str) -> bool:
    """Tell an http(s) address from a path or file: URL; raises InputError for any other."""
    scheme, separator, _ = location.partition("://")
    if separator and scheme not in ("http", "https", "file"):
        raise InputError(f"{location}: unknown kind of address{suggest(scheme, ['http', 'https'])}")
    return scheme in ("http", "https") and bool(separator)


def local_path(location: str) -> Path:
    """Return the path that a file: URL or a path names."""
    if not location.startswith("file:"):
        return Path(location)
    return Path(unquote(re.sub(r"^file:(//(localhost)?(?=/))?", "", location)))
