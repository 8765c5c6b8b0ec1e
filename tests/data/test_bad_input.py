"""Every reader against every fault: the table of docs/data_sets.md, tried; and random damage."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from detransfer.console import InputError
from detransfer.data.decoding import decode
from detransfer.data.extract import TAR, Part, extract
from detransfer.data.index import write_index
from tests.data.reader_cases import CASES, Bench, build, picture, read

Fault = Callable[[Bench], set[str]]
STRAYS = ("Thumbs.db", ".DS_Store", "._000001.jpg", "._n1_1.JPEG", "._000001.xml", "notes.md")
WORDS = {"E": "error", "C": "counted", "S": "same", "I": "changed"}  # letters of the page's table


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The root of a sound data set by reader; their archives lie in ``mirror`` beside it."""
    return {reader: build(reader, tmp_path_factory.mktemp(reader)) for reader in CASES}


@pytest.fixture(params=sorted(CASES))
def bench(request: pytest.FixtureRequest, sound: dict[str, Path], tmp_path: Path) -> Bench:
    root = tmp_path / sound[request.param].name
    shutil.copytree(sound[request.param], root)
    return Bench(request.param, root, sound[request.param].parent / "mirror")


# Each fault damages one file after the other and returns all that came of it.


def cut_archive(bench: Bench) -> set[str]:
    found = set()
    for source in sorted(bench.mirror.glob("*")):
        name, cut = source.name, bench.root.parent / source.name
        if name.endswith((*TAR, ".zip")) and source.stat().st_size > 1000:  # with files in it
            cut.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
            with pytest.raises(InputError, match=f"{name}: the archive is truncated or damaged"):
                extract([Part(cut)], bench.root.parent / "out")
            assert not (bench.root.parent / "out").exists()
            found.add("error")
    return found


def missing_note(bench: Bench) -> set[str]:
    return bench.each(bench.lists + bench.notes, Path.unlink)


def empty_note(bench: Bench) -> set[str]:
    return bench.each(bench.lists + bench.notes, lambda path: path.write_bytes(b""))


def cut_note(bench: Bench) -> set[str]:
    return bench.each(bench.lists + bench.notes, halve)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rewritten(change: Callable[[str], bytes]) -> Fault:
    """The fault of having the text of each list or annotation in another form."""

    def fault(bench: Bench) -> set[str]:
        return bench.each(bench.lists, lambda path: path.write_bytes(change(path.read_text())))

    return fault


def repeated(bench: Bench) -> set[str]:
    """Lines, entries, numbers and members that stand there a second time."""
    lines = [path for path in bench.lists if path.suffix in (".txt", ".csv")]
    found = bench.each(lines, repeat_line)
    if bench.reader == "coco":
        for key in ("images", "annotations", "categories"):
            found |= bench.each(bench.lists, lambda path, key=key: repeat_entry(path, key))
    if bench.reader == "flowers102":
        found |= bench.each([bench.root / "setid.mat"], repeat_number)
    if bench.reader == "imagenet_loc":
        found |= bench.each([p for p in bench.notes if p.name.endswith(".gz")], repeat_member)
    return found


def repeat_line(path: Path) -> None:
    text = path.read_text()
    path.write_text(text + text.splitlines(keepends=True)[-1])


def repeat_entry(path: Path, key: str) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, key: [*content[key], content[key][0]]}))


def repeat_number(path: Path) -> None:
    sets = {k: v for k, v in scipy.io.loadmat(path).items() if not k.startswith("__")}
    scipy.io.savemat(path, {**sets, "tstid": np.hstack([sets["tstid"], sets["tstid"][:, :1]])})


def repeat_member(path: Path) -> None:
    with tarfile.open(path) as tar:
        files = [(member, tar.extractfile(member)) for member in tar if member.isfile()]
        contents = [(member, file.read()) for member, file in files if file]
    with tarfile.open(path, "w:gz") as tar:
        for member, content in [*contents, contents[0]]:
            place = path.parent / "member"
            place.write_bytes(content)
            tar.add(place, member.name)
            place.unlink()


