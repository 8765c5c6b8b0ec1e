"""What comes from outside cannot run code, leave its folder, or fill memory and disk in silence.

A test for each kind of input that docs/reliability.md lists. Paths that climb, links and devices
in archives are in tests/data/test_extract.py, weight files with code in tests/test_backbone.py.
"""

from __future__ import annotations

import ast
import gzip
import io
import re
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from PIL import Image

from detransfer.backbone import register, save_backbone
from detransfer.console import InputError
from detransfer.data import extract as extraction
from detransfer.data.decoding import decode
from detransfer.data.download import Expected, fetch, fetch_url
from detransfer.data.extract import Part, extract
from detransfer.data.images import image_size
from detransfer.data.matfile import read_mat
from detransfer.data.readers import read_dataset
from detransfer.features.extract import load_frozen
from detransfer.strict import load_file, validate
from detransfer.study import Study
from detransfer.training_run import architecture_of
from tests.data.web_site import QUICK

MEGABYTE = 1 << 20


@contextmanager
def little_memory(megabytes: float) -> Iterator[None]:
    """Fail if Python's own objects take more than this at any moment of the body."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1] / MEGABYTE
    finally:
        tracemalloc.stop()
    assert peak < megabytes, f"{peak:.0f} MB"


# --- YAML ---
BOMB = "a0: &a0 [lol, lol]\n" + "".join(
    f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}, *a{i - 1}]\n" for i in range(1, 30)
)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(BOMB, id="aliases of aliases"),
        pytest.param("a: &a [*a]\n", id="a circle"),
        pytest.param("a: " + "[" * 500 + "]" * 500, id="nested deeply"),
        pytest.param("a: " + "[" * 100_000 + "]" * 100_000, id="nested very deeply"),
    ],
)
def test_a_yaml_bomb_is_refused_before_anything_looks_at_every_value(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with little_memory(100), pytest.raises(InputError, match=r"x\.yaml: ") as caught:
        load_file(tmp_path / "x.yaml", Study)
    assert len(str(caught.value)) < 2000


def test_a_bomb_in_the_configuration_that_snakemake_read_is_refused() -> None:
    with pytest.raises(InputError, match=r"configuration: .* once its aliases"):
        validate(Study, yaml.safe_load(BOMB), "configuration")


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system [exit]", "!!python/name:os.system"]
)
def test_yaml_makes_no_python_objects(tmp_path: Path, tag: str) -> None:
    (tmp_path / "x.yaml").write_text(f"study: {tag}\n")
    with pytest.raises(InputError, match="not readable as YAML: could not determine a constructor"):
        load_file(tmp_path / "x.yaml", Study)


# --- XML ---
ENTITIES = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
XML_BOMB = f'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a0 "{"x" * 100}">{ENTITIES}]>'
XML_FILE = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a9 SYSTEM "file:///etc/hostname">]>'


@pytest.mark.parametrize("head", [XML_BOMB, XML_FILE], ids=["entities of entities", "a local file"])
def test_xml_entities_neither_fill_memory_nor_read_files(tmp_path: Path, head: str) -> None:
    """10^11 characters once written out; expat stops at a hundred times what the file has."""
    devkit = tmp_path / "VOCdevkit" / "VOC2007"
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (devkit / part).mkdir(parents=True)
    Image.new("RGB", (50, 40)).save(devkit / "JPEGImages/a.jpg")
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    (devkit / "Annotations/a.xml").write_text(
        f"{head}<annotation><object><name>&a9;</name>{box}</object></annotation>"
    )
    (devkit / "ImageSets/Main/trainval.txt").write_text("a\n")
    options = {"sets": {"train": "VOC2007/trainval"}}
    with little_memory(100), pytest.raises(InputError, match=r"a\.xml") as caught:
        read_dataset("voc", tmp_path, options)
    assert len(str(caught.value)) < 2000
    hostname = Path("/etc/hostname")
    assert not hostname.is_file() or hostname.read_text().strip() not in str(caught.value)


# --- Archives ---
def refused(archive: Path, message: str) -> None:
    """Unpacking fails with the message and leaves nothing behind."""
    before = set(archive.parent.rglob("*"))
    with little_memory(100), pytest.raises(InputError, match=message):
        extract([Part(archive)], archive.parent / "out")
    assert set(archive.parent.rglob("*")) == before


class Free(NamedTuple):
    free: int


@pytest.fixture
def small_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there seem to be a megabyte left."""
    monkeypatch.setattr(extraction.shutil, "disk_usage", lambda folder: Free(MEGABYTE))


