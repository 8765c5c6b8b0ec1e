"""Archives are unpacked whole, inside their folder, or not at all."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from detransfer.console import InputError
from detransfer.data.extract import Part, extract

FILES = {"a.txt": b"alpha", "sub/b.bin": bytes(range(256)) * 300, "sub/deep/c": b""}


def tar_bytes(files: dict[str, bytes], extra: list[tarfile.TarInfo] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in extra or []:
            tar.addfile(member)
    return buffer.getvalue()


def write_zip(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def refused(archive: Path, *messages: str) -> None:
    """Extraction fails with the messages and leaves nothing, inside or outside."""
    output = archive.parent / "out"
    before = set(archive.parent.rglob("*"))
    with pytest.raises(InputError) as caught:
        extract([Part(archive)], output)
    for message in messages:
        assert message in str(caught.value)
    assert set(archive.parent.rglob("*")) == before


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.tgz", "x.zip"])
def test_every_kind_gives_its_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("zip"):
        write_zip(path, FILES)
    else:
        content = tar_bytes(FILES)
        path.write_bytes(content if name == "x.tar" else gzip.compress(content))
    extract([Part(path)], tmp_path / "out")
    assert tree(tmp_path / "out") == FILES


def test_parts_share_a_folder_or_have_their_own(tmp_path: Path) -> None:
    for name, files in {
        "a.tar": {"x/1": b"1"},
        "b.tar": {"x/2": b"2"},
        "c.tar": {"3": b"3"},
    }.items():
        (tmp_path / name).write_bytes(tar_bytes(files))
    parts = [Part(tmp_path / "a.tar"), Part(tmp_path / "b.tar"), Part(tmp_path / "c.tar", "val")]
    extract(parts, tmp_path / "out")
    assert tree(tmp_path / "out") == {"x/1": b"1", "x/2": b"2", "val/3": b"3"}


def test_tars_inside_a_tar_become_folders(tmp_path: Path) -> None:
    """The layout of ImageNet's training archive, and what is left on the disk meanwhile."""
    inner = {
        f"n0000000{k}.tar": tar_bytes({f"n0000000{k}_{i}.JPEG": bytes([k, i]) for i in range(3)})
        for k in range(3)
    }
    (tmp_path / "train.tar").write_bytes(tar_bytes(inner))
    extract([Part(tmp_path / "train.tar", "train")], tmp_path / "out")
    assert tree(tmp_path / "out") == {
        f"train/n0000000{k}/n0000000{k}_{i}.JPEG": bytes([k, i]) for k in range(3) for i in range(3)
    }


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "a/../b"])
def test_paths_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.tar").write_bytes(tar_bytes({"ok": b"1", name: b"2"}))
    refused(tmp_path / "x.tar", "x.tar", f"member {name} leaves the folder")
    write_zip(tmp_path / "x.zip", {"ok": b"1", name: b"2"})
    refused(tmp_path / "x.zip", "x.zip", f"member {name} leaves the folder")


def test_a_bad_path_in_an_inner_tar_names_both_archives(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar_bytes({"in.tar": tar_bytes({"../evil": b"2"})}))
    refused(tmp_path / "x.tar", "x.tar: in.tar: member ../evil leaves the folder")


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("pointer")
    member.type, member.linkname = kind, "../../outside"
    (tmp_path / "x.tar").write_bytes(tar_bytes({"ok": b"1"}, [member]))
    word = "a link" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else "a device"
    refused(tmp_path / "x.tar", f"member pointer is {word}")


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("pointer")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(link, "../../outside")
    refused(tmp_path / "x.zip", "member pointer is a link")


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.zip"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_truncated_archives_are_named(tmp_path: Path, name: str, share: float) -> None:
    whole = tmp_path / name
    if name.endswith("zip"):
        write_zip(whole, FILES)
    else:
        content = tar_bytes(FILES)
        whole.write_bytes(content if name == "x.tar" else gzip.compress(content))
    content = whole.read_bytes()  # most of it is the big file, so both shares end inside that
    whole.write_bytes(content[: int(len(content) * share)])
    refused(whole, f"{name}: the archive is truncated or damaged")


def test_a_tar_cut_off_between_two_members_is_noticed(tmp_path: Path) -> None:
    """A head and a block of content each: nothing but the end mark says that there was more."""
    content = tar_bytes({"a": b"x" * 512, "b": b"y" * 512})
    (tmp_path / "x.tar").write_bytes(content[:1024])
    refused(tmp_path / "x.tar", "x.tar: the archive is truncated or damaged (it has no end mark)")