def missing_image(bench: Bench) -> set[str]:
    return bench.each(bench.images, Path.unlink)


def no_image(bench: Bench) -> set[str]:
    contents = (b"", b"\xff\xd8", b"<html>not found</html>")
    faults = [lambda path, c=content: path.write_bytes(c) for content in contents]
    return set().union(*(bench.each(bench.images, fault) for fault in faults))


def another_size(bench: Bench) -> set[str]:
    return bench.each(bench.images, lambda path: path.write_bytes(picture((37, 23))))


def odd_image(bench: Bench) -> set[str]:
    """Grey, CMYK, turned by EXIF, a palette, an animation: whatever the name of the file says."""
    turned = Image.Exif()
    turned[0x0112] = 6
    kinds: list[dict] = [
        {"mode": "L"},
        {"mode": "CMYK"},
        {"exif": turned},
        {"mode": "P", "form": "PNG"},
        {"mode": "P", "form": "GIF", "save_all": True,
         "append_images": [Image.new("P", (9, 9), 7)]},
    ]  # fmt: skip
    found = set()
    for kind in kinds:
        for path in bench.images[::3]:
            size = Image.open(path).size
            content = picture(size, **kind)
            found |= bench.each([path], lambda path, c=content: path.write_bytes(c))
            (bench.root.parent / "odd").write_bytes(content)
            assert decode(bench.root.parent / "odd").shape == (3, size[1], size[0])
    return found


def stray_files(bench: Bench) -> set[str]:
    folders = {path.parent for path in bench.root.rglob("*") if path.is_file()}
    for folder in {bench.root, *folders}:
        for name in STRAYS:
            (folder / name).write_bytes(b"\0\5\26\7")
    return {bench.attempt()}


def extra_image(bench: Bench) -> set[str]:
    first = bench.images[0]
    more = first.with_name(f"{first.stem}7{first.suffix}")
    more.write_bytes(first.read_bytes())
    return {bench.attempt()}


def foreign_name(bench: Bench) -> set[str]:
    """An image with letters beyond ASCII in its name, in the lists too."""
    old = bench.images[0].stem
    new = f"{old}-größe"
    for path in sorted(bench.root.rglob("*")):
        if path.is_file() and path.stem == old:
            path.rename(path.with_name(f"{new}{path.suffix}"))
    for path in bench.lists:
        if path.is_file():
            path.write_text(path.read_text().replace(old, new))
    found = bench.attempt()
    if found == "changed":
        index = read(bench.reader, bench.root)
        assert index.images["path"].str.contains("-größe").sum() == 1
        assert len(index.images) == len(bench.sound.images)
        assert len(index.objects) == len(bench.sound.objects)
        return {"same"}
    return {found}


FAULTS: dict[str, Fault] = {
    "archive cut off": cut_archive,
    "list or annotation missing": missing_note,
    "list or annotation empty": empty_note,
    "list or annotation cut in half": cut_note,
    "text as UTF-16": rewritten(lambda text: text.encode("utf-16")),
    "text as Latin-1, with an é": rewritten(lambda text: (text + "é\n").encode("latin-1")),
    "lines that end in CR LF": rewritten(lambda text: text.replace("\n", "\r\n").encode()),
    "byte order mark": rewritten(lambda text: text.encode("utf-8-sig")),
    "id, line or entry repeated": repeated,
    "image missing": missing_image,
    "image empty, damaged or none": no_image,
    "image of another size": another_size,
    "grey, CMYK, EXIF-rotated, animated": odd_image,
    "hidden and foreign files": stray_files,
    "image that no list names": extra_image,
    "name beyond ASCII": foreign_name,
}


def table_of(page: str) -> dict[str, dict[str, set[str]]]:
    """Read the page's table: what is said to come of a fault, by fault and reader."""
    head, *rows = re.findall(r"^\| .* \|$", page.partition("### Reader by fault")[2], re.M)
    readers = [word.strip(" `") for word in head.split("|")[2:-1]]
    found = {}
    for row in rows:
        fault, *cells = (cell.strip() for cell in row.split("|")[1:-1])
        found[fault] = {
            reader: {WORDS[letter] for letter in cell if letter in WORDS}
            for reader, cell in zip(readers, cells, strict=True)
        }
    return found


