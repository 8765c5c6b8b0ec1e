"""What must not tell a class: nothing is found in noise, and each leak where it is planted."""

from __future__ import annotations

import io
import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from detransfer.data.index import BOX, OBJECT_TYPES, Index, empty_objects, write_index

CLASSES, EACH = 3, 40


def write_images(folder: Path, leak: str | None, boxes: bool = False) -> Path:
    """Write noise in classes, half to train on; with a leak it tells the class."""
    rng = np.random.default_rng(0)
    numbers = iter(rng.permutation(CLASSES * EACH))
    rows = []
    (folder / "images").mkdir(parents=True)
    for class_id in range(CLASSES):
        for place in range(EACH):
            height = 24 + (8 * class_id if leak == "image size" else int(rng.integers(0, 4)))
            pixels = rng.integers(0, 255, (height, 32, 3), dtype=np.uint8)
            if leak == "one-pixel border":
                pixels[0] = 60 * class_id
            number = 1000 * class_id + place if leak == "number in the file name" else next(numbers)
            data = io.BytesIO()
            Image.fromarray(pixels).save(data, "PNG")
            size = 8000 + (500 * class_id if leak == "length in bytes" else 0)
            name = f"image_{number:05d}.png"
            (folder / "images" / name).write_bytes(data.getvalue().ljust(size, b"\0"))
            split = "train" if place % 2 else "test"
            rows.append((len(rows), name, 32, height, split, class_id))
    images = pd.DataFrame(
        rows, columns=["image_id", "path", "width", "height", "split", "class_id"]
    )
    names = pd.DataFrame({"class_id": range(CLASSES), "name": list("abc")})
    names = names.assign(source_id="", superclass="")
    objects = empty_objects()
    if boxes:  # each image shows a large object of its class, and a small one of another
        parts = []
        for side, shift in ((20, 0), (5, 1)):
            box = pd.DataFrame([[0, 0, side, side]] * len(images), columns=BOX)
            class_ids = (images["class_id"] + shift) % CLASSES
            parts.append(box.assign(image_id=images["image_id"], class_id=class_ids))
        objects = pd.concat(parts).sort_values("image_id", kind="stable")
        flags = {name: False for name, kind in OBJECT_TYPES.items() if kind == "bool"}
        objects = objects.assign(**flags).astype(OBJECT_TYPES).reset_index(drop=True)
        images = images.drop(columns="class_id")
    write_index(folder / "index", Index(images, objects, names, folder / "images"))
    return folder / "index"


def run(repository: Path, monkeypatch: pytest.MonkeyPatch, index: Path) -> pd.DataFrame:
    output = index.parent / "leaks.csv"
    words = ["--index", str(index), "--splits", "train", "--eval-split", "test"]
    words += ["--target", "voc", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["leaks.py", *words])
    runpy.run_path(str(repository / "scripts" / "leaks.py"), run_name="program")["main"]()
    return pd.read_csv(output)


KINDS = ["number in the file name", "length in bytes", "image size", "one-pixel border"]


@pytest.mark.parametrize("leak", [None, *KINDS])
def test_a_planted_leak_is_found_and_no_other(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leak: str | None
) -> None:
    table = run(repository, monkeypatch, write_images(tmp_path, leak))
    found = table.set_index(table["quantity"].str.removeprefix("top-1 from the "))["holds"]
    assert list(found.index) == KINDS and set(table["target"]) == {"voc"}
    assert {name for name, holds in found.items() if holds == "no"} == ({leak} if leak else set())


def test_an_image_with_boxes_is_of_the_class_of_its_largest_object(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = write_images(tmp_path, "one-pixel border", boxes=True)
    table = run(repository, monkeypatch, index)
    border = table[table["quantity"].str.contains("border")].iloc[0]
    assert border["holds"] == "no" and border["value"] > 95
