"""Archives and checkpoints from the network, a mirror or a folder, checked before they count.

A download goes to ``<output>.part``, is continued where it stopped, and takes the name of the
output only when its size and checksums are right.
"""

from __future__ import annotations

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
from urllib.parse import quote, unquote

import requests
from tqdm import tqdm

from detransfer.console import InputError
from detransfer.data.catalog import Archive
from detransfer.files import atomic
from detransfer.study import suggest

log = logging.getLogger(__name__)
CHUNK = 1 << 16  # bytes between two writes: at most so much is lost when a connection breaks
TRANSIENT = (408, 425, 429)  # with all 5xx: answers that are worth another try


@dataclass(frozen=True)
class Expected:
    """What is known of a file in advance; None where nobody published it."""

    size: int | None = None
    sha256: str | None = None
    md5: str | None = None


@dataclass(frozen=True)
class Patience:
    """How long a broken download is tried again."""

    attempts: int = 6  # in a row without a single new byte
    delay: float = 2.0  # seconds before the second attempt; doubles each time
    timeout: float = 60.0  # seconds of silence that count as a broken connection


@dataclass(frozen=True)
class Sources:
    """Where a study takes its archives from."""

    mirror: str | None = None  # folder, file: URL or http(s) URL that holds every archive by name
    checksums: Path | None = None  # sha256sum file that replaces the catalog's checksums
    manual: Path = Path("data/manual")  # where a person puts what needs an account


class _Interrupted(Exception):
    """A download stopped for a reason that may pass."""


def fetch_archive(
    name: str, archive: Archive, output: Path, sources: Sources, patience: Patience = Patience()
) -> None:
    """Put a catalog archive at ``output``, whole and checked.

    Raises InputError when the archive is not where it should be, needs an account, cannot be
    downloaded, or is not what the catalog (or ``sources.checksums``) says.
    """
    expected = Expected(archive.size, archive.sha256, archive.md5)
    if sources.checksums is not None:
        listed = read_checksums(sources.checksums)
        if name not in listed:
            raise InputError(f"{sources.checksums}: lists no checksum of {name}; add its line")
        expected = Expected(sha256=listed[name])
    fetch(locate(name, archive, sources), output, expected, patience)


def fetch_url(url: str, sha256: str | None, output: Path, patience: Patience = Patience()) -> None:
    """Put the file at an http(s) or file: URL (or a path) at ``output``, whole and checked."""
    source = url if _is_remote(url) else _local(url)
    fetch(source, output, Expected(sha256=sha256), patience)


def locate(name: str, archive: Archive, sources: Sources) -> str | Path:
    """Return the http(s) URL or the path of an archive.

    Raises InputError when a local file is absent: for an archive behind a login with the page, the
    account and the place to put it.
    """
    if sources.mirror is not None:
        if _is_remote(sources.mirror):
            return f"{sources.mirror.rstrip('/')}/{quote(name)}"
        path = _local(sources.mirror) / name
        if not path.is_file():
            raise InputError(f"{path}: the mirror does not have this archive; add it there")
        return path
    if archive.login is None:
        return archive.url
    path = sources.manual / name
    if not path.is_file():
        raise InputError(
            f"{name} cannot be downloaded without a person: get it from {archive.login.page} "
            f"({archive.login.account}) and put it at {path}"
        )
    return path


def read_checksums(path: Path) -> dict[str, str]:
    """Read a file as ``sha256sum`` writes it; returns SHA-256 by file name.

    Raises InputError for a missing file and, with its number, for a line of another form.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable list of checksums ({error})") from error
    sums = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](\S.*)", line)
        if match is None:
            raise InputError(f"{path}: line {number} is not '<sha256>  <file name>'")
        sums[match[2].strip()] = match[1].lower()
    return sums


def fetch(source: str | Path, output: Path, expected: Expected, patience: Patience) -> None:
    """Copy or download ``source`` to ``output``; the file appears only when it is right.

    Raises InputError otherwise, and then leaves an earlier ``output`` alone.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, Path):
            _copy(source, output, expected)
        else:
            _download_checked(source, output, expected, patience)
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error})") from error


def _download_checked(source: str, output: Path, expected: Expected, patience: Patience) -> None:
    part = output.with_name(f"{output.name}.part")
    if expected.sha256 is None and expected.md5 is None:
        part.unlink(missing_ok=True)  # nothing would tell a mixture of two versions
    _download(source, part, expected, patience)
    try:
        verify(part, expected, source)
    except InputError:
        part.unlink()
        raise
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(output)


def verify(path: Path, expected: Expected, source: str | Path) -> None:
    """Compare a file with what is known of it; logs its SHA-256 where none is known.

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
        if wanted is not None and measured[kind] != wanted:
            raise InputError(
                f"{source}: wrong {kind}: expected {wanted}, got {measured[kind]}; "
                "the file is damaged or another version, fetch it again or correct the checksum"
            )
    if expected.sha256 is None:
        log.info("%s: no sha256 known, measured %s", source, measured["sha256"])


def _digests(file: BinaryIO, kinds: list[str]) -> dict[str, str]:
    digests = {kind: hashlib.new(kind, usedforsecurity=False) for kind in kinds}
    while chunk := file.read(CHUNK):
        for digest in digests.values():
            digest.update(chunk)
    return {kind: digest.hexdigest() for kind, digest in digests.items()}


def _copy(source: Path, output: Path, expected: Expected) -> None:
    if not source.is_file():
        raise InputError(f"{source}: there is no such file")
    if output.exists() and source.samefile(output):
        raise InputError(f"{output}: source and output are the same file")
    with atomic(output) as temporary:
        shutil.copyfile(source, temporary)
        verify(temporary, expected, source)


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
            _append(response, part, begin, end)
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


def _append(response: requests.Response, part: Path, begin: int, end: int | None) -> None:
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


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _is_remote(location: str) -> bool:
    scheme, separator, _ = location.partition("://")
    if separator and scheme not in ("http", "https", "file"):
        raise InputError(f"{location}: unknown kind of address{suggest(scheme, ['http', 'https'])}")
    return scheme in ("http", "https") and bool(separator)


def _local(location: str) -> Path:
    if not location.startswith("file:"):
        return Path(location)
    return Path(unquote(re.sub(r"^file:(//(localhost)?(?=/))?", "", location)))
