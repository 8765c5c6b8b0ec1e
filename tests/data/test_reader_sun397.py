"""The SUN-397 reader: official lists, formats hidden under .jpg, and what is refused."""

from __future__ import annotations

import io
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detransfer.console import InputError
from detransfer.data.catalog import load_catalog
from detransfer.data.decoding import decode
from detransfer.data.extract import Part, extract
from detransfer.data.index import read_index, write_index
from detransfer.data.readers import read_dataset

CLASSES = ["/a/abbey", "/a/apartment_building/outdoor", "/z/zoo"]
TRAIN = ["/a/abbey/sun_b.jpg", "/z/zoo/sun_c.jpg", "/a/apartment_building/outdoor/sun_d.jpg"]
TEST = ["/z/zoo/sun_a.jpg", "/a/apartment_building/outdoor/sun_é.jpg", "/a/abbey/sun_a.jpg"]


def picture(width: int, height: int, kind: str, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height), 80 if mode == "L" else (90, 10, 200)).save(buffer, kind)
    return buffer.getvalue()


def lines(names: list[str], end: str = "\n") -> bytes:
    return "".join(f"{name}{end}" for name in names).encode()


def add(root: Path, name: str, content: bytes) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The official archives in small, unpacked where the catalog says."""
    kinds = ["JPEG", "PNG", "GIF", "BMP", "JPEG", "JPEG"]
    with tarfile.open(tmp_path / "SUN397.tar.gz", "w:gz") as tar:
        for number, (name, kind) in enumerate(zip(TRAIN + TEST, kinds, strict=True)):
            content = picture(20 + number, 9, kind)
            member = tarfile.TarInfo(f"SUN397{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with zipfile.ZipFile(tmp_path / "Partitions.zip", "w") as archive:
        archive.writestr("ClassName.txt", lines(CLASSES, "\r\n"))
        archive.writestr("Training_01.txt", lines(TRAIN))
        archive.writestr("Testing_01.txt", lines(TEST))
        archive.writestr("Training_10.txt", lines(TEST))
        archive.writestr("Testing_10.txt", lines(TRAIN))
    catalog = load_catalog()
    parts = [
        Part(tmp_path / name, catalog.archives[name].extract_to)
        for name in catalog.datasets["sun397"].archives
    ]
    extract(parts, tmp_path / "sun397")
    return tmp_path / "sun397"


def test_everything_arrives_in_the_index(root: Path, tmp_path: Path) -> None:
    write_index(tmp_path / "index", read_dataset("sun397", root, {}))
    index = read_index(tmp_path / "index")
    assert index.classes[["name", "source_id"]].to_numpy().tolist() == [
        ["abbey", "/a/abbey"],
        ["apartment_building/outdoor", "/a/apartment_building/outdoor"],
        ["zoo", "/z/zoo"],
    ]
    assert index.images.to_dict("list") == {
        "image_id": [0, 1, 2, 3, 4, 5],
        "path": [f"SUN397{name}" for name in TRAIN + TEST],
        "width": [20, 21, 22, 23, 24, 25],
        "height": [9] * 6,
        "split": ["train"] * 3 + ["test"] * 3,
        "class_id": [0, 2, 1, 2, 1, 0],
    }
    assert index.objects.empty


def test_a_file_is_read_by_what_it_holds_and_not_by_its_name(root: Path) -> None:
    index = read_dataset("sun397", root, {})
    for row in index.images.itertuples():
        assert decode(root / row.path).shape == (3, row.height, row.width)


def test_the_partition_is_an_option(root: Path) -> None:
    swapped = read_dataset("sun397", root, {"partition": 10}).split("train").images
    assert swapped["path"].tolist() == [f"SUN397{name}" for name in TEST]
    with pytest.raises(InputError, match=r"Training_07\.txt: there is no such list of images"):
        read_dataset("sun397", root, {"partition": 7})
    with pytest.raises(InputError, match="partition: Input should be less than or equal to 10"):
        read_dataset("sun397", root, {"partition": 11})


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("Partitions/Training_01.txt", lines([*TRAIN, "/a/alley/x.jpg"]),
         "Training_01.txt: line 4: /a/alley/x.jpg: ClassName.txt has no class '/a/alley'"),
        ("Partitions/Training_01.txt", lines([*TRAIN, TRAIN[1]]),
         f"Training_01.txt: line 4: '{TRAIN[1]}' is in line 2 already"),
        ("Partitions/Testing_01.txt", lines([*TEST, TRAIN[1]]),
         f"Testing_01.txt: line 4: {TRAIN[1]} is in Training_01.txt already"),
        ("Partitions/Testing_01.txt", lines(TEST[:1]),
         "Testing_01.txt: has no image of the class '/a/abbey' of ClassName.txt"),
        ("Partitions/Testing_01.txt", b"\r\n \r\n", "Testing_01.txt: the list of images is empty"),
        ("Partitions/Testing_01.txt", lines(TEST[:1]) + "/a/abbey/é.jpg\n".encode("latin-1"),
         "Testing_01.txt: line 2: not UTF-8 text"),
        ("Partitions/Testing_01.txt", lines(TEST[:1]) + b"\n\0\0\n",
         "Testing_01.txt: line 3: not a text file"),
        ("Partitions/Testing_01.txt", b"/a/abbey/sun a.jpg",
         "Testing_01.txt: line 1: expected one name, got '/a/abbey/sun a.jpg'"),
        ("Partitions/Testing_01.txt", lines([*TEST, "/z/zoo/gone.jpg"]),
         "SUN397/z/zoo/gone.jpg: there is no such image"),
        ("Partitions/ClassName.txt", lines([*CLASSES, "/zoo"]),
         "ClassName.txt: '/zoo' is not a class named like '/a/abbey'"),
        ("SUN397/z/zoo/sun_a.jpg", b"<html>", "sun_a.jpg: not a readable image"),
        ("SUN397/z/zoo/sun_a.jpg", b"", "sun_a.jpg: the file is empty"),
    ],
)  # fmt: skip
def test_faults_are_named(root: Path, file: str, content: bytes, message: str) -> None:
    add(root, file, content)
    with pytest.raises(InputError) as caught:
        read_dataset("sun397", root, {})
    assert str(caught.value).startswith(str(root))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_no_list_names_is_left_alone(root: Path) -> None:
    before = read_dataset("sun397", root, {})
    add(root, "SUN397/z/zoo/notes.txt", b"")
    add(root, "SUN397/z/zoo/sun_more.jpg", b"damaged")
    add(root, "Partitions/Training_01.txt", b"\xef\xbb\xbf" + lines(TRAIN, " \r\n") + b"\r\n")
    assert read_dataset("sun397", root, {}).images.equals(before.images)


NAMES = st.sampled_from([*TRAIN, *TEST, "/z/zoo/gone.jpg", "/q/q/q.jpg", "/x", "x", "", "a b"])
LIST = st.lists(NAMES, max_size=8)


@settings(max_examples=40, deadline=None)
@given(LIST, LIST, st.sampled_from([CLASSES, CLASSES[:2], [*CLASSES, "/x"], []]))
def test_any_lists_make_a_valid_index_or_one_clear_line(
    train: list[str], test: list[str], classes: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for image in TRAIN + TEST:
            add(root, f"SUN397{image}", picture(3, 2, "PNG"))
        add(root, "Partitions/ClassName.txt", lines(classes))
        add(root, "Partitions/Training_01.txt", lines(train))
        add(root, "Partitions/Testing_01.txt", lines(test))
        try:
            index = read_dataset("sun397", root, {})
        except InputError as error:
            assert str(error).startswith(name)
            assert "\n" not in str(error)
            return
        write_index(root / "index", index)
        listed = [image for image in train + test if image]
        assert index.images["path"].tolist() == [f"SUN397{image}" for image in listed]
        for row in index.images.itertuples():
            assert row.path.startswith(f"SUN397{classes[row.class_id]}/")
