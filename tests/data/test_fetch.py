"""Archives come from the place that is given, are what the catalog says, and leave a record."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from detransfer.console import InputError
from detransfer.data.catalog import Archive, Login
from detransfer.data.fetch import Sources, fetch_archive, locate, read_checksums
from tests.data.web_site import CONTENT, MD5, QUICK, SHA, Site, serve


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serve() as site:
        yield site


def archive(
    url: str = "http://127.0.0.1:9/x", login: Login | None = None, **known: object
) -> Archive:
    source = "test" if {"sha256", "md5"} & known.keys() else "unknown"
    fields = {"checksum_source": source, "licence": "none", "citation": "none", **known}
    return Archive.model_validate({"url": url, "login": login, **fields})


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


def test_what_arrived_is_recorded_in_a_form_that_can_be_given_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`cat data/archives/*.sha256` is a file of checksums, and what sha256sum checks."""
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    outputs = [tmp_path / "archives" / name for name in ("a.tar", "b.csv")]
    caplog.set_level("INFO")
    for output, known in zip(outputs, ({"sha256": SHA}, {}), strict=True):
        (mirror / output.name).write_bytes(CONTENT)
        fetch_archive(output.name, archive(**known), output, Sources(str(mirror)), QUICK)
    assert f"b.csv: sha256 {SHA}, recorded in {outputs[1]}.sha256" in caplog.text
    check = ["sha256sum", "--check", "--quiet", "a.tar.sha256", "b.csv.sha256"]
    subprocess.run(check, cwd=tmp_path / "archives", check=True)
    records = [output.with_name(f"{output.name}.sha256") for output in outputs]
    (tmp_path / "mine").write_text("".join(record.read_text() for record in records))
    assert read_checksums(tmp_path / "mine") == {"a.tar": SHA, "b.csv": SHA}
    sources = Sources(str(mirror), tmp_path / "mine")
    fetch_archive("b.csv", archive(), outputs[1], sources, QUICK)
    (mirror / "b.csv").write_bytes(CONTENT[:-1])
    with pytest.raises(InputError, match=rf"wrong sha256: expected {SHA} \({tmp_path}/mine\), got"):
        fetch_archive("b.csv", archive(), outputs[1], sources, QUICK)


def test_where_nothing_is_published_the_first_download_decides(tmp_path: Path) -> None:
    mirror, output = tmp_path / "mirror", tmp_path / "archives" / "a.csv"
    mirror.mkdir()
    record = output.with_name("a.csv.sha256")
    sources = Sources(str(mirror))
    (mirror / "a.csv").write_bytes(CONTENT)
    fetch_archive("a.csv", archive(), output, sources, QUICK)
    output.unlink()  # what Snakemake does before it makes a file again
    fetch_archive("a.csv", archive(), output, sources, QUICK)
    (mirror / "a.csv").write_bytes(b"another version")
    with pytest.raises(InputError) as caught:
        fetch_archive("a.csv", archive(), output, sources, QUICK)
    assert f"expected {SHA} (recorded in {record}; delete it to take the file" in str(caught.value)
    assert output.read_bytes() == CONTENT
    record.unlink()
    fetch_archive("a.csv", archive(), output, sources, QUICK)
    assert output.read_bytes() == b"another version"
    # A published sum is not outvoted by a record.
    with pytest.raises(InputError, match=rf"expected {SHA} \(the catalog\)"):
        fetch_archive("a.csv", archive(sha256=SHA), output, sources, QUICK)


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
