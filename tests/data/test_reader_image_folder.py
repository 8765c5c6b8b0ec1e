"""The reader of folders of one's own, and every odd kind of image file."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import ImageFolder

from detransfer.console import InputError
from detransfer.data.decoding import decode
from detransfer.data.index import read_index, write_index
from detransfer.data.readers import read_dataset


def add(path: Path, size: tuple[int, int] = (6, 4), mode: str = "RGB", **save: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size).save(path, **save)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "own"
    for number, name in enumerate(
        ["train/cat/2.jpg", "train/cat/10.png", "train/Hund ä/x.JPG", "val/cat/a.jpg",
         "val/Hund ä/größe.jpg"]
    ):  # fmt: skip
        add(root / name, (10 + number, 7))
    return root


def test_everything_arrives_in_the_index(root: Path, tmp_path: Path) -> None:
    write_index(tmp_path / "index", read_dataset("image_folder", root, {}))
    index = read_index(tmp_path / "index")
    assert index.classes.to_numpy().tolist() == [[0, "Hund ä", "Hund ä", ""], [1, "cat", "cat", ""]]
    assert index.images.to_dict("list") == {
        "image_id": [0, 1, 2, 3, 4],
        "path": ["train/Hund ä/x.JPG", "train/cat/10.png", "train/cat/2.jpg",
                 "val/Hund ä/größe.jpg", "val/cat/a.jpg"],
        "width": [12, 11, 10, 14, 13],
        "height": [7] * 5,
        "split": ["train"] * 3 + ["val"] * 2,
        "class_id": [0, 1, 1, 0, 1],
    }  # fmt: skip
    assert all((index.root / path).is_file() for path in index.images["path"])


def test_it_agrees_with_torchvision(root: Path) -> None:
    index = read_dataset("image_folder", root, {})
    for split in ("train", "val"):
        theirs = ImageFolder(str(root / split))
        ours = index.split(split).images
        assert theirs.classes == index.classes["name"].tolist()
        assert theirs.samples == [
            (str(root / path), class_id)
            for path, class_id in zip(ours["path"], ours["class_id"], strict=True)
        ]


def test_splits_and_classes_are_options(root: Path) -> None:
    assert set(read_dataset("image_folder", root, {"splits": ["val"]}).images["split"]) == {"val"}
    add(root / "train/fox/1.jpg")
    chosen = read_dataset("image_folder", root, {"classes": ["fox", "cat"]})
    assert chosen.classes["name"].tolist() == ["fox", "cat"]
    assert chosen.images[["split", "class_id"]].to_numpy().tolist() == [
        ["train", 0], ["train", 1], ["train", 1], ["val", 1],
    ]  # fmt: skip


def test_odd_images_have_the_size_of_their_stored_pixels(root: Path) -> None:
    """Grey, CMYK, palette, transparent, rotated by EXIF, animated, and 16 bits a channel."""
    rotated = Image.Exif()
    rotated[0x0112] = 6  # a quarter turn
    frames = [Image.new("P", (9, 5), colour) for colour in (3, 90)]
    folder = root / "train/cat"
    odd = [
        add(folder / "grey.jpg", (9, 5), "L"),
        add(folder / "cmyk.jpg", (9, 5), "CMYK"),
        add(folder / "palette.png", (9, 5), "P"),
        add(folder / "clear.png", (9, 5), "RGBA"),
        add(folder / "turned.jpg", (9, 5), exif=rotated),
        add(folder / "moves.gif", (9, 5), "P", save_all=True, append_images=frames),
        add(folder / "deep.png", (9, 5), "I;16"),
        add(folder / "moves.webp", (9, 5)),
        add(folder / "scan.tif", (9, 5)),
    ]
    images = read_dataset("image_folder", root, {}).images.set_index("path")
    for path in odd:
        row = images.loc[str(path.relative_to(root))]
        assert (row["width"], row["height"]) == (9, 5), path.name
        assert decode(path).shape == (3, 5, 9), path.name


def test_what_is_no_image_is_skipped_and_logged(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = read_dataset("image_folder", root, {})
    (root / "train/cat/notes.txt").write_text("")
    (root / "train/cat/._2.jpg").write_bytes(b"what macOS leaves")
    (root / ".git/x").mkdir(parents=True)
    (root / "README.md").write_text("")
    (root / "val/cat/more.jpg").mkdir()
    caplog.set_level("INFO")
    assert read_dataset("image_folder", root, {}).images.equals(before.images)
    for line in ("notes.txt: skipped (not an image)", "more.jpg: skipped (a folder)",
                 "README.md: skipped (not a folder)"):  # fmt: skip
        assert line in caplog.text


def test_faults_are_named(root: Path) -> None:
    def fails(message: str, options: dict[str, Any] | None = None) -> None:
        with pytest.raises(InputError, match=message):
            read_dataset("image_folder", root, options or {})

    fails("there is no split 'vall'; did you mean 'val'", {"splits": ["train", "vall"]})
    fails("no split has a class 'cta'; did you mean 'cat'", {"classes": ["cta"]})
    extra = add(root / "val/fox/1.jpg")
    fails("split 'val' has a class 'fox' that 'train' lacks; rename the folder")
    extra.unlink()
    extra.parent.rmdir()
    (root / "val/cat/a.jpg").write_bytes(b"\xff\xd8")
    fails(r"val/cat/a\.jpg: not a readable image")
    (root / "val/cat/a.jpg").unlink()
    fails(r"val/cat: has no images \(\.jpg")
    (root / "val/cat").rename(root / "val/cats")
    fails("split 'train' has a class 'cat' that 'val' lacks; rename the folder")
    fails(r"own/val: has none of the classes of the option 'classes'", {"classes": ["cat"]})
    (root / "test").mkdir()
    fails("own/test: has no class folders", {"splits": ["test"]})
    (root / "train" / os.fsdecode(b"ros\xe9")).mkdir()
    fails(r"train/ros\\udce9: its name is not UTF-8; rename it", {"splits": ["train"]})
    with pytest.raises(InputError, match="has no folders; expected <split>/<class>/<image>"):
        read_dataset("image_folder", root / "test", {})


PLACES = st.lists(
    st.sampled_from([f"{s}/{c}/{n}" for s in ("train", "val") for c in ("a", "b", "é")
                     for n in ("1.jpg", "2.PNG", "x.txt", ".h.jpg", "sub/")]
                    + ["a.jpg", "train/1.jpg", "empty/"]),
    unique=True,
)  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(PLACES, st.sampled_from([None, ["a"], ["b", "a"], ["é"]]))
def test_any_folder_makes_a_valid_index_or_one_clear_line(
    places: list[str], classes: list[str] | None
) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for place in places:
            if place.endswith("/"):
                (root / place).mkdir(parents=True, exist_ok=True)
            else:
                add(root / place, format="PNG")
        try:
            index = read_dataset("image_folder", root, {"classes": classes})
        except InputError as error:
            assert str(error).startswith(name)
            assert len(str(error).splitlines()) == 1
            return
        write_index(root / "index", index)
        names = index.classes["name"].tolist()
        wanted = {p for p in places if p.endswith(("1.jpg", "2.PNG")) and p.count("/") == 2
                  and (classes is None or p.split("/")[1] in classes)}  # fmt: skip
        assert set(index.images["path"]) == wanted
        for row in index.images.itertuples():
            assert row.path.split("/")[:2] == [row.split, names[row.class_id]]
