"""COCO's metric beside pycocotools, and Open Images' on cases worked by hand."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detransfer.console import InputError
from detransfer.data.index import BOX, FLAGS, Index
from detransfer.detection.coco_metrics import (
    _dataset,
    coco_average_precision,
    open_images_average_precision,
    verified,
)

CLASSES = 4
GROUP, OTHER = ([0, 0, 100, 100], True), ([120, 0, 160, 40], False)
HIT_A, HIT_B, HIT_OTHER = ([0, 0, 40, 40], 0.9), ([50, 50, 90, 90], 0.8), ([120, 0, 160, 40], 0.7)


def classes() -> pd.DataFrame:
    names = {"class_id": range(CLASSES), "name": list("abcd")}
    return pd.DataFrame({**names, "source_id": "", "superclass": ""})


def images(count: int) -> pd.DataFrame:
    ids = np.arange(count, dtype=np.int32)
    return pd.DataFrame({"image_id": ids, "path": "x", "width": 200, "height": 200, "split": "val"})


def random_case(seed: int, count: int = 30, objects: int = 120) -> tuple[Index, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    corner, side = rng.uniform(0, 100, (objects, 2)), rng.uniform(5, 100, (objects, 2))
    table = pd.DataFrame(np.hstack([corner, corner + side]), columns=BOX)
    table.insert(0, "image_id", np.sort(rng.integers(0, count, objects)))
    table.insert(1, "class_id", rng.integers(0, CLASSES - 1, objects))  # the last has none
    table[FLAGS] = False
    table["crowd"] = rng.random(objects) < 0.1
    found = table.sample(400, replace=True, random_state=seed)[["image_id", "class_id", *BOX]]
    found = found.reset_index(drop=True)
    found[BOX] += rng.normal(0, 4, (400, 4))
    found["score"] = rng.integers(0, 50, 400) / 50  # with ties
    found = found[(found["x2"] > found["x1"]) & (found["y2"] > found["y1"])]
    return Index(images(count), table, classes(), Path()), found


@pytest.mark.parametrize("seed", range(5))
def test_equals_pycocotools(seed: int) -> None:
    index, found = random_case(seed)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = _dataset(index)
        truth.createIndex()
        boxes = found[BOX].to_numpy()
        sides = boxes[:, 2:] - boxes[:, :2]
        columns = [found["image_id"], boxes[:, :2], sides, found["score"], found["class_id"]]
        evaluation = COCOeval(truth, truth.loadRes(np.column_stack(columns)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    given, by_class = coco_average_precision(index, found)
    assert list(given) == [
        "AP@[.5:.95]",
        "AP@0.5",
        "AP@0.75",
        "AP small",
        "AP medium",
        "AP large",
    ]
    assert np.allclose(
        np.nan_to_num(list(given.values()), nan=-1), evaluation.stats[:6], atol=1e-12
    )
    assert 0.1 < given["AP@[.5:.95]"] < 0.9
    # The library's own numbers for classes; the last has no object.
    assert np.nanmean(by_class) == pytest.approx(given["AP@[.5:.95]"], abs=1e-12)
    assert np.isnan(by_class).tolist() == [False, False, False, True]


def test_nothing_to_find_is_no_number() -> None:
    index, found = random_case(0)
    empty = Index(index.images, index.objects.head(0), index.classes, index.root)
    assert all(np.isnan(value) for value in coco_average_precision(empty, found)[0].values())
    assert coco_average_precision(index, found.head(0))[0]["AP@0.5"] == 0


def open_images(
    objects: list[tuple[list[int], bool]], found: list[tuple[list[int], float]]
) -> float:
    """Return the average precision of class 0 in one image."""
    table = pd.DataFrame([box for box, _ in objects], columns=BOX).astype(float)
    table[FLAGS] = False
    table["group_of"] = [group for _, group in objects]
    table[["image_id", "class_id"]] = 0
    detections = pd.DataFrame([box for box, _ in found], columns=BOX).astype(float)
    detections["score"] = [score for _, score in found]
    detections[["image_id", "class_id"]] = 0
    negatives = pd.DataFrame({"image_id": [0], "class_id": [1]})
    index = Index(images(1), table, classes(), Path(), negatives=negatives)
    result = open_images_average_precision(index, detections)
    assert np.isnan(result[1:]).all()
    return float(result[0])


@pytest.mark.parametrize(
    ("objects", "found", "expected"),
    [
        pytest.param([GROUP, OTHER], [HIT_A, HIT_B, HIT_OTHER], 1.0, id="a group hit twice"),
        pytest.param([GROUP, OTHER], [HIT_OTHER], 0.5, id="a group missed"),
        pytest.param([OTHER], [HIT_A, HIT_OTHER], 0.5, id="background first"),
        pytest.param([OTHER], [HIT_OTHER, HIT_OTHER], 1.0, id="a duplicate behind"),
        pytest.param([OTHER, OTHER], [HIT_A, HIT_OTHER, HIT_B], 1 / 6, id="one of two, third"),
    ],
)
def test_open_images_by_hand(
    objects: list[tuple[list[int], bool]], found: list[tuple[list[int], float]], expected: float
) -> None:
    assert open_images(objects, found) == pytest.approx(expected)


def test_classes_that_nobody_verified_are_not_scored() -> None:
    index, found = random_case(1)
    with pytest.raises(InputError, match="has no verified negatives"):
        open_images_average_precision(index, found)
    negatives = pd.DataFrame({"image_id": [0, 3], "class_id": [3, 1]})
    index = Index(index.images, index.objects, index.classes, index.root, negatives=negatives)
    present = set(zip(index.objects["image_id"], index.objects["class_id"], strict=True))
    expected = [
        pair in present or pair in {(0, 3), (3, 1)}
        for pair in zip(found["image_id"], found["class_id"], strict=True)
    ]
    assert verified(index, found).tolist() == expected
    wild = found.assign(class_id=3)  # a class that no image has: only image 0 is known to lack it
    assert verified(index, wild).tolist() == (wild["image_id"] == 0).tolist()
    both = pd.concat([found, wild.assign(score=1.0)])
    given, without = (open_images_average_precision(index, each) for each in (both, found))
    assert np.array_equal(given[:3], without[:3], equal_nan=True)
