"""A small segmentation set: coloured blocks on noise, with void borders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from detransfer.data.index import Index, empty_objects
from detransfer.data.masks import VOID, encode_mask
from detransfer.study import BackboneChoice

TINY = BackboneChoice(name="resnet10t", arguments={"channels": [8, 12, 16, 24], "stem_width": 4})
CLASSES = ("background", "red", "green", "blue")
COLOURS = np.array([(90, 90, 90), (220, 40, 40), (40, 200, 40), (40, 60, 220)])
SIZES = ((48, 64), (64, 48), (56, 80))  # height and width, in turn


def scene(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the image (h, w, 3) and the mask (h, w) of one scene, both uint8."""
    rng = np.random.default_rng(number)
    height, width = SIZES[number % len(SIZES)]
    mask = np.zeros((height, width), np.uint8)
    for label in rng.permutation(range(1, len(CLASSES)))[:2]:
        top, left = rng.integers(height // 2), rng.integers(width // 2)
        mask[top : top + 24, left : left + 24] = label
    noise = rng.normal(0, 12, (height, width, 3))
    image = np.clip(COLOURS[mask] + noise, 0, 255).astype(np.uint8)
    edges = np.zeros(mask.shape, bool)
    edges[1:] |= mask[1:] != mask[:-1]
    edges[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    mask[edges] = VOID
    return image, mask


def write_scenes(folder: Path, train: int, test: int) -> Index:
    """Write scenes and return their index; its ids are not in the order of its rows."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(train + test):
        image, mask = scene(number)
        Image.fromarray(image).save(folder / "images" / f"{number}.png")
        (folder / "images" / f"{number}_mask.png").write_bytes(encode_mask(mask))
        height, width = mask.shape
        split = "train" if number < train else "test"
        rows.append((900 - number, f"{number}.png", width, height, split, f"{number}_mask.png"))
    columns = ["image_id", "path", "width", "height", "split", "mask"]
    classes = pd.DataFrame(
        {"class_id": range(4), "name": list(CLASSES), "source_id": "", "superclass": ""}
    )
    images = pd.DataFrame(rows, columns=columns).astype({"image_id": np.int32})
    return Index(images, empty_objects(), classes, folder / "images")
