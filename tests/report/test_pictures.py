from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detransfer.console import InputError
from detransfer.report.pictures import HEIGHT, WIDTH, embed


def decoded(uri: str) -> Image.Image:
    kind, _, content = uri.partition(",")
    assert kind == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_a_small_drawing_is_kept_exactly(tmp_path: Path) -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[10:20, 5:50] = (200, 30, 90)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    picture = embed(tmp_path / "a.png")
    assert (picture.width, picture.height) == (60, 40)
    assert np.array_equal(np.asarray(decoded(picture.uri).convert("RGB")), pixels)


@pytest.mark.parametrize("size", [(3000, 1000), (500, 9000)])
def test_a_large_photograph_becomes_small(tmp_path: Path, size: tuple[int, int]) -> None:
    width, height = size
    coarse = np.random.default_rng(0).integers(0, 256, (height // 20, width // 20, 3), np.uint8)
    Image.fromarray(coarse).resize(size).save(tmp_path / "a.png")
    picture = embed(tmp_path / "a.png")
    assert picture.width <= WIDTH and picture.height <= HEIGHT
    assert picture.width / picture.height == pytest.approx(width / height, rel=0.01)
    assert decoded(picture.uri).size == (picture.width, picture.height)
    assert len(picture.uri) < (tmp_path / "a.png").stat().st_size


def test_noise_is_not_kept_without_loss(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    assert len(embed(tmp_path / "a.png").uri) < 600 * 600 * 3 / 2


def test_transparent_parts_are_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "a.png")
    assert decoded(embed(tmp_path / "a.png").uri).convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(InputError, match=r"a\.png"):
        embed(tmp_path / "a.png")
