"""The reader of VOC's segmentation with SBD: the union of lists, the masks, and real data."""

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
from torchvision.datasets import VOCSegmentation

from detransfer.console import InputError
from detransfer.data.extract import Part, extract
from detransfer.data.index import read_index, write_index
from detransfer.data.masks import VOID, read_mask
from detransfer.data.readers import read_dataset

VOC = "VOCdevkit/VOC2012"
SBD = "benchmark_RELEASE/dataset"


def write_lists(
    root: Path, voc: tuple[list[str], list[str]], sbd: tuple[list[str], list[str]]
) -> None:
    for folder, lists in ((f"{VOC}/ImageSets/Segmentation", voc), (SBD, sbd)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name, images in zip(("train", "val"), lists, strict=True):
            text = "".join(f"{image}\r\n" for image in images)
            (root / folder / f"{name}.txt").write_text(text, newline="")


def write_image(root: Path, name: str, size: tuple[int, int], value: int) -> None:
    """Write an image with the mask of both data sets: VOC's has the value, SBD's one more."""
    width, height = size
    for folder in (f"{VOC}/JPEGImages", f"{SBD}/img", f"{VOC}/SegmentationClass", f"{SBD}/cls"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for folder in (f"{VOC}/JPEGImages", f"{SBD}/img"):
        Image.new("RGB", size).save(root / folder / f"{name}.jpg")
    mask = Image.new("P", size, value)
    mask.putpalette([0, 0, 0, 128, 0, 0])
    mask.save(root / f"{VOC}/SegmentationClass/{name}.png")
    more = np.full((height, width), value + 1, np.uint8)
    scipy.io.savemat(root / f"{SBD}/cls/{name}.mat", {"GTcls": {"Segmentation": more}})


NAMES = ["2007_000032", "2008_000002", "2008_000003", "2011_003353", "2009_000009"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """SBD's lists hold a training image of VOC, a validation image of VOC and two of its own."""
    root = tmp_path / "voc_segmentation"
    write_lists(root, (NAMES[:1], NAMES[1:2]), ([NAMES[0], NAMES[2]], [NAMES[1], *NAMES[3:]]))
    for number, name in enumerate(NAMES):
        write_image(root, name, (20 + number, 10), number)
    return root


def test_everything_arrives_in_the_index(root: Path, tmp_path: Path) -> None:
    write_index(tmp_path / "index", read_dataset("voc_segmentation", root, {}))
    index = read_index(tmp_path / "index")
    own = [NAMES[2], NAMES[3], NAMES[4]]
    assert index.images.to_dict("list") == {
        "image_id": [2007000032, 2008000003, 2011003353, 2009000009, 2008000002],
        "path": [f"{VOC}/JPEGImages/2007_000032.jpg", *(f"{SBD}/img/{n}.jpg" for n in own),
                 f"{VOC}/JPEGImages/2008_000002.jpg"],
        "width": [20, 22, 23, 24, 21],
        "height": [10] * 5,
        "split": ["train"] * 4 + ["val"],
        "mask": [f"{VOC}/SegmentationClass/2007_000032.png", *(f"{SBD}/cls/{n}.mat" for n in own),
                 f"{VOC}/SegmentationClass/2008_000002.png"],
    }  # fmt: skip
    values = [int(np.unique(read_mask(index.root / mask)).item()) for mask in index.images["mask"]]
    assert values == [0, 3, 4, 5, 1]  # VOC's own mask where an image lies in both
    assert index.classes["name"].tolist()[:3] == ["background", "aeroplane", "bicycle"]
    assert index.classes["source_id"].tolist() == [str(value) for value in range(21)]
    assert index.objects.empty


def test_without_sbd(root: Path) -> None:
    images = read_dataset("voc_segmentation", root, {"sbd": False}).images
    assert images["split"].tolist() == ["train", "val"]


def test_own_classes(root: Path) -> None:
    index = read_dataset("voc_segmentation", root, {"classes": ["a", "b", "c", "d", "e"]})
    assert index.classes["name"].tolist() == ["background", "a", "b", "c", "d", "e"]
    with pytest.raises(
        InputError, match=r"2009_000009\.mat: .* is 5, which is neither a class \(0"
    ):
        read_dataset("voc_segmentation", root, {"classes": ["a", "b", "c", "d"]})


def test_faults_are_named(root: Path) -> None:
    def fails(message: str) -> None:
        with pytest.raises(InputError, match=message) as caught:
            read_dataset("voc_segmentation", root, {})
        assert str(caught.value).startswith(str(root))

    write_lists(root, (NAMES[:1], NAMES[:2]), (NAMES[2:], NAMES[3:]))
    fails(r"Segmentation: image 2007_000032 is in train\.txt and in val\.txt")
    write_lists(root, (NAMES[:1] * 2, NAMES[1:2]), (NAMES[2:], NAMES[3:]))
    fails(r"Segmentation/train\.txt: line 2: '2007_000032' is in line 1 already")
    write_lists(root, (NAMES[:1], []), (NAMES[2:], NAMES[3:]))
    fails(r"Segmentation/val\.txt: the list of images is empty")
    write_lists(root, (NAMES[:1], NAMES[1:2]), (NAMES[2:], NAMES[3:]))
    write_image(root, NAMES[4], (24, 10), 4)
    Image.new("P", (24, 9)).save(root / f"{VOC}/SegmentationClass/{NAMES[1]}.png")
    fails(r"2008_000002\.png: the mask has 24 x 9 pixels, but its image "
          r"VOCdevkit/VOC2012/JPEGImages/2008_000002\.jpg has 21 x 10")  # fmt: skip
    (root / f"{SBD}/cls/{NAMES[3]}.mat").write_bytes(b"damaged")
    fails(r"2011_003353\.mat: not a readable MAT-file")
    (root / f"{SBD}/cls/{NAMES[3]}.mat").unlink()
    fails(r"2011_003353\.mat: there is no such mask")
    (root / f"{SBD}/img/{NAMES[3]}.jpg").unlink()
    fails(r"2011_003353\.jpg: there is no such image")
    (root / f"{SBD}/val.txt").unlink()
    fails(r"dataset/val\.txt: there is no such list of images")
    (root / SBD).rename(root / "moved")
    fails(r"extract benchmark\.tgz, or set the option 'sbd' to false")


LIST = st.lists(st.sampled_from([*NAMES, "gone", "", "a b"]), max_size=4)


@settings(max_examples=30, deadline=None)
@given(LIST, LIST, LIST, LIST, st.booleans())
def test_any_lists_make_a_valid_index_or_one_clear_line(
    train: list[str], val: list[str], more: list[str], rest: list[str], sbd: bool
) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for number, image in enumerate(NAMES):
            write_image(root, image, (3, 2), number)
        write_lists(root, (train, val), (more, rest))
        try:
            index = read_dataset("voc_segmentation", root, {"sbd": sbd})
        except InputError as error:
            assert str(error).startswith(name)
            assert len(str(error).splitlines()) == 1
            return
        write_index(root / "index", index)
        images = {split: {Path(path).stem for path in part["path"]}
                  for split, part in index.images.groupby("split")}  # fmt: skip
        union = set(train) | (set(more) | set(rest) if sbd else set())
        assert images == {"train": union - set(val) - {""}, "val": set(val) - {""}}


@pytest.mark.real_data
def test_real_masks_agree_with_torchvision(real_data: Path, tmp_path: Path) -> None:
    root = tmp_path / "voc_segmentation"
    extract([Part(real_data / "mirror/VOCtrainval_11-May-2012.tar")], root)
    options: dict[str, Any] = {"sbd": False}
    write_index(tmp_path / "index", read_dataset("voc_segmentation", root, options))
    index = read_index(tmp_path / "index")
    assert index.images["split"].value_counts().to_dict() == {"train": 77, "val": 78}
    for split in ("train", "val"):
        theirs = VOCSegmentation(str(root), "2012", split)
        part = index.split(split).images
        assert [str(root / path) for path in part["path"]] == theirs.images
        assert [str(root / path) for path in part["mask"]] == theirs.masks
        for row, path in zip(part.itertuples(), theirs.masks, strict=True):
            mask = read_mask(root / row.mask)
            assert mask.shape == (row.height, row.width)
            np.testing.assert_array_equal(mask, np.array(Image.open(path)))
    values = {int(v) for mask in index.images["mask"] for v in np.unique(read_mask(root / mask))}
    assert values == {*range(21), VOID} - {10}  # the sample has no cow
