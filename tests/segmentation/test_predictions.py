"""The file of predicted masks: it comes back exactly, or is refused."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detransfer.console import InputError
from detransfer.data.masks import voc_palette
from detransfer.segmentation.predictions import Predictions, write_predictions

MASKS = {
    number: np.random.default_rng(number).integers(0, 21, (5 + number % 10, 7)).astype(np.uint8)
    for number in (3, 1, 2007000033)
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_predictions(tmp_path / "predictions.zip", iter(MASKS.items()))
    return tmp_path / "predictions.zip"


def test_masks_come_back_as_they_were(path: Path) -> None:
    predictions = Predictions(path, list(MASKS), 21)
    for image_id, mask in MASKS.items():
        found = predictions.mask(image_id)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, mask)


def test_equal_masks_give_equal_files_that_any_viewer_shows(path: Path, tmp_path: Path) -> None:
    write_predictions(tmp_path / "again.zip", iter(MASKS.items()))
    assert (tmp_path / "again.zip").read_bytes() == path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        image = Image.open(io.BytesIO(archive.read("2007000033.png")))
    np.testing.assert_array_equal(image.convert("RGB"), voc_palette()[MASKS[2007000033]])


def test_missing_and_surplus_images_are_named(path: Path) -> None:
    with pytest.raises(InputError, match=r"no prediction for image 8 \(1 in all\)"):
        Predictions(path, [*MASKS, 8], 21)
    with pytest.raises(InputError, match=r"for images that are not evaluated: image 3 \(1 in all"):
        Predictions(path, [1, 2007000033], 21)


def test_a_number_beyond_the_classes_is_named_with_its_pixel(path: Path) -> None:
    mask = MASKS[3].copy()
    mask[2, 4] = 21
    write_predictions(path, [(3, mask)])
    assert Predictions(path, [3], 22).mask(3).max() == 21
    with pytest.raises(InputError, match=r"3\.png: pixel x=4, y=2 is 21, but there are 21 classes"):
        Predictions(path, [3], 21).mask(3)


def test_what_is_no_file_of_predictions_is_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.zip: not a readable file of predictions"):
        Predictions(tmp_path / "gone.zip", [1], 21)
    content = path.read_bytes()
    path.write_bytes(content[:-40])
    with pytest.raises(InputError, match="not a readable file of predictions"):
        Predictions(path, [1], 21)
    buffer = io.BytesIO()
    Image.new("RGB", (3, 3)).save(buffer, "PNG")
    for data, message in ((b"text", "not a readable mask"), (buffer.getvalue(), "no palette")):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("1.png", data)
        with pytest.raises(InputError, match=message):
            Predictions(path, [1], 21).mask(1)
