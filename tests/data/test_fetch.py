"""Downloads are continued, checked, and appear only when they are right."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from detransfer.console import InputError
from detransfer.data.catalog import Archive, Login
from detransfer.data.fetch import (
    Expected,
    Patience,
    Sources,
    fetch,
    fetch_archive,
    fetch_url,
    locate,
    read_checksums,
)

CONTENT = np.random.default_rng(0).bytes(200_000)
SHA = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()
QUICK = Patience(attempts=3, delay=0.01, timeout=5)


@dataclass
class Site:
    """What the server on the loopback does, and what it was asked."""

    url: str = ""
    content: bytes = CONTENT
    ranges: bool = True
    cut: int | None = None  # bytes of body after which every connection breaks
    statuses: list[int] = field(default_factory=list)  # answers before the first good one
    shift: int = 0  # error in the position at which a range starts
    asked: list[str] = field(default_factory=list)  # Range header of every request


def handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append(self.headers.get("Range", ""))
            if site.statuses:
                self.send_error(site.statuses.pop(0))
                return
            begin, total = 0, len(site.content)
            match = re.fullmatch(r"bytes=(\d+)-", site.asked[-1])
            if match and site.ranges:
                begin = int(match[1]) + site.shift
                if begin >= total:
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{total}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {begin}-{total - 1}/{total}")
            else:
                self.send_response(200)
            body = site.content[begin:]
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if site.cut is None else body[: site.cut])

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    return Handler


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(site))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    site.url = f"http://127.0.0.1:{server.server_port}/file.bin"
    yield site
    server.shutdown()
    server.server_close()


def archive(
    url: str = "http://127.0.0.1:9/x", login: Login | None = None, **known: object
) -> Archive:
    fields = {"checksum_source": "test", "licence": "none", "citation": "none", **known}
    return Archive.model_validate({"url": url, "login": login, **fields})


def test_a_download_is_the_file(site: Site, tmp_path: Path) -> None:
    output = tmp_path / "deep/file.bin"
    fetch(site.url, output, Expected(len(CONTENT), SHA, MD5), QUICK)
    assert output.read_bytes() == CONTENT
    assert [path.name for path in output.parent.iterdir()] == ["file.bin"]


def test_a_cut_connection_is_continued_by_range(site: Site, tmp_path: Path) -> None:
    # Whole chunks of 65,536 bytes are kept, so it takes four connections: more than `attempts`,
    # but each brings new bytes.
    site.cut = 66_000
    fetch(site.url, tmp_path / "f", Expected(sha256=SHA), QUICK)
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert site.asked == ["", "bytes=65536-", "bytes=131072-", "bytes=196608-"]


def test_a_part_of_an_earlier_run_is_continued(site: Site, tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(CONTENT[:150_000])
    fetch(site.url, tmp_path / "f", Expected(sha256=SHA), QUICK)
    assert site.asked == ["bytes=150000-"]
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_a_server_without_ranges_starts_over(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    (tmp_path / "f.part").write_bytes(b"x" * 150_000)
    fetch(site.url, tmp_path / "f", Expected(sha256=SHA), QUICK)
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_a_server_without_ranges_that_always_breaks_is_given_up(site: Site, tmp_path: Path) -> None:
    site.ranges, site.cut = False, 60_000
    with pytest.raises(InputError, match="gave up after 3 attempts without a new byte"):
        fetch(site.url, tmp_path / "f", Expected(sha256=SHA), QUICK)
    assert len(site.asked) == 3
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize("length", [len(CONTENT), len(CONTENT) + 5])
def test_a_part_as_long_as_the_file_or_longer(site: Site, tmp_path: Path, length: int) -> None:
    """416: a complete part is taken as it is; one that is too long starts over."""
    (tmp_path / "f.part").write_bytes((CONTENT + b"rest!")[:length])
    fetch(site.url, tmp_path / "f", Expected(sha256=SHA), QUICK)
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert len(site.asked) == (1 if length == len(CONTENT) else 2)


def test_a_range_from_the_wrong_place_is_not_appended(site: Site, tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(CONTENT[:1000])
    site.shift = 7
    fetch(site.url, tmp_path / "f", Expected(sha256=SHA), QUICK)
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_without_any_checksum_an_old_part_is_not_trusted(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "f.part").write_bytes(b"x" * 1000)
    caplog.set_level("INFO")
    fetch(site.url, tmp_path / "f", Expected(), QUICK)
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert f"no sha256 known, measured {SHA}" in caplog.text


def test_passing_trouble_is_waited_for_and_lasting_trouble_is_not(
    site: Site, tmp_path: Path
) -> None:
    site.statuses = [503, 429]
    fetch(site.url, tmp_path / "f", Expected(sha256=SHA), QUICK)
    assert len(site.asked) == 3
    site.statuses = [404] * 9
    with pytest.raises(InputError, match=r"file\.bin: the server answered 404 Not Found"):
        fetch(site.url, tmp_path / "g", Expected(sha256=SHA), QUICK)
    assert len(site.asked) == 4


def test_waits_double(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("detransfer.data.fetch.time.sleep", waits.append)
    site.statuses = [500] * 9
    with pytest.raises(InputError, match="500"):
        fetch(site.url, tmp_path / "f", Expected(), Patience(attempts=4, delay=1.5, timeout=5))
    assert waits == [1.5, 3.0, 6.0]


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_wrong_checksum_names_both_and_keeps_the_earlier_output(
    site: Site, tmp_path: Path, kind: str
) -> None:
    output = tmp_path / "f"
    output.write_bytes(b"good")
    wanted = "0" * (64 if kind == "sha256" else 32)
    with pytest.raises(InputError) as caught:
        fetch(site.url, output, Expected(**{kind: wanted}), QUICK)
    measured = SHA if kind == "sha256" else MD5
    assert f"wrong {kind}: expected {wanted}, got {measured}" in str(caught.value)
    assert output.read_bytes() == b"good"
    assert not (tmp_path / "f.part").exists()


def test_a_wrong_size_is_noticed_before_the_download(site: Site, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="wrong size: expected 5, the server has 200000"):
        fetch(site.url, tmp_path / "f", Expected(size=5), QUICK)
    assert not (tmp_path / "f").exists()


def test_an_unreachable_server_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gave up after 2 attempts"):
        fetch_url("http://127.0.0.1:9/x", SHA, tmp_path / "f", Patience(2, 0.01, 2))
    with pytest.raises(InputError, match="unknown kind of address"):
        fetch_url("ftp://127.0.0.1/x", SHA, tmp_path / "f", QUICK)


@pytest.mark.parametrize("form", ["{}", "file:{}", "file://{}", "file://localhost{}"])
def test_a_local_mirror_is_copied_and_checked(tmp_path: Path, form: str) -> None:
    mirror = tmp_path / "my mirror"
    mirror.mkdir()
    (mirror / "a.tar").write_bytes(CONTENT)
    root = form.format(str(mirror).replace(" ", "%20") if form.startswith("file") else mirror)
    output = tmp_path / "a.tar"
    fetch_archive("a.tar", archive(sha256=SHA), output, Sources(mirror=root), QUICK)
    assert output.read_bytes() == CONTENT
    assert not output.is_symlink() and not output.samefile(mirror / "a.tar")
    with pytest.raises(InputError, match="wrong sha256"):
        fetch_archive("a.tar", archive(sha256="0" * 64), output, Sources(mirror=root), QUICK)
    assert output.read_bytes() == CONTENT


def test_a_remote_mirror_holds_archives_by_name(site: Site, tmp_path: Path) -> None:
    root = site.url.removesuffix("/file.bin") + "/"
    place = locate("a b.tar", archive(), Sources(mirror=root))
    assert place == f"{root}a%20b.tar"
    fetch_archive("x.tar", archive(md5=MD5), tmp_path / "x", Sources(mirror=root), QUICK)


def test_given_checksums_replace_those_of_the_catalog(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(CONTENT)
    sums = tmp_path / "sums"
    sums.write_text(f"# ours\n\n{SHA.upper()} *a.tar\n")
    official = archive(sha256="0" * 64, size=3)
    sources = Sources(str(tmp_path), sums)
    fetch_archive("a.tar", official, tmp_path / "out", sources, QUICK)
    assert (tmp_path / "out").read_bytes() == CONTENT
    with pytest.raises(InputError, match=r"sums: lists no checksum of b\.tar"):
        fetch_archive("b.tar", official, tmp_path / "out", sources, QUICK)
    sums.write_text(f"{SHA}  a.tar\nabc  b.tar\n")
    with pytest.raises(InputError, match="sums: line 2 is not"):
        read_checksums(sums)


def test_an_archive_behind_a_login_says_what_to_do(tmp_path: Path) -> None:
    login = Login(account="a university account", page="https://example.org/get")
    sources = Sources(manual=tmp_path / "manual")
    with pytest.raises(InputError) as caught:
        locate("big.tar", archive(login=login), sources)
    for part in ("big.tar", "https://example.org/get", "a university account", "manual/big.tar"):
        assert part in str(caught.value)
    (tmp_path / "manual").mkdir()
    (tmp_path / "manual/big.tar").write_bytes(CONTENT)
    fetch_archive("big.tar", archive(login=login, sha256=SHA), tmp_path / "o", sources, QUICK)
    assert (tmp_path / "o").read_bytes() == CONTENT


def test_a_mirror_without_the_archive_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.tar: the mirror does not have this archive"):
        locate("a.tar", archive(), Sources(mirror=str(tmp_path)))


def test_the_program(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "val2017.zip").write_bytes(CONTENT)
    (tmp_path / "sums").write_text(f"{SHA}  val2017.zip\n")
    command = [sys.executable, "scripts/fetch.py", "--output", str(tmp_path / "out.zip")]
    command += ["--mirror", str(tmp_path), "--checksums", str(tmp_path / "sums"), "--archive"]
    environment = {"PYTHONPATH": "src"}
    subprocess.run([*command, "val2017.zip"], cwd=repository, env=environment, check=True)
    assert (tmp_path / "out.zip").read_bytes() == CONTENT
    done = subprocess.run(
        [*command, "val2018.zip"], cwd=repository, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "no archive 'val2018.zip'; did you mean 'val2017.zip'" in done.stderr
