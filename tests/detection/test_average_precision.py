from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from detransfer.console import InputError
from detransfer.data.index import OBJECT_TYPES, empty_objects
from detransfer.detection.average_precision import (
    Matches,
    VocConvention,
    average_precision,
    judge,
    match,
    mean_over_classes,
)
from detransfer.detection.detections import DETECTION_TYPES, empty_detections
from tests.detection.voc_loop import VocLoop
from tests.detection.voc_records import read_records, simulate

THRESHOLDS = [0.1, 0.25, 0.3, 0.5, 0.7, 0.9]


def object_table(
    rows: list[tuple], difficult: list[int] = (), crowd: list[int] = ()
) -> pd.DataFrame:
    """Rows are (image_id, class_id, x1, y1, x2, y2); the lists name the flagged rows."""
    table = pd.DataFrame(rows, columns=list(OBJECT_TYPES)[:6])
    table[["difficult", "truncated", "occluded", "crowd", "group_of"]] = False
    table.loc[list(difficult), "difficult"] = True
    table.loc[list(crowd), "crowd"] = True
    return table.astype(OBJECT_TYPES)


def detection_table(rows: list[tuple]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(DETECTION_TYPES)).astype(DETECTION_TYPES)


def hand_case() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Three objects and a difficult one; the comments give the outcome at IoU 0.5."""
    objects = object_table(
        [
            (0, 0, 0, 0, 10, 10),
            (0, 0, 10, 0, 20, 10),
            (7, 0, 0, 0, 10, 10),
            (7, 0, 20, 0, 30, 10),
        ],
        difficult=[3],
    )
    detections = detection_table(
        [
            (0, 0, 0.4, 10, 0, 20, 5),  # IoU 0.5 with the second: true, 3 of 5
            (0, 0, 0.9, 0, 0, 10, 10),  # the first: true, 1 of 1
            (0, 0, 0.8, 0, 0, 10, 9),  # again the first: false, 1 of 2
            (7, 0, 0.7, 20, 0, 30, 10),  # difficult: ignored
            (7, 0, 0.65, 20, 0, 30, 10),  # and again
            (7, 0, 0.6, 0, 0, 10, 8),  # the third: true, 2 of 3
            (0, 0, 0.5, 0, 0, 20, 10),  # IoU 0.5 with both: takes the first, false, 2 of 4
        ]
    )
    return objects, detections


def precision_recall(matches: Matches, class_id: int) -> tuple[np.ndarray, ...]:
    """Return row, score, recall and precision at IoU 0.5 after each detection that counts."""
    right, ignored = judge(matches, 0.5)
    places = np.arange(matches.bounds[class_id], matches.bounds[class_id + 1])
    places = places[~np.isin(places, ignored)]
    found = np.cumsum(np.isin(places, right))
    recall, precision = found / matches.positives[class_id], found / np.arange(1, len(places) + 1)
    return matches.row[places], matches.score[places], recall, precision


@pytest.mark.parametrize(
    ("threshold", "strict", "ap07", "ap10"),
    [
        (0.5, False, (4 * 1 + 3 * 2 / 3 + 4 * 3 / 5) / 11, (1 + 2 / 3 + 3 / 5) / 3),
        (0.5, True, (4 * 1 + 3 * 2 / 3) / 11, (1 + 2 / 3) / 3),
        (0.85, False, 4 / 11, 1 / 3),
    ],
)
def test_values_worked_by_hand(threshold: float, strict: bool, ap07: float, ap10: float) -> None:
    convention = VocConvention(strict_overlap=strict)
    result = average_precision(match(*hand_case(), 1, convention), [threshold])
    assert result.ap07.item() == pytest.approx(ap07, abs=1e-15)
    assert result.ap10.item() == pytest.approx(ap10, abs=1e-15)


def test_the_curve_worked_by_hand() -> None:
    row, score, recall, precision = precision_recall(match(*hand_case(), 1), 0)
    assert row.tolist() == [1, 2, 5, 6, 0]
    np.testing.assert_allclose(score, [0.9, 0.8, 0.6, 0.5, 0.4], rtol=1e-6)
    np.testing.assert_allclose(recall, [1 / 3, 1 / 3, 2 / 3, 2 / 3, 1])
    np.testing.assert_allclose(precision, [1, 1 / 2, 2 / 3, 2 / 4, 3 / 5])


def test_three_of_ten_objects_are_recall_three_tenths() -> None:
    objects = object_table([(image, 0, 0, 0, 9, 9) for image in range(10)])
    found = detection_table([(image, 0, 0.9, 0, 0, 9, 9) for image in range(3)])
    assert average_precision(match(objects, found, 1), [0.5]).ap07.item() == pytest.approx(4 / 11)


def test_empty_tables_and_classes() -> None:
    objects, detections = hand_case()
    nothing = average_precision(match(objects, empty_detections(), 2), [0.5, 0.7])
    np.testing.assert_array_equal(nothing.ap07, [[0, 0], [np.nan, np.nan]])
    np.testing.assert_array_equal(nothing.ap10, [[0, 0], [np.nan, np.nan]])
    no_truth = average_precision(match(empty_objects(), detections, 2), [0.5])
    assert np.isnan(no_truth.ap07).all() and np.isnan(no_truth.ap10).all()
    only_difficult = objects.assign(difficult=True)
    assert np.isnan(average_precision(match(only_difficult, detections, 1), [0.5]).ap10).all()


def test_the_mean_leaves_out_classes_without_positives() -> None:
    values = np.array([[0.2, np.nan], [np.nan, np.nan], [0.6, np.nan]])
    np.testing.assert_allclose(mean_over_classes(values), [0.4, np.nan])


def test_wrong_class_ids_and_thresholds_are_refused() -> None:
    objects, detections = hand_case()
    with pytest.raises(InputError, match="a detection has class_id 4, but the data set has 3"):
        match(objects, detections.assign(class_id=np.int32(4)), 3)
    with pytest.raises(InputError, match="an object has class_id 4"):
        match(objects.assign(class_id=np.int32(4)), detections, 3)
    with pytest.raises(InputError, match="IoU threshold 0: must be above 0"):
        average_precision(match(objects, detections, 1), [0])


def random_case(seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A crowded little world on a coarse grid: equal scores, equal IoUs, copies, empty classes."""
    rng = np.random.default_rng(seed)
    images, classes = rng.integers(1, 6), 4

    def rows(count: int) -> tuple[np.ndarray, np.ndarray]:
        corner = rng.integers(0, 6, (count, 2))
        keys = np.column_stack(
            [rng.integers(0, images, count) * 3, rng.integers(0, classes, count)]
        )
        return keys, np.hstack([corner, corner + rng.integers(1, 6, (count, 2))])

    keys, boxes = rows(rng.integers(0, 25))
    objects = object_table([(*key, *box) for key, box in zip(keys, boxes, strict=True)])
    objects["difficult"] = rng.random(len(objects)) < 0.25
    objects["crowd"] = rng.random(len(objects)) < 0.05
    keys, boxes = rows(rng.integers(0, 60))
    if len(objects):  # copies of objects, several times each
        copies = rng.integers(0, len(objects), 15)
        keys = np.vstack([keys, objects.iloc[copies][["image_id", "class_id"]].to_numpy()])
        boxes = np.vstack([boxes, objects.iloc[copies][["x1", "y1", "x2", "y2"]].to_numpy()])
    score = rng.integers(0, 8, len(keys)) / 8
    order = rng.permutation(len(keys))
    found = [(*keys[i], score[i], *boxes[i]) for i in order]
    return objects.sample(frac=1, random_state=seed), detection_table(found)


