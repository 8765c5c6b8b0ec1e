"""Sizes from headers and decoded pixels, against Pillow and against what was written."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from detransfer.console import InputError
from detransfer.data.decoding import decode
from detransfer.data.images import BATCH, image_size, image_sizes


def scene(width: int = 37, height: int = 21) -> np.ndarray:
    """A smooth colour image (height, width, 3), so that JPEG changes it little."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([4 * x, 8 * y, 255 - 4 * x], 2).astype(np.uint8)


def close(image: torch.Tensor, expected: np.ndarray, tolerance: int) -> None:
    assert image.dtype == torch.uint8
    assert image.shape == (3, *expected.shape[:2])
    difference = image.permute(1, 2, 0).numpy().astype(int) - expected.astype(int)
    assert np.abs(difference).max() <= tolerance


@pytest.mark.parametrize(
    ("name", "mode", "tolerance"),
    [
        ("a.png", "RGB", 0),
        ("a.png", "RGBA", 0),
        ("a.png", "P", 0),
        ("a.png", "L", 0),
        ("a.jpg", "RGB", 8),
        ("a.jpg", "L", 4),
        ("a.jpg", "CMYK", 12),
        ("a.bmp", "RGB", 0),
        ("a.gif", "P", 0),
    ],
)
def test_every_kind_becomes_rgb(tmp_path: Path, name: str, mode: str, tolerance: int) -> None:
    picture = Image.fromarray(scene()).convert(mode)
    picture.save(tmp_path / name, **({"quality": 98} if name == "a.jpg" else {}))
    close(decode(tmp_path / name), np.array(picture.convert("RGB")), tolerance)
    assert image_size(tmp_path / name) == (37, 21)


def test_a_png_named_jpeg_is_read_by_its_content(tmp_path: Path) -> None:
    Image.fromarray(scene()).save(tmp_path / "n02105855_2933.JPEG", format="PNG")
    close(decode(tmp_path / "n02105855_2933.JPEG"), scene(), 0)
    assert image_size(tmp_path / "n02105855_2933.JPEG") == (37, 21)


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), scene()[:, :, ::-1].astype(np.uint16) * 256 + 128)
    close(decode(tmp_path / "a.png"), scene(), 1)
    grey = scene()[:, :, 0]
    Image.fromarray(grey.astype(np.uint16) * 256 + 128).save(tmp_path / "a.tif")
    close(decode(tmp_path / "a.tif"), np.repeat(grey[:, :, None], 3, 2), 1)


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_values_without_a_range_are_refused(tmp_path: Path, kind: type) -> None:
    Image.fromarray(scene()[:, :, 0].astype(kind)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a\.tif: values of 32 bits"):
        decode(tmp_path / "a.tif")


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    close(decode(tmp_path / "a.gif"), np.array(frames[0]), 0)


def test_orientation_in_exif_is_ignored(tmp_path: Path) -> None:
    picture = Image.fromarray(scene())
    exif = picture.getexif()
    exif[0x0112] = 6  # "rotate by 90 degrees to see it upright"
    picture.save(tmp_path / "a.jpg", exif=exif, quality=98)
    assert image_size(tmp_path / "a.jpg") == (37, 21)
    close(decode(tmp_path / "a.jpg"), scene(), 8)


def test_sizes_keep_the_order_across_batches(tmp_path: Path) -> None:
    for width in range(1, 6):
        Image.new("L", (width, 7)).save(tmp_path / f"{width}.png")
    widths = np.random.default_rng(0).integers(1, 6, BATCH + 50)
    sizes = image_sizes(tmp_path, [f"{width}.png" for width in widths])
    assert sizes.dtype == np.int32
    np.testing.assert_array_equal(sizes, np.stack([widths, np.full(len(widths), 7)], 1))


def test_what_is_wrong_with_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("not an image at all")
    for name, message in [
        ("missing.jpg", "there is no such image"),
        ("empty.jpg", "the file is empty"),
        ("text.jpg", "not a readable image"),
    ]:
        for function in (image_size, decode):
            with pytest.raises(InputError, match=rf"{name}: {message}"):
                function(tmp_path / name)
    with pytest.raises(InputError, match=r"missing\.jpg"):
        image_sizes(tmp_path, ["missing.jpg"])


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp"])
def test_a_truncated_image_is_refused_when_decoded(tmp_path: Path, name: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(InputError, match=f"{name}: the image is damaged or truncated"):
        decode(tmp_path / name)
