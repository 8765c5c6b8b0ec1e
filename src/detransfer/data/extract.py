"""Archives to folders, safely: nothing outside the folder, and no half folder under its name."""

from __future__ import annotations

import logging
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from tqdm import tqdm

from detransfer.console import InputError
from detransfer.files import whole_folder

log = logging.getLogger(__name__)
TAR = (".tar", ".tar.gz", ".tgz")
PLAIN = (".csv", ".json", ".mat", ".txt")  # some owners publish single files beside archives
LONGEST_HEADER = 1 << 20  # bytes of a tar's extended header: names and dates, held in memory
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error)


@dataclass(frozen=True)
class Part:
    """One archive of a data set and the folder inside the data set that it is unpacked into."""

    archive: Path
    folder: str = "."


def extract(parts: Sequence[Part], output: Path) -> None:
    """Unpack archives into ``output``, which appears whole at the end or not at all.

    A tar inside a tar (ImageNet's training images) is unpacked into a folder of its name without
    ``.tar``; a plain file (labels, lists) is copied. An earlier ``output`` is replaced. Raises
    InputError for an archive that is missing, truncated or of an unknown kind, and for a member
    that is a link or a device, that would leave the folder, or that the disk has no room for.
    """
    with whole_folder(output) as temporary:
        for part in parts:
            log.info("extracting %s", part.archive)
            _extract_archive(part.archive, temporary / part.folder)


def _extract_archive(archive: Path, folder: Path) -> None:
    if not archive.is_file():
        raise InputError(f"{archive}: there is no such archive; fetch it first")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tqdm(desc=archive.name, unit=" files", disable=None) as progress:
            for _ in _members(archive, folder):
                progress.update()
    except DAMAGE as error:
        raise InputError(
            f"{archive}: the archive is truncated or damaged ({error}); fetch it again"
        ) from error
    except OSError as error:
        raise InputError(f"{archive}: extraction stopped: {error}") from error


def _members(archive: Path, folder: Path) -> Iterator[str]:
    """Unpack an archive by the kind that its name says; yields the name of each file."""
    if archive.name.endswith(TAR):
        with archive.open("rb") as file:
            if archive.suffix == ".tar":
                _check_end(file)
            yield from _extract_tar(file, str(archive), folder)
    elif archive.suffix == ".zip":
        yield from _extract_zip(archive, folder)
    elif archive.suffix in PLAIN:
        shutil.copyfile(archive, folder / archive.name)
        yield archive.name
    else:
        known = ", ".join((*TAR, ".zip", *PLAIN))
        raise InputError(f"{archive}: unknown kind of archive; known: {known}")


def _extract_tar(file: IO[bytes], name: str, folder: Path) -> Iterator[str]:
    """Unpack a tar from a stream, in one pass and without a copy of the tars inside it."""
    mode: Literal["r|gz", "r|"] = "r|gz" if name.endswith("gz") else "r|"
    with tarfile.open(fileobj=file, mode=mode, tarinfo=_Member) as tar:
        for member in tar:
            _check_name(name, member.name)
            _check_room(f"{name}: member {member.name}", member.size, folder)
            if not (member.isfile() or member.isdir()):
                kind = "a link" if member.issym() or member.islnk() else "a device"
                raise InputError(
                    f"{name}: member {member.name} is {kind}: refused; pack files only"
                )
            nested = tar.extractfile(member) if member.name.endswith(".tar") else None
            if nested is not None:
                inner = folder / member.name.removesuffix(".tar")
                inner.mkdir(parents=True, exist_ok=True)
                yield from _extract_tar(nested, f"{name}: {member.name}", inner)
                continue
            tar.extract(member, folder, filter="data")
            yield member.name


class _Member(tarfile.TarInfo):
    """A member whose extended header cannot fill the memory: a small gzip can hold a huge one."""

    EXTENDED = (
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
    )

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in self.EXTENDED and self.size > LONGEST_HEADER:
            raise tarfile.ReadError(f"a member's header says that it has {self.size} bytes")
        member: tarfile.TarInfo = super()._proc_member(tar)  # type: ignore[misc]
        return member


def _check_end(file: IO[bytes]) -> None:
    """Raise ReadError unless a tar ends in a block of zeros.

    One that is cut off between two members has lost the rest without another trace.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - tarfile.BLOCKSIZE))
    if any(file.read()):
        raise tarfile.ReadError("it has no end mark")
    file.seek(0)


def _extract_zip(archive: Path, folder: Path) -> Iterator[str]:
    with zipfile.ZipFile(archive) as content:
        _check_room(str(archive), sum(member.file_size for member in content.infolist()), folder)
        for member in content.infolist():
            _check_name(str(archive), member.filename)
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise InputError(
                    f"{archive}: member {member.filename} is a link or a device: refused; "
                    "pack files only"
                )
            with _readable(archive, member.filename):
                content.extract(member, folder)
            yield member.filename


@contextmanager
def _readable(archive: Path, member: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:  # encrypted, or an odd compression
        raise InputError(f"{archive}: member {member} cannot be unpacked ({error})") from error


def _check_room(what: str, size: int, folder: Path) -> None:
    """Raise InputError for more bytes than the disk has free, before the first is written."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise InputError(f"{what} unpacks to {size} bytes, but {folder} has room for {free}")


def _check_name(archive: str, member: str) -> None:
    """Raise InputError for a member whose path is absolute or climbs with ``..``."""
    path = PurePosixPath(member)
    if path.is_absolute() or ".." in path.parts:
        raise InputError(f"{archive}: member {member} leaves the folder: refused")