PAGE = table_of((Path(__file__).parents[2] / "docs/data_sets.md").read_text())


def test_the_page_has_every_reader_and_fault() -> None:
    assert PAGE.keys() == FAULTS.keys()
    assert all(row.keys() == CASES.keys() for row in PAGE.values())


@pytest.mark.parametrize("fault", FAULTS)
def test_what_the_page_says_comes_of_a_fault(bench: Bench, fault: str) -> None:
    assert FAULTS[fault](bench) == PAGE[fault][bench.reader]


# --- random damage -------------------------------------------------------------------------------

TOKENS = ["", "-1", "0", "nan", "inf", "1e999", "2147483648", "9" * 40, "é", "\0", '"', "<", "]",
          "{", "\\", "\r", "x" * 300]  # fmt: skip


KINDS = ["flip", "remove", "insert", "repeat", "cut", "number", "other"]


@st.composite
def damage(draw: st.DrawFn, content: bytes, other: bytes) -> bytes:
    """Draw what is left of a file: bytes flipped, taken out, repeated, or a number replaced."""
    for _ in range(draw(st.integers(1, 3))):
        size = len(content)
        start = draw(st.integers(0, size))
        end = min(size, start + draw(st.integers(0, 40)))
        kind = draw(
            st.sampled_from(["flip", "remove", "insert", "repeat", "cut", "number", "other"])
        )
        if kind == "flip" and start < size:
            flipped = content[start] ^ (1 << draw(st.integers(0, 7)))
            content = content[:start] + bytes([flipped]) + content[start + 1 :]
        elif kind == "remove":
            content = content[:start] + content[end:]
        elif kind == "insert":
            content = content[:start] + draw(st.binary(max_size=8)) + content[start:]
        elif kind == "repeat":
            content = content[:end] + content[start:]
        elif kind == "cut":
            content = content[:start]
        elif kind == "number" and (found := list(re.finditer(rb"-?\d+(?:\.\d+)?", content))):
            number = found[draw(st.integers(0, len(found) - 1))]
            token = draw(st.sampled_from(TOKENS)).encode()
            content = content[: number.start()] + token + content[number.end() :]
        elif kind == "other":
            content = other
    return content


@pytest.fixture(scope="module")
def benches(sound: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bench]:
    """A bench a reader, for damage that is undone each time."""
    found = {}
    for reader, root in sound.items():
        place = tmp_path_factory.mktemp(f"damaged_{reader}") / root.name
        shutil.copytree(root, place)
        found[reader] = Bench(reader, place, root.parent / "mirror")
    return found


@pytest.mark.filterwarnings("ignore::Warning")  # Pillow's and SciPy's, on what they make out
@pytest.mark.parametrize("reader", sorted(CASES))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_happens_to_a_file_there_is_a_valid_index_or_one_clear_line(
    benches: dict[str, Bench], reader: str, data: st.DataObject
) -> None:
    bench = benches[reader]
    path = data.draw(st.sampled_from(bench.lists * 3 + bench.notes * 3 + bench.images))
    content = path.read_bytes()
    other = data.draw(st.sampled_from(bench.lists + bench.notes + bench.images)).read_bytes()
    options = {}
    if "on_bad_object" in bench.options:
        options["on_bad_object"] = data.draw(st.sampled_from(["fail", "drop"]))
    path.write_bytes(data.draw(damage(content, other)))
    try:
        found = bench.attempt(**options)
        if found != "error":
            write_index(bench.root.parent / "index", read(reader, bench.root, **options))
        if options.get("on_bad_object") == "fail" and reader not in ("coco", "openimages"):
            assert found != "counted"  # there boxes of no area are left out in any case
    finally:
        path.write_bytes(content)
