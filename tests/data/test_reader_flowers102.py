"""The Flowers-102 reader: its MATLAB files, its splits and what is refused."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import Flowers102

from detransfer.console import InputError
from detransfer.data.index import read_index, write_index
from detransfer.data.options.flowers102 import OFFICIAL_CLASSES
from detransfer.data.readers import read_dataset

THREE = {"classes": ["rose", "lotus", "azalea"]}
LABELS = [1, 3, 2, 2, 1, 3]
SETS = {"trnid": [6, 1], "valid": [3], "tstid": [2, 5]}


def write(
    root: Path, labels: Any = LABELS, sets: dict[str, Any] = SETS, missing: int | None = None
) -> None:
    """Write the official files: row vectors, uint8 labels and uint16 numbers."""
    (root / "jpg").mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(root / "imagelabels.mat", {"labels": np.array([labels])})
    scipy.io.savemat(root / "setid.mat", {k: np.array([v]) for k, v in sets.items()})
    for number in range(1, len(LABELS) + 1):
        if number != missing:
            Image.new("RGB", (10 + number, 8)).save(root / f"jpg/image_{number:05d}.jpg")


def test_everything_arrives_in_the_index(tmp_path: Path) -> None:
    write(tmp_path / "flowers")
    write_index(tmp_path / "index", read_dataset("flowers102", tmp_path / "flowers", THREE))
    index = read_index(tmp_path / "index")
    assert index.images.to_dict("list") == {
        "image_id": [6, 1, 3, 2, 5],
        "path": [f"jpg/image_0000{number}.jpg" for number in (6, 1, 3, 2, 5)],
        "width": [16, 11, 13, 12, 15],
        "height": [8] * 5,
        "split": ["train", "train", "val", "test", "test"],
        "class_id": [2, 0, 1, 2, 0],
    }
    assert index.classes.to_numpy().tolist() == [
        [0, "rose", "1", ""],
        [1, "lotus", "2", ""],
        [2, "azalea", "3", ""],
    ]


def test_it_agrees_with_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision reads the same files; its own folder, splits and order of classes."""
    monkeypatch.setattr(Flowers102, "_check_integrity", lambda _: True)  # of the real files
    write(tmp_path / "flowers-102", sets={**SETS, "valid": [3, 4]})
    index = read_dataset("flowers102", tmp_path / "flowers-102", THREE)
    for split in ("train", "val", "test"):
        theirs = Flowers102(tmp_path, split)
        ours = index.split(split).images
        assert ours["class_id"].tolist() == theirs._labels
        assert [tmp_path / "flowers-102" / p for p in ours["path"]] == theirs._image_files
    assert list(OFFICIAL_CLASSES) == Flowers102.classes


def test_the_official_names_are_the_default(tmp_path: Path) -> None:
    write(tmp_path)
    classes = read_dataset("flowers102", tmp_path, {}).classes
    assert len(classes) == classes["name"].nunique() == 102
    assert classes.iloc[73][["name", "source_id"]].tolist() == ["rose", "74"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sets": {**SETS, "tstid": [2, 6]}}, "setid.mat: image 6 is there twice"),
        ({"sets": {**SETS, "tstid": [2, 2]}}, "setid.mat: image 2 is there twice"),
        ({"sets": {**SETS, "tstid": [7]}},
         "setid.mat: tstid names image 7, but imagelabels.mat has labels for images 1 to 6"),
        ({"sets": {**SETS, "valid": [0]}}, "setid.mat: valid names image 0"),
        ({"sets": {**SETS, "valid": []}}, "setid.mat: 'valid' should be a row of whole numbers"),
        ({"sets": {**SETS, "valid": [1.5]}}, "setid.mat: 'valid' should be a row of whole numbers"),
        ({"sets": {"trnid": [1]}}, "setid.mat: has no variable 'valid'"),
        ({"labels": [1, 3, 2, 4, 1, 3]}, "imagelabels.mat: image 4 has label 4, but there are "
         "names for classes 1 to 3; correct the option 'classes'"),
        ({"labels": [0, 3, 2, 2, 1, 3]}, "imagelabels.mat: image 1 has label 0"),
        ({"labels": "roses"}, "imagelabels.mat: 'labels' should be a row of whole numbers"),
        ({"missing": 5}, "image_00005.jpg: there is no such image"),
    ],
)  # fmt: skip
def test_faults_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write(tmp_path, **change)
    with pytest.raises(InputError) as caught:
        read_dataset("flowers102", tmp_path, THREE)
    assert str(caught.value).startswith(str(tmp_path))
    assert message in str(caught.value)


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    def fails(message: str) -> None:
        with pytest.raises(InputError, match=message):
            read_dataset("flowers102", tmp_path, THREE)

    write(tmp_path)
    (tmp_path / "jpg/image_00002.jpg").write_bytes(b"")
    fails(r"image_00002\.jpg: the file is empty")
    whole = (tmp_path / "setid.mat").read_bytes()
    for content in (b"", whole[:150], whole[:130] + b"\xff" * 40, b"MATLAB" * 40):
        (tmp_path / "setid.mat").write_bytes(content)
        fails(r"setid\.mat: (not a readable MAT-file|has no variable)")
    (tmp_path / "setid.mat").unlink()
    fails(r"setid\.mat: there is no such file")


NUMBERS = st.lists(st.integers(0, 7), max_size=4)


@settings(max_examples=40, deadline=None)
@given(NUMBERS, NUMBERS, NUMBERS, st.lists(st.integers(0, 4), max_size=7))
def test_any_numbers_make_a_valid_index_or_one_clear_line(
    train: list[int], val: list[int], test: list[int], labels: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write(root, labels, {"trnid": train, "valid": val, "tstid": test})
        try:
            index = read_dataset("flowers102", root, THREE)
        except InputError as error:
            assert str(error).startswith(name)
            assert len(str(error).splitlines()) == 1
            return
        write_index(root / "index", index)
        assert index.images["image_id"].tolist() == train + val + test
        assert [labels[number - 1] - 1 for number in train + val + test] == index.images[
            "class_id"
        ].tolist()
