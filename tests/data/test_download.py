"""Downloads are continued, checked, and appear only when they are right."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from detransfer.console import InputError
from detransfer.data.download import Expected, Patience, fetch, fetch_url
from tests.data.web_site import CONTENT, MD5, QUICK, SHA, Site, serve


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serve() as site:
        yield site


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


def test_without_any_checksum_an_old_part_is_not_trusted(site: Site, tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(b"x" * 1000)
    assert fetch(site.url, tmp_path / "f", Expected(), QUICK) == SHA
    assert (tmp_path / "f").read_bytes() == CONTENT


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
    monkeypatch.setattr("detransfer.data.download.time.sleep", waits.append)
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
        fetch(site.url, output, Expected(**{kind: wanted}, source="a list"), QUICK)
    measured = SHA if kind == "sha256" else MD5
    assert f"wrong {kind}: expected {wanted} (a list), got {measured}" in str(caught.value)
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


HOLD = """
import sys, time
from pathlib import Path
from detransfer.locks import sole_writer
output = Path(sys.argv[1])
with sole_writer(output):
    output.with_name("begun").touch()
    end = time.monotonic() + 60
    while not output.with_name("go").exists() and time.monotonic() < end:
        time.sleep(0.02)
    output.with_name("left").replace(output)
"""


@pytest.mark.parametrize("left", [CONTENT, CONTENT[:-1]])
def test_a_download_that_was_left_behind_is_waited_for(
    site: Site, tmp_path: Path, left: bytes
) -> None:
    """Both append to the same .part. What the other one has made is taken where it is right."""
    (tmp_path / "left").write_bytes(left)
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "f")])
    while not (tmp_path / "begun").exists():
        assert other.poll() is None
        time.sleep(0.02)
    with ThreadPoolExecutor() as threads:
        fetched = threads.submit(fetch, site.url, tmp_path / "f", Expected(sha256=SHA), QUICK)
        time.sleep(0.5)
        assert site.asked == [] and not fetched.done()
        (tmp_path / "go").touch()
        assert fetched.result(30) == SHA
    assert other.wait(10) == 0
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert site.asked == ([] if left == CONTENT else [""])
