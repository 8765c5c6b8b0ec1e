"""Segmentation masks are read exactly, in both official forms, or refused."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from torchvision.datasets import SBDataset

from detransfer.console import InputError
from detransfer.data.masks import read_mask

PALETTE = [value for number in range(256) for value in (number, 255 - number, number // 2)]


def write_png(path: Path, mask: np.ndarray, mode: str = "P") -> Path:
    image = Image.fromarray(mask, "L")
    if mode == "P":
        image = Image.frombytes("P", image.size, mask.tobytes())
        image.putpalette(PALETTE)
    image.save(path)
    return path


def write_sbd(path: Path, mask: np.ndarray) -> Path:
    """Write a file like SBD's: a struct with the sparse boundaries of 20 classes beside it."""
    boundaries = np.empty((20, 1), object)
    for row in range(20):
        boundaries[row, 0] = scipy.sparse.csc_matrix(mask.shape, dtype=np.uint8)
    present = np.setdiff1d(np.unique(mask), [0]).astype(np.uint8)[:, None]
    content = {"Boundaries": boundaries, "Segmentation": mask, "CategoriesPresent": present}
    scipy.io.savemat(path, {"GTcls": content}, do_compression=True)
    return path


VALUES = st.sampled_from([*range(21), 255])
MASKS = arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=9),
                      elements=VALUES)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(MASKS)
def test_every_form_is_read_exactly(mask: np.ndarray) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = [
            write_png(Path(folder, "palette.png"), mask),
            write_png(Path(folder, "grey.png"), mask, "L"),
            write_sbd(Path(folder, "sbd.mat"), mask),
        ]
        for path in paths:
            found = read_mask(path)
            assert found.dtype == np.uint8
            np.testing.assert_array_equal(found, mask)


def test_it_agrees_with_torchvision(tmp_path: Path) -> None:
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4)
    (tmp_path / "train.txt").write_text("a\n")
    path = write_sbd(tmp_path / "a.mat", mask)
    theirs = SBDataset(str(tmp_path), mode="segmentation")._get_target(str(path))
    np.testing.assert_array_equal(read_mask(path), np.array(theirs))


@pytest.mark.parametrize("value", [21, 254])
@pytest.mark.parametrize("kind", ["png", "mat"])
def test_unknown_values_are_named_with_their_pixel(tmp_path: Path, kind: str, value: int) -> None:
    mask = np.zeros((4, 6), np.uint8)
    mask[2, 5] = value
    path = (write_png if kind == "png" else write_sbd)(tmp_path / f"m.{kind}", mask)
    with pytest.raises(InputError) as caught:
        read_mask(path)
    assert str(caught.value) == (
        f"{path}: pixel x=5, y=2 is {value}, which is neither a class (0 to 20) nor void (255)"
    )
    if value == 21:
        assert read_mask(path, classes=21)[2, 5] == 21


def test_negative_and_large_numbers_do_not_wrap_around(tmp_path: Path) -> None:
    for value in (-1, 256, 511):
        path = write_sbd(tmp_path / "m.mat", np.full((2, 2), value, np.int16))
        with pytest.raises(InputError, match=rf"pixel x=0, y=0 is {value}, which"):
            read_mask(path)


def test_what_is_no_mask_is_refused(tmp_path: Path) -> None:
    def fails(path: Path, message: str) -> None:
        with pytest.raises(InputError, match=message) as caught:
            read_mask(path)
        assert str(caught.value).startswith(f"{path}: ")

    fails(tmp_path / "gone.png", "there is no such mask")
    colours = tmp_path / "colours.png"
    for mode in ("RGB", "1", "I;16", "LA"):
        Image.new(mode, (3, 3)).save(colours)
        fails(colours, "a mask is a palette or grey image of class numbers")
    whole = write_png(colours, np.zeros((90, 90), np.uint8)).read_bytes()
    for content in (b"", b"text", whole[:-30]):
        colours.write_bytes(content)
        fails(colours, "not a readable mask")
    mat = write_sbd(tmp_path / "m.mat", np.zeros((90, 90), np.uint8))
    whole = mat.read_bytes()
    for content in (b"", b"text" * 90, whole[:200]):
        mat.write_bytes(content)
        fails(mat, "not a readable MAT-file")
    scipy.io.savemat(mat, {"GTinst": {"Segmentation": np.zeros((2, 2))}})
    fails(mat, "has no variable 'GTcls'")
    scipy.io.savemat(mat, {"GTcls": {"Boundaries": np.zeros((2, 2))}})
    fails(mat, r"not a mask of SBD \(it lacks 'Segmentation'\)")
    for wrong in (np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2)), np.zeros((0, 0), np.uint8)):
        scipy.io.savemat(mat, {"GTcls": {"Segmentation": wrong}})
        fails(mat, r"GTcls\.Segmentation is not a mask")