def test_a_truncated_inner_tar_is_noticed(tmp_path: Path) -> None:
    inner = tar_bytes({"image": b"x" * 50_000})[:20_000]
    (tmp_path / "x.tar").write_bytes(tar_bytes({"in.tar": inner}))
    refused(tmp_path / "x.tar", "truncated or damaged")


def test_a_damaged_zip_member_is_noticed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("image", b"x" * 5000)
    content = bytearray((tmp_path / "x.zip").read_bytes())
    content[1000] ^= 1
    (tmp_path / "x.zip").write_bytes(content)
    refused(tmp_path / "x.zip", "truncated or damaged", "CRC")


def test_missing_and_unknown_archives(tmp_path: Path) -> None:
    refused(tmp_path / "no.tar", "no.tar: there is no such archive")
    (tmp_path / "x.rar").write_bytes(b"")
    refused(tmp_path / "x.rar", "x.rar: unknown kind of archive")


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "x.tar").write_bytes(tar_bytes(FILES))
    monkeypatch.setattr(tarfile, "copyfileobj", full)
    refused(tmp_path / "x.tar", "extraction stopped", "No space left on device")


def test_an_earlier_output_survives_failure_and_is_replaced_by_success(tmp_path: Path) -> None:
    output = tmp_path / "out"
    (tmp_path / ".out.partial").mkdir()  # left by a killed run
    (tmp_path / ".out.partial/half").write_bytes(b"")
    (tmp_path / "x.tar").write_bytes(tar_bytes({"old": b"1"}))
    extract([Part(tmp_path / "x.tar")], output)
    (tmp_path / "x.tar").write_bytes(tar_bytes({"../new": b"2"}))
    with pytest.raises(InputError):
        extract([Part(tmp_path / "x.tar")], output)
    assert tree(output) == {"old": b"1"}
    (tmp_path / "x.tar").write_bytes(tar_bytes({"new": b"2"}))
    extract([Part(tmp_path / "x.tar")], output)
    assert tree(output) == {"new": b"2"}
    assert {path.name for path in tmp_path.iterdir()} == {"x.tar", "out"}


def test_the_program_puts_each_archive_where_it_is_told(tmp_path: Path, repository: Path) -> None:
    command = [sys.executable, "scripts/extract.py", "--output", str(tmp_path / "out")]
    for name, folder in (("ILSVRC2012_img_val.tar", "val"), ("my own.tar", ".")):
        (tmp_path / name).write_bytes(tar_bytes({"image.JPEG": name.encode()}))
        command += ["--part", str(tmp_path / name), folder]
    subprocess.run(command, cwd=repository, env={"PYTHONPATH": "src"}, check=True)
    assert tree(tmp_path / "out") == {
        "val/image.JPEG": b"ILSVRC2012_img_val.tar",
        "image.JPEG": b"my own.tar",
    }


def test_a_plain_file_is_copied_into_its_folder(tmp_path: Path) -> None:
    labels = tmp_path / "imagelabels.mat"
    labels.write_bytes(bytes(range(200)))
    extract([Part(labels, "labels")], tmp_path / "out")
    assert (tmp_path / "out" / "labels" / "imagelabels.mat").read_bytes() == labels.read_bytes()


HALF = """
import sys, time
from pathlib import Path
from detransfer.data import extract as extraction

def slow(archive, folder):  # as one of a million files
    (folder / "a.txt").write_text("half")
    Path(sys.argv[3]).touch()
    end = time.monotonic() + 60
    while not Path(sys.argv[4]).exists() and time.monotonic() < end:
        time.sleep(0.02)
    (folder / "a.txt").write_text("of the first")

extraction._extract_archive = slow
extraction.extract([extraction.Part(Path(sys.argv[1]))], Path(sys.argv[2]))
"""
WHOLE = """
import sys
from pathlib import Path
from detransfer.data.extract import Part, extract
extract([Part(Path(sys.argv[1]))], Path(sys.argv[2]))
"""


def test_a_job_that_was_left_behind_is_waited_for(tmp_path: Path) -> None:
    """Both unpack in the same place: the second would remove what the first writes."""
    write_zip(tmp_path / "x.zip", FILES)
    output, begun, go = tmp_path / "out", tmp_path / "begun", tmp_path / "go"
    words = [str(tmp_path / "x.zip"), str(output)]
    first = subprocess.Popen([sys.executable, "-c", HALF, *words, str(begun), str(go)])
    while not begun.exists():
        assert first.poll() is None
        time.sleep(0.02)
    second = subprocess.Popen([sys.executable, "-c", WHOLE, *words])
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(2)
    assert not output.exists()
    go.touch()
    assert (first.wait(30), second.wait(30)) == (0, 0)
    assert tree(output) == FILES, "the second unpacked, once it was alone"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["begun", "go", "out", "x.zip"]
