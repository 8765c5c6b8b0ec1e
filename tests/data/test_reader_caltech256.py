"""The Caltech-256 reader: its folders, its leftovers and its split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detransfer.console import InputError
from detransfer.data.extract import Part, extract
from detransfer.data.index import Index, read_index, write_index
from detransfer.data.options.caltech256 import Options
from detransfer.data.readers import read_dataset
from detransfer.data.readers.caltech256 import split_class

FOLDER = "256_ObjectCategories"
SMALL = {"train_per_class": 4}


def add_class(root: Path, name: str, count: int) -> Path:
    folder = root / FOLDER / name
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        Image.new("RGB", (10 + number, 20)).save(folder / f"{name[:3]}_{number:04d}.jpg")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, count in (("056.dog", 9), ("001.ak47", 7), ("257.clutter", 12)):
        add_class(tmp_path, name, count)
    return tmp_path


def training(index: Index) -> dict[str, set[str]]:
    """File names of the training images by class name."""
    table = index.split("train").images
    names = index.classes["name"]
    return {
        names[class_id]: {Path(path).name for path in group["path"]}
        for class_id, group in table.groupby("class_id")
    }


def test_everything_arrives_in_the_index(root: Path, tmp_path: Path) -> None:
    write_index(tmp_path / "index", read_dataset("caltech256", root, SMALL))
    index = read_index(tmp_path / "index")
    assert index.classes[["name", "source_id"]].to_numpy().tolist() == [
        ["ak47", "001"],
        ["dog", "056"],
        ["clutter", "257"],
    ]
    counts = index.images.groupby(["class_id", "split"]).size().to_dict()
    assert counts == {(0, "train"): 4, (0, "test"): 3, (1, "train"): 4, (1, "test"): 5,
                      (2, "train"): 4, (2, "test"): 8}  # fmt: skip
    assert index.images["image_id"].tolist() == list(range(28))
    assert index.objects.empty
    for row in index.images.itertuples():
        number = int(Path(row.path).stem[-4:])
        assert (row.width, row.height) == (10 + number, 20)
        assert row.path.startswith(f"{FOLDER}/{index.classes['source_id'][row.class_id]}.")


def test_the_split_is_drawn_by_the_seed_and_by_each_class_alone(root: Path) -> None:
    first = training(read_dataset("caltech256", root, SMALL))
    assert first == training(read_dataset("caltech256", root, SMALL))
    other = training(read_dataset("caltech256", root, {**SMALL, "seed": 1}))
    assert first.keys() == other.keys()
    assert first != other
    assert len({frozenset(f[4:] for f in files) for files in first.values()}) > 1
    add_class(root, "002.banana", 8)
    more = training(read_dataset("caltech256", root, SMALL))
    assert {name: more[name] for name in first} == first


def test_the_split_stays_what_it_was() -> None:
    """Known draws: a changed split would silently change every published number."""
    split = split_class(10, "dog", Path("x"), Options(train_per_class=4))
    again = split_class(10, "dog", Path("y"), Options(train_per_class=4))
    assert (split == again).all()
    assert np.flatnonzero(split == "train").tolist() == [0, 3, 4, 8]


def test_the_test_images_are_cut_to_a_total(root: Path) -> None:
    whole = read_dataset("caltech256", root, {**SMALL, "eval_total": None})
    cut = read_dataset("caltech256", root, {**SMALL, "eval_total": 10})
    assert training(whole) == training(cut)
    assert len(whole.split("test").images) == 16
    left = set(cut.split("test").images["path"])
    assert len(left) == 10
    assert left < set(whole.split("test").images["path"])
    assert cut.images["image_id"].is_unique
    other = read_dataset("caltech256", root, {**SMALL, "eval_total": 16})
    assert set(other.images["path"]) == set(whole.images["path"])


def test_leftovers_of_the_official_archive_are_skipped_and_logged(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = read_dataset("caltech256", root, SMALL)
    greg = root / FOLDER / "056.dog/greg"
    greg.mkdir()
    Image.new("RGB", (5, 5)).save(greg / "056_0001.jpg")
    (root / FOLDER / "001.ak47/RENAME2").write_text("mv a b")
    caplog.set_level("INFO")
    assert read_dataset("caltech256", root, SMALL).images.equals(before.images)
    assert "056.dog/greg: skipped (a folder)" in caplog.text
    assert "001.ak47/RENAME2: skipped (not an image)" in caplog.text


def test_bad_folders_are_named(root: Path, tmp_path: Path) -> None:
    def fails(message: str, where: Path = root) -> None:
        with pytest.raises(InputError, match=message):
            read_dataset("caltech256", where, SMALL)

    with pytest.raises(InputError, match=r"001\.ak47: has 7 images, .* lower .*'train_per_class'"):
        read_dataset("caltech256", root, {"train_per_class": 7})
    (root / FOLDER / "056.dog/056_0003.jpg").write_bytes(b"")
    fails(r"056_0003\.jpg: the file is empty")
    (root / FOLDER / "notes.txt").write_text("")
    fails(r"notes\.txt: not a class folder named like '056\.dog'")
    (tmp_path / "x" / FOLDER).mkdir(parents=True)
    fails("has no class folders", tmp_path / "x")
    (tmp_path / "y").mkdir()
    fails(r"extract 256_ObjectCategories\.tar first", tmp_path / "y")


@pytest.mark.real_data
def test_real_counts(real_data: Path, tmp_path: Path) -> None:
    root = tmp_path / "caltech256"
    extract([Part(real_data / "mirror/256_ObjectCategories.tar")], root)
    index = read_dataset("caltech256", root, {"train_per_class": 20})
    assert len(index.images) == 3969
    assert len(index.classes) == 101
    train = index.split("train").images
    assert train["class_id"].value_counts().eq(20).all()
    assert len(train) == 2020
    with pytest.raises(InputError, match=r"001\.faces: has 40 images"):
        read_dataset("caltech256", root, {})
