"""The archives of the catalog: where each is taken from, and what it has to be.

The SHA-256 of every archive that arrived is recorded beside it, in a file ``<archive>.sha256`` of
the form that ``sha256sum --check`` reads. Where nobody published a checksum, the first download
decides: the record is what a later one has to be.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from detransfer.console import InputError
from detransfer.data.catalog import Archive
from detransfer.data.download import Expected, Patience, fetch, is_remote, local_path
from detransfer.files import atomic

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sources:
    """Where a study takes its archives from."""

    mirror: str | None = None  # folder, file: URL or http(s) URL that holds every archive by name
    checksums: Path | None = None  # sha256sum file that replaces the catalog's checksums
    manual: Path = Path("data/manual")  # where a person puts what needs an account


def fetch_archive(
    name: str, archive: Archive, output: Path, sources: Sources, patience: Patience
) -> None:
    """Put a catalog archive at ``output``, whole and checked, and its checksum beside it.

    Raises InputError when the archive is not where it should be, needs an account, cannot be
    downloaded, or is not what ``sources.checksums``, the catalog or an earlier record says.
    """
    record = output.with_name(f"{output.name}.sha256")
    expected = _expected(name, archive, sources, record)
    measured = fetch(locate(name, archive, sources), output, expected, patience)
    with atomic(record) as temporary:
        temporary.write_text(f"{measured}  {name}\n")
    log.info("%s: sha256 %s, recorded in %s", name, measured, record)


def _expected(name: str, archive: Archive, sources: Sources, record: Path) -> Expected:
    if sources.checksums is not None:
        return Expected(sha256=_listed(name, sources.checksums), source=str(sources.checksums))
    if archive.sha256 is None and archive.md5 is None and record.is_file():
        source = f"recorded in {record}; delete it to take the file as it is now"
        return Expected(archive.size, _listed(name, record), source=source)
    return Expected(archive.size, archive.sha256, archive.md5, "the catalog")


def _listed(name: str, path: Path) -> str:
    sums = read_checksums(path)
    if name not in sums:
        raise InputError(f"{path}: lists no checksum of {name}; add its line")
    return sums[name]


def locate(name: str, archive: Archive, sources: Sources) -> str | Path:
    """Return the http(s) URL or the path of an archive.

    Raises InputError when a local file is absent: for an archive behind a login with the page, the
    account and the place to put it.
    """
    if sources.mirror is not None:
        if is_remote(sources.mirror):
            return f"{sources.mirror.rstrip('/')}/{quote(name)}"
        path = local_path(sources.mirror) / name
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