def test_equal_to_the_loop_on_random_cases() -> None:
    for seed in range(200):
        strict = seed % 2 == 1
        objects, detections = random_case(seed)
        matches = match(objects, detections, 5, VocConvention(strict_overlap=strict))
        result = average_precision(matches, THRESHOLDS)
        loop = VocLoop(objects)
        for k, threshold in enumerate(THRESHOLDS):
            slow = np.array([loop(detections, c, threshold, strict) for c in range(5)])
            fast = np.column_stack([result.ap07[:, k], result.ap10[:, k]])
            np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-12, err_msg=f"seed {seed}")


def test_rounding_is_that_of_the_text_files() -> None:
    rng = np.random.default_rng(5)
    objects, detections = random_case(11)
    moved = detections.assign(
        score=rng.integers(4990, 5010, len(detections)) / 1e4,
        **{name: detections[name] + rng.normal(0, 0.2, len(detections)) for name in ("x1", "x2")},
    ).astype(DETECTION_TYPES)
    text = moved.assign(
        score=[float(f"{value:.3f}") for value in moved["score"]],
        **{name: [float(f"{v:.1f}") for v in moved[name]] for name in ("x1", "y1", "x2", "y2")},
    )
    result = average_precision(match(objects, moved, 4, VocConvention(True, 3, 1)), THRESHOLDS)
    slow = [[VocLoop(objects)(text, c, t, True)[0] for t in THRESHOLDS] for c in range(4)]
    np.testing.assert_allclose(result.ap07, slow, rtol=0, atol=1e-12)
    plain = average_precision(match(objects, moved, 4, VocConvention(True)), THRESHOLDS)
    assert not np.allclose(plain.ap07, result.ap07, equal_nan=True), "the case shows no rounding"


