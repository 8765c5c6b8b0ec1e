from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detransfer.data.index import BOX, empty_objects
from detransfer.detection.coco_analysis import CURVES, LOOSE, seven_curves
from detransfer.detection.detections import empty_detections
from detransfer.detection.overlap import candidates
from tests.detection.test_average_precision import detection_table, object_table, random_case
from tests.detection.test_diagnosis import VOC
from tests.detection.voc_records import read_records, simulate

CLASSES = pd.DataFrame({"name": list("abcde"), "superclass": ["x", "x", "", "", "y"]})


def curves(objects: pd.DataFrame, detections: pd.DataFrame, classes: pd.DataFrame) -> np.ndarray:
    found = candidates(objects, detections, len(classes), LOOSE)
    return seven_curves(objects, detections, found, classes)


def pycoco(
    objects: pd.DataFrame, detections: pd.DataFrame, class_id: int, kinds: np.ndarray, iou: float
) -> np.ndarray:
    """Return pycocotools' precision (101,) for one class, objects of other ``kinds`` ignored.

    pycocotools ignores nothing but crowds and areas out of range: what is to be ignored gets such
    an area. All objects stand under one category, so that those of other classes can be matched.
    """
    some = objects[objects["class_id"].isin(kinds)]
    ignored = some["difficult"] | (some["class_id"] != class_id)
    truth = entries(some).assign(area=np.where(ignored, 1e9, 1.0))
    truth["id"], truth["iscrowd"] = range(1, len(truth) + 1), some["crowd"].astype(int).to_numpy()
    mine = detections[detections["class_id"] == class_id]
    found = entries(mine).assign(area=1.0, score=mine["score"].astype(float).to_numpy())
    images = {*objects["image_id"].tolist(), *detections["image_id"].tolist()}
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": image} for image in images],
            "categories": [{"id": 1}],
            "annotations": truth.to_dict("records"),
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found.to_dict("records")), "bbox")
        evaluation.params.iouThrs = np.array([iou])
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e8]], ["all"]
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][0, :, 0, 0, 0]


def entries(table: pd.DataFrame) -> pd.DataFrame:
    box = table[BOX].to_numpy(np.float64)
    frame = pd.DataFrame({"image_id": table["image_id"].to_numpy(), "category_id": 1})
    frame["bbox"] = np.hstack([box[:, :2], box[:, 2:] - box[:, :2]]).tolist()
    return frame


def check_equal(objects: pd.DataFrame, detections: pd.DataFrame, classes: pd.DataFrame) -> int:
    """Compare every class's curves with pycocotools'; return how many classes there were."""
    ours = curves(objects, detections, classes)
    kind = classes["superclass"].to_numpy()
    counted = ~(objects["difficult"] | objects["crowd"])
    compared = 0
    for c in range(len(classes)):
        if not (counted & (objects["class_id"] == c)).any():
            assert np.isnan(ours[c]).all()
            continue
        if not (detections["class_id"] == c).any():
            assert (ours[c, :6] == 0).all()
            continue
        akin = np.flatnonzero(kind == kind[c]) if kind[c] else np.array([c])
        every = np.arange(len(classes))
        settings = ((0.75, [c]), (0.5, [c]), (0.1, [c]), (0.1, akin), (0.1, every))
        for place, (iou, kinds) in enumerate(settings):
            slow = pycoco(objects, detections, c, np.asarray(kinds), iou)
            np.testing.assert_allclose(ours[c, place], slow, atol=1e-12, err_msg=CURVES[place])
        assert (ours[c, 5] == (ours[c, 4] > 0)).all()
        compared += 1
    np.testing.assert_array_equal(ours[:, 6], np.where(np.isnan(ours[:, 6]), np.nan, 1))
    return compared


def test_equal_to_pycocotools_on_random_cases() -> None:
    """Ties, difficult objects, crowds, classes without objects, detections or supercategory."""
    compared = 0
    for seed in range(15):
        objects, detections = random_case(seed)
        compared += check_equal(objects.reset_index(drop=True), detections, CLASSES)
    assert compared > 35


def test_equal_to_pycocotools_with_more_detections_than_count_in_an_image() -> None:
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 60, (260, 2))
    boxes = np.hstack([corner, corner + rng.integers(5, 30, (260, 2))])
    rows = [(int(k % 2), 0, score, *boxes[k]) for k, score in enumerate(rng.random(260))]
    objects = object_table([(k % 2, k % 3, *boxes[k]) for k in range(40)], difficult=[3])
    assert check_equal(objects, detection_table(rows), CLASSES) == 1
    few = detection_table(rows).nlargest(150, "score")
    whole, part = curves(objects, detection_table(rows), CLASSES), curves(objects, few, CLASSES)
    assert not np.array_equal(whole, part, equal_nan=True), "the case shows no limit"


@pytest.mark.real_data
def test_equal_to_pycocotools_on_real_objects(real_data: Path) -> None:
    images, objects = read_records(real_data)
    some = objects["image_id"] < 150
    detections = simulate(
        images[images["image_id"] < 150], objects[some], 3000, np.random.default_rng(0)
    )
    assert check_equal(objects[some].reset_index(drop=True), detections, VOC) == 20


def test_each_curve_forgives_its_kind_of_error() -> None:
    """One found object, and one false positive of each kind before it."""
    objects = object_table(
        [
            (0, 0, 0, 0, 10, 10),
            (1, 0, 0, 0, 10, 10),
            (2, 1, 0, 0, 10, 10),  # of the same supercategory
            (3, 3, 0, 0, 10, 10),
        ]
    )
    detections = detection_table(
        [
            (1, 0, 0.9, 0, 0, 10, 4),  # IoU 0.4
            (2, 0, 0.8, 0, 0, 10, 10),
            (3, 0, 0.7, 0, 0, 10, 10),
            (4, 0, 0.6, 0, 0, 10, 10),
            (0, 0, 0.5, 0, 0, 10, 6),  # IoU 0.6
        ]
    )
    found = dict(zip(CURVES, curves(objects, detections, CLASSES)[0], strict=True))
    half = np.arange(101) <= 50  # recall 0.5
    np.testing.assert_allclose(found["C75"], 0)
    np.testing.assert_allclose(found["C50"], np.where(half, 1 / 5, 0))
    np.testing.assert_allclose(found["Loc"], np.where(half, 1, 2 / 5))
    np.testing.assert_allclose(found["Sim"], np.where(half, 1, 2 / 4))
    np.testing.assert_allclose(found["Oth"], np.where(half, 1, 2 / 3))
    np.testing.assert_allclose(found["BG"], 1)
    np.testing.assert_allclose(found["FN"], 1)


def test_nothing_found_and_nothing_to_find() -> None:
    objects = object_table([(0, 0, 0, 0, 10, 10)])
    nothing = curves(objects, empty_detections(), CLASSES)
    assert (nothing[0, :6] == 0).all() and (nothing[0, 6] == 1).all()
    assert np.isnan(nothing[1:]).all()
    assert np.isnan(curves(empty_objects(), empty_detections(), CLASSES)).all()