@pytest.mark.usefixtures("small_disk")
@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz"])
def test_a_bomb_is_refused_before_the_disk_is_full(tmp_path: Path, name: str) -> None:
    """Twenty megabytes of zeros in some kilobytes, more than there is room for."""
    archive, zeros = tmp_path / name, bytes(10 * MEGABYTE)
    if name.endswith("zip"):
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as content:
            for member in "ab":
                content.writestr(member, zeros)
    else:
        with tarfile.open(archive, "w:gz") as content:
            for each in "ab":
                member = tarfile.TarInfo(each)
                member.size = len(zeros)
                content.addfile(member, io.BytesIO(zeros))
    assert archive.stat().st_size < MEGABYTE
    refused(archive, rf"unpacks to {10 if name.endswith('gz') else 20}\d+ bytes, but")


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_tar_header_cannot_fill_the_memory(tmp_path: Path, kind: bytes) -> None:
    """A name of 200 MB, which tarfile itself would read whole before it says anything."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = kind, 200 * MEGABYTE
    with gzip.open(tmp_path / "x.tar.gz", "wb", compresslevel=1) as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        for _ in range(200):
            file.write(bytes(MEGABYTE))
    refused(tmp_path / "x.tar.gz", r"x\.tar\.gz: the archive is truncated or damaged .*209715200")


# --- Images and MATLAB files ---
def png_header(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and holds next to nothing."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))]
    chunks += [(b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_an_image_that_claims_billions_of_pixels_never_enters_an_index(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_header(60_000, 60_000))
    with pytest.raises(InputError, match=r"a\.png: .*decompression bomb"):
        image_size(tmp_path / "a.png")


def test_only_the_first_frame_of_an_animation_is_decoded(tmp_path: Path) -> None:
    """A thousand equal frames of a megapixel: 3 GB if all were decoded, as torchvision would."""
    frame = Image.new("P", (1000, 1000))
    rest = [Image.new("P", (1000, 1000), number % 2) for number in range(1, 50)]
    frame.save(tmp_path / "a.gif", save_all=True, append_images=rest)
    with little_memory(20):
        assert decode(tmp_path / "a.gif").shape == (3, 1000, 1000)


def test_a_compressed_matlab_variable_cannot_fill_the_memory(tmp_path: Path) -> None:
    stream = zlib.compressobj(1)
    packed = b"".join(stream.compress(bytes(MEGABYTE)) for _ in range(600)) + stream.flush()
    head = b"MATLAB 5.0".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
    (tmp_path / "x.mat").write_bytes(head + struct.pack("<II", 15, len(packed)) + packed)
    with little_memory(600), pytest.raises(InputError, match=r"x\.mat: .*more than \d+ bytes"):
        read_mat(tmp_path / "x.mat", "x")


# --- Pickles ---
def test_nothing_that_is_loaded_can_be_a_pickle(repository: Path) -> None:
    """torch.load is told weights_only, np.load allow_pickle=False; nothing else would run code."""
    for file in [*repository.glob("src/**/*.py"), *repository.glob("scripts/*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            given = {each.arg: ast.unparse(each.value) for each in node.keywords}
            match ast.unparse(node.func):
                case "torch.load":
                    assert given.get("weights_only") == "True", file
                case "np.load":
                    assert given.get("allow_pickle") == "False", file
                case "pickle.load" | "pickle.loads" | "pd.read_pickle" | "eval" | "exec":
                    raise AssertionError(f"{file}: {ast.unparse(node)}")
                case "yaml.load":
                    assert ast.unparse(node.args[1]) == "_Loader", file


# --- Weights ---
SPY = """
from pathlib import Path
Path(__file__).with_suffix(".ran").touch()
from timm.models import register_model, resnet
@register_model
def {name}(pretrained=False, **arguments):
    return resnet.resnet10t(channels=(8, 8, 16, 16), stem_width=4, **arguments)