@pytest.mark.real_data
def test_equal_to_the_loop_on_the_whole_of_voc2007(real_data: Path) -> None:
    images, objects = read_records(real_data)
    assert (len(images), len(objects), objects["difficult"].sum()) == (4952, 14976, 2944)
    detections = simulate(images, objects, 60_000, np.random.default_rng(0))
    result = average_precision(match(objects, detections, 20), [0.3, 0.5, 0.7])
    loop = VocLoop(objects)
    for k, threshold in enumerate(result.thresholds):
        slow = np.array([loop(detections, c, threshold) for c in range(20)])
        fast = np.column_stack([result.ap07[:, k], result.ap10[:, k]])
        np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-12)


@pytest.mark.real_data
def test_the_truth_as_prediction_scores_one(real_data: Path) -> None:
    _, objects = read_records(real_data)
    truth = objects.assign(score=1.0)[list(DETECTION_TYPES)].astype(DETECTION_TYPES)
    result = average_precision(match(objects, truth, 20), [0.1, 0.5, 0.9])
    assert (result.ap07 == 1).all() and np.allclose(result.ap10, 1)


def test_equal_to_pycocotools_where_the_rules_agree() -> None:
    """Objects far apart, none difficult, all scores different: the two rules are then the same."""
    rng = np.random.default_rng(3)
    cells = [(x, y) for x in range(0, 300, 60) for y in range(0, 300, 60)]
    truth = [
        (image, int(rng.integers(0, 3)), *np.add(cells[i] * 2, [0, 0, 30, 40]))
        for image in range(40)
        for i in rng.choice(len(cells), 5, replace=False)
    ]
    scores = rng.permutation(600) / 600
    found = []
    for k, score in enumerate(scores):
        image, class_id, *box = truth[rng.integers(0, len(truth))]
        if k % 4 == 0:
            class_id = int(rng.integers(0, 3))
        found.append((image, class_id, score, *(np.array(box) + rng.integers(-9, 10, 4))))
    matches = match(object_table(truth), detection_table(found), 3)
    coco = _coco_precision(truth, found)
    steps = np.linspace(0, 1, 101)
    for class_id in range(3):
        _, _, recall, precision = precision_recall(matches, class_id)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        ours = np.append(envelope, 0)[np.searchsorted(recall, steps)]
        assert 0.05 < ours.mean() < 0.95
        np.testing.assert_allclose(ours, coco[:, class_id], rtol=0, atol=1e-12)


def _coco_precision(truth: list[tuple], found: list[tuple]) -> np.ndarray:
    """Return pycocotools' precision at IoU 0.5, shape (recall thresholds, classes)."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def entry(image: int, class_id: int, box: np.ndarray) -> dict:
        x1, y1, x2, y2 = (float(value) for value in box)
        size = [x2 - x1, y2 - y1]
        keys = {"image_id": image + 1, "category_id": class_id + 1, "iscrowd": 0}
        return keys | {"bbox": [x1, y1, *size], "area": size[0] * size[1]}

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": image + 1} for image in range(40)],
            "categories": [{"id": k + 1} for k in range(3)],
            "annotations": [
                entry(image, class_id, box) | {"id": k + 1}
                for k, (image, class_id, *box) in enumerate(truth)
            ],
        }
        coco.createIndex()
        results = coco.loadRes([entry(d[0], d[1], d[3:]) | {"score": float(d[2])} for d in found])
        evaluation = COCOeval(coco, results, "bbox")
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.params.maxDets = [10_000]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][0, :, :, 0, 0]
