"""The submission file is what pycocotools reads, with COCO's own numbers."""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detransfer.console import InputError
from detransfer.data.index import BOX, read_index, write_index
from detransfer.data.readers import read_dataset
from detransfer.detection.detections import empty_detections, write_detections

CATEGORIES = [{"id": 90, "name": "toothbrush"}, {"id": 18, "name": "dog"}]
NAMES = ["dog", "toothbrush"]  # in the order of their numbers
SETS = {"sets": {"val": {"annotations": "val.json", "images": "images"}}}


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """The index of a small set in COCO's form; its JSON is val.json."""
    (tmp_path / "images").mkdir()
    images, annotations = [], []
    for number in (139, 9, 581_929):
        name = f"{number:012d}.jpg"
        Image.new("RGB", (64, 48)).save(tmp_path / "images" / name)
        images.append({"id": number, "file_name": name, "width": 64, "height": 48})
        for category in (18, 90):
            box = [number % 7 + 0.25, 3.5, category / 4, 20.75]
            entry = {"image_id": number, "category_id": category, "bbox": box, "iscrowd": 0}
            annotations.append({**entry, "id": len(annotations) + 1, "area": box[2] * box[3]})
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (tmp_path / "val.json").write_text(json.dumps(content))
    write_index(tmp_path / "index", read_dataset("coco", tmp_path, SETS))
    return tmp_path / "index"


def submit(
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    index: Path,
    detections: pd.DataFrame,
    classes: Sequence[str] = NAMES,
) -> list[dict[str, Any]]:
    folder = index.parent
    write_detections(folder / "detections.parquet", detections, classes)
    main = runpy.run_path(str(repository / "scripts" / "coco_submission.py"))["main"]
    words = ["--detections", folder / "detections.parquet", "--index", index, "--split", "val"]
    words += ["--output", folder / "results.json"]
    monkeypatch.setattr(sys, "argv", ["coco_submission.py", *map(str, words)])
    main()
    entries: list[dict[str, Any]] = json.loads((folder / "results.json").read_text())
    return entries


def test_the_truth_as_detections_has_average_precision_1(
    repository: Path, monkeypatch: pytest.MonkeyPatch, index: Path
) -> None:
    objects = read_index(index).objects
    scores = np.linspace(0.9, 0.1, len(objects))
    entries = submit(repository, monkeypatch, index, objects.assign(score=scores))
    assert entries[0] == {
        "image_id": 139,
        "category_id": 18,
        "bbox": [6.25, 3.5, 4.5, 20.75],
        "score": pytest.approx(0.9),
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(index.parent / "val.json"))
        evaluation = COCOeval(truth, truth.loadRes(str(index.parent / "results.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_a_detector_that_found_nothing(
    repository: Path, monkeypatch: pytest.MonkeyPatch, index: Path
) -> None:
    assert submit(repository, monkeypatch, index, empty_detections()) == []


def test_faults_are_named(repository: Path, monkeypatch: pytest.MonkeyPatch, index: Path) -> None:
    row = {"image_id": 139, "class_id": 0, "score": 0.5, **dict.fromkeys(BOX, 1.0)}

    def fails(message: str, **change: int) -> None:
        with pytest.raises(InputError, match=message):
            submit(repository, monkeypatch, index, pd.DataFrame([row, {**row, **change}]))

    fails("detection 1 .* the data set has no such image", image_id=140)
    with pytest.raises(InputError, match="numbers 3 classes, but the data set has 2; detect again"):
        submit(repository, monkeypatch, index, pd.DataFrame([row]), [*NAMES, "cat"])
    classes = (index / "classes.csv").read_text()
    (index / "classes.csv").write_text(classes.replace("dog,18", "dog,n02084071"))
    fails(r"class 'dog' has source_id 'n02084071', which is no category id of COCO")