"""


@pytest.mark.parametrize("named", ["spy_a.py", "data/unpacked/spy_b.py", "{absolute}/spy_c.py"])
def test_a_file_that_weights_name_is_not_run_unless_the_user_names_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    """Neither beside them, nor in the checkout, where archives are unpacked, nor elsewhere."""
    monkeypatch.chdir(tmp_path)
    file = Path(named.format(absolute=tmp_path / "elsewhere"))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(SPY.format(name=file.stem))
    weights = tmp_path / "model.safetensors"
    architecture = {"name": file.stem, "file": str(file)}
    save_backbone(weights, {"x": torch.zeros(1)}, {"architecture": architecture})
    refusal = rf"model\.safetensors: its network is defined by {file}.*--architecture {file}$"
    for given in (None, Path("another.py")):
        with pytest.raises(InputError, match=refusal):
            load_frozen(weights, 32, given)
    assert list(tmp_path.rglob("*.ran")) == []
    with pytest.raises(InputError, match="of another architecture"):  # now it is; x is no weight
        load_frozen(weights, 32, file)
    assert list(tmp_path.rglob("*.ran")) == [file.resolve().with_suffix(".ran")]


def test_the_users_file_is_run_and_not_the_one_that_weights_name(tmp_path: Path) -> None:
    """A copy elsewhere will do, as on another machine; what lies where they say is left alone."""
    for folder in ("trusted", "theirs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "spy_d.py").write_text(SPY.format(name="spy_d"))
    own = tmp_path / "trusted" / "spy_d.py"
    header = {"architecture": {"name": "spy_d", "file": str(tmp_path / "theirs" / "spy_d.py")}}
    choice = architecture_of(header, tmp_path / "x.safetensors", own)
    assert choice.file == own
    register(choice)
    assert list(tmp_path.rglob("*.ran")) == [own.with_suffix(".ran")]


def test_every_program_that_builds_the_network_of_weights_asks_for_its_file(
    repository: Path,
) -> None:
    openers = r"\b(load_(detector|classifier|segmenter|frozen)|architecture_of|detector_for)\("
    opening = 0
    for file in repository.glob("scripts/*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and re.match(openers, f"{ast.unparse(node.func)}("):
                opening += 1
                given = ast.unparse(node.args[-1])
                assert given in ("arguments.architecture", "architecture"), f"{file}: {given}"
    assert opening >= 9


# --- URLs ---
@pytest.fixture
def redirecting(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, dict[str, Any]]]:
    """A server that sends everybody elsewhere, or sends more than it should."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    says: dict[str, Any] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302 if "to" in says else 200)
            if "to" in says:
                self.send_header("Location", says["to"])
            self.end_headers()
            with suppress(ConnectionError):  # the other side has had enough
                for _ in range(says.get("megabytes", 0)):
                    self.wfile.write(bytes(MEGABYTE))

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/x.bin", says
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "to", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "gopher://x/"]
)
def test_a_redirection_cannot_leave_the_web(
    redirecting: tuple[str, dict[str, Any]], tmp_path: Path, to: str
) -> None:
    url, says = redirecting
    says["to"] = to
    with pytest.raises(InputError, match="No connection adapters"):
        fetch_url(url, "0" * 64, tmp_path / "out.bin", QUICK)
    assert not (tmp_path / "out.bin").exists()


@pytest.mark.parametrize("url", ["ftp://x/y", "gopher://x/y", "s3://x/y", "javascript://x"])
def test_other_schemes_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(InputError, match="unknown kind of address"):
        fetch_url(url, None, tmp_path / "out.bin", QUICK)


def test_a_server_that_never_stops_is_stopped(
    redirecting: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    url, says = redirecting
    says["megabytes"] = 500
    with pytest.raises(InputError, match="sends more than the 1000 bytes expected"):
        fetch(url, tmp_path / "out.bin", Expected(size=1000), QUICK)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < MEGABYTE
