"""Figure 2: chosen by its rules from two runs whose every box is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from detransfer.console import InputError
from detransfer.data.index import BOX, FLAGS, Index, write_index
from detransfer.detection.detections import write_detections
from detransfer.report.metrics import RunMetrics, RunName, write_metrics
from tests.detection.rectangles import call

PROGRAM = Path("scripts/figure2.py")
IMAGES = 4
# image, box, hidden level, cut; one object of a class in each row
OBJECTS = [
    (0, [10, 10, 50, 50], 0, False),
    (0, [60, 10, 90, 50], 2, False),
    (1, [10, 10, 50, 50], 0, True),
    (1, [55, 55, 95, 95], 0, False),
    (2, [20, 20, 60, 60], 1, False),
    (2, [60, 60, 90, 90], 0, True),
    (3, [0, 0, 40, 40], 0, False),
]
# What found each object: how far its box is moved to the right; None: missed.
FIRST = [0, 0, 0, 4, 0, 0, 8]
SECOND = [12, None, 2, 4, None, None, 0]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return write_objects(tmp_path, "grey")


def write_objects(place: Path, colour: str) -> Path:
    """Write the objects, on images of one colour, and return the folder of their index."""
    folder = place / "images"
    folder.mkdir(parents=True)
    for number in range(IMAGES):
        Image.new("RGB", (100, 100), colour).save(folder / f"{number}.png")
    ids = np.arange(IMAGES, dtype=np.int32)
    images = pd.DataFrame(
        {"image_id": ids, "path": [f"{i}.png" for i in ids], "width": 100, "height": 100}
    ).assign(split="test")
    objects = pd.DataFrame([box for _, box, _, _ in OBJECTS], columns=BOX).astype(float)
    objects[["image_id", "class_id"]] = [(image, 0) for image, _, _, _ in OBJECTS]
    objects[FLAGS] = False
    classes = pd.DataFrame({"class_id": [0], "name": ["ox"], "source_id": "", "superclass": ""})
    write_index(place / "index", Index(images, objects, classes, folder))
    return place / "index"


def write_run(folder: Path, name: str, moved: list[int | None], target: str = "voc") -> Path:
    """Write what scripts/figure2.py reads of a run."""
    place = folder / target / name
    place.mkdir(parents=True)
    detections: list[dict[str, Any]] = []
    rows = []
    for (image, box, level, cut), shift in zip(OBJECTS, moved, strict=True):
        found = -1
        if shift is not None:
            found = len(detections)
            x1, y1, x2, y2 = box
            corners = dict(zip(BOX, (x1 + shift, y1, x2 + shift, y2), strict=True))
            detections.append({"image_id": image, "class_id": 0, "score": 0.9, **corners})
        about = {"level": level, "truncated": cut, "missed": shift is None, "precision": 1.0}
        corners = dict(zip(BOX, map(float, box), strict=True))
        rows.append({"image_id": image, "class_id": 0, **corners, **about, "detection": found})
    write_detections(place / "detections.parquet", pd.DataFrame(detections), ["ox"])
    pd.DataFrame(rows).to_parquet(place / "objects.parquet", index=False)
    run = RunName("detection", target, "voc", name, 0)
    write_metrics(place / "metrics.json", RunMetrics(run, (), {}, {}, {}))
    return place


def figure(folder: Path, first: Path, second: Path, index: Path, images: int = 2) -> pd.DataFrame:
    return figure_of(folder, [(first, second, index)], images)


def figure_of(folder: Path, pairs: list[tuple[Path, Path, Path]], images: int = 2) -> pd.DataFrame:
    outputs = [f"--{kind}={folder / f'figure2.{kind}'}" for kind in ("csv", "pdf", "png")]
    given = [word for pair in pairs for word in ("--pair", *map(str, pair), "test")]
    call(PROGRAM, [*given, f"--images={images}", *outputs])
    return pd.read_csv(folder / "figure2.csv")


def iou(shift: float, side: float = 40) -> float:
    return (side - shift) / (side + shift)


def test_rows_are_chosen_by_their_rules(tmp_path: Path, index: Path) -> None:
    first, second = (
        write_run(tmp_path, name, moved) for name, moved in (("boxes", FIRST), ("labels", SECOND))
    )
    table = figure(tmp_path, first, second, index)
    above = table[table["panel"] == "localisation"]
    # Found by both: objects 0, 2, 3 and 6; the largest gaps are those of object 0, then 2.
    assert above["path"].tolist() == ["0.png", "0.png", "1.png", "1.png"]
    assert above["drawn"].tolist() == ["first", "second"] * 2
    assert above["x1"].tolist() == [10, 22, 10, 12]
    assert above["iou_second"].tolist() == pytest.approx([iou(12)] * 2 + [iou(2)] * 2, abs=1e-5)
    gaps = [1 - iou(12), 1 - iou(2), 0, iou(8) - 1]
    assert set(above["candidates"]) == {4}
    assert above["mean_gap"].tolist() == pytest.approx([np.mean(gaps)] * 4, abs=1e-5)
    below = table[table["panel"] == "occlusion"]
    # Hidden or cut and found by the first alone: object 1, 4 and 5; image 2 has two of them.
    assert below["path"].tolist() == ["2.png", "2.png", "0.png", "0.png"]
    assert below["drawn"].tolist() == ["first", "first", "first", "both"]
    assert set(below["candidates"]) == {3} and set(table["first"]) == {"boxes"}
    with Image.open(tmp_path / "figure2.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    for colour in ((0, 158, 115), (213, 94, 0), (0, 114, 178)):
        assert (np.abs(pixels - colour).max(2) < 12).sum() > 50
    assert (tmp_path / "figure2.pdf").read_bytes().startswith(b"%PDF-")


def test_a_row_without_candidates_says_so(tmp_path: Path, index: Path) -> None:
    first, second = (write_run(tmp_path, name, FIRST) for name in ("boxes", "labels"))
    table = figure(tmp_path, first, second, index)
    assert table["drawn"].tolist() == ["nothing", "nothing"]
    assert table["candidates"].tolist() == [7, 0]


def test_runs_on_different_objects_are_refused(tmp_path: Path, index: Path) -> None:
    first, second = (write_run(tmp_path, name, FIRST) for name in ("boxes", "labels"))
    objects = pd.read_parquet(second / "objects.parquet")
    objects.iloc[1:].to_parquet(second / "objects.parquet", index=False)
    with pytest.raises(InputError, match="analysed on different objects; make them again"):
        figure(tmp_path, first, second, index)


def test_two_targets_show_their_own_images(tmp_path: Path) -> None:
    """Each file is there under both roots, in a colour that nothing else in the picture has."""
    colours = {"few": (200, 0, 200), "voc": (0, 200, 200)}
    pairs = []
    for target in colours:
        index = write_objects(tmp_path / f"data_{target}", f"rgb{colours[target]}")
        moved = {"boxes": FIRST, "labels": SECOND}
        first, second = (write_run(tmp_path, name, moved[name], target) for name in moved)
        pairs.append((first, second, index))
    table = figure_of(tmp_path, pairs)
    assert table["target"].unique().tolist() == list(colours)
    assert table["path"].tolist()[:8] == table["path"].tolist()[8:]
    with Image.open(tmp_path / "figure2.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    half = len(pixels) // 2
    for number, colour in enumerate(colours.values()):
        there = (np.abs(pixels - colour).max(2) < 12).sum(1)
        own, other = (there[:half], there[half:]) if number == 0 else (there[half:], there[:half])
        assert own.sum() > 1000 and other.sum() == 0
