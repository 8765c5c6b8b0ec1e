from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from detransfer.console import InputError
from detransfer.data.index import BOX, empty_objects
from detransfer.data.options.voc import OFFICIAL_CLASSES, SUPERCLASS
from detransfer.detection.detections import DETECTION_TYPES, empty_detections
from detransfer.detection.diagnosis import (
    OUTCOMES,
    Diagnosis,
    count_outcomes,
    diagnose,
    mean_by_class,
    missed_objects,
    normalised_average,
    normalised_precision,
    object_counts,
    quantile_strata,
    similar_classes,
)
from detransfer.detection.overlap import Candidates, area, candidates
from tests.detection import diagnosis_loop
from tests.detection.test_average_precision import detection_table, object_table, random_case
from tests.detection.voc_records import VOC_CLASSES, read_records, simulate

HOIEM = (
    ("bird", "cat", "cow", "dog", "horse", "person", "sheep"),
    ("aeroplane", "bicycle", "boat", "bus", "car", "motorbike", "train"),
    ("bicycle", "motorbike"),
    ("chair", "diningtable", "sofa"),
    ("aeroplane", "bird"),
)
VOC = pd.DataFrame(
    {"name": OFFICIAL_CLASSES, "superclass": [SUPERCLASS[name] for name in OFFICIAL_CLASSES]}
)


def run(
    objects: pd.DataFrame, detections: pd.DataFrame, similar: np.ndarray, images: int
) -> tuple[Candidates, Diagnosis]:
    found = candidates(objects, detections, len(similar), 0.1)
    return found, diagnose(objects, found, similar, images)


def outcomes(found: Candidates, diagnosis: Diagnosis) -> list[str]:
    """What became of each detection, in the order of their table."""
    names = np.empty(len(found.row), object)
    names[found.row] = np.array(OUTCOMES, object)[diagnosis.outcome]
    return list(names)


def hand_case() -> tuple[pd.DataFrame, pd.DataFrame]:
    objects = object_table(
        [
            (0, 0, 0, 0, 10, 10),
            (0, 0, 6, 0, 16, 10),
            (0, 0, 40, 0, 50, 10),
            (0, 1, 60, 0, 70, 10),
            (0, 2, 80, 0, 90, 10),
        ],
        difficult=[2],
    )
    detections = detection_table(
        [
            (0, 0, 0.9, 0, 0, 10, 10),  # the first
            (0, 0, 0.8, 2, 0, 12, 10),  # IoU 2/3 with the first, .43 with the second: duplicate
            (0, 0, 0.7, 3, 0, 13, 10),  # IoU .54 with both: the second is still free
            (0, 0, 0.6, 40, 0, 50, 10),  # difficult: ignored
            (0, 0, 0.5, 40, 0, 50, 10),  # and used up: duplicate
            (0, 0, 0.4, 15, 0, 25, 10),  # IoU .05 with the second: background
            (0, 0, 0.3, 14, 0, 19, 10),  # IoU 2/13 with the second: localisation
            (0, 0, 0.2, 60, 0, 70, 10),  # similar
            (0, 0, 0.1, 80, 0, 90, 10),  # other
            (1, 0, 0.05, 0, 0, 10, 10),  # an image without objects
        ]
    )
    return objects, detections


def similar_case() -> np.ndarray:
    similar = np.zeros((3, 3), bool)
    similar[0, 1] = similar[1, 0] = True
    return similar


def test_every_outcome_worked_by_hand() -> None:
    found, diagnosis = run(*hand_case(), similar_case(), 20)
    assert outcomes(found, diagnosis) == [
        *("true_positive", "localisation", "true_positive", "ignored", "localisation"),
        *("background", "localisation", "similar", "other", "background"),
    ]
    assert found.row[diagnosis.duplicate].tolist() == [1, 4]
    assert diagnosis.found_by.tolist() == [0, 2, -1, -1, -1]
    assert missed_objects(diagnosis).tolist() == [False, False, False, True, True]


def test_normalised_precision_worked_by_hand() -> None:
    """N is 3: with 2 objects each true positive weighs 1.5; one false one stands between them."""
    _, diagnosis = run(*hand_case(), similar_case(), 20)
    everything = np.ones(5, bool)
    precision = normalised_precision(diagnosis, everything)
    np.testing.assert_allclose(precision, [1, 3 / 4, 0, 0, 0])
    np.testing.assert_allclose(normalised_average(diagnosis, everything), [(1 + 3 / 4) / 2, 0, 0])
    # The second object alone weighs 3; the first is ignored.
    second = np.arange(5) == 1
    np.testing.assert_allclose(normalised_average(diagnosis, second), [3 / 4, np.nan, np.nan])


def test_the_top_detections_are_as_many_as_the_objects() -> None:
    _, diagnosis = run(*hand_case(), similar_case(), 20)
    counts, duplicates = count_outcomes(diagnosis)
    assert dict(zip(OUTCOMES, counts[0].tolist(), strict=True)) == {
        **dict.fromkeys(OUTCOMES, 0),
        "true_positive": 1,
        "localisation": 1,
    }
    assert duplicates.tolist() == [1, 0, 0]


def test_an_object_found_too_late_is_missed() -> None:
    objects = object_table([(0, 0, 0, 0, 10, 10)])
    for false, missed in ((57, False), (58, True)):  # 3 / (3 + 57) is 0.05
        wrong = [(0, 0, 0.9, 50, 50, 60, 60)] * false
        _, diagnosis = run(
            objects, detection_table([*wrong, (0, 0, 0.1, 0, 0, 10, 10)]), np.eye(1) < 0, 20
        )
        assert missed_objects(diagnosis).tolist() == [missed]


def test_a_crowd_is_ignored_any_number_of_times() -> None:
    objects = object_table([(0, 0, 0, 0, 100, 100)], crowd=[0])
    inside = detection_table([(0, 0, 0.9 - k / 10, 10 * k, 0, 10 * k + 10, 10) for k in range(4)])
    found, diagnosis = run(objects, inside, np.eye(1) < 0, 20)
    assert outcomes(found, diagnosis) == ["ignored"] * 4
    assert not missed_objects(diagnosis).any()


def test_quantiles_are_hoiems() -> None:
    """Ranks 2, 5, 11 and 14 of 15 values (1.5, 4.5, 10.5 and 13.5, rounded half up)."""
    values = np.arange(15.0)
    objects = object_table([(0, 0, 0, 0, 10, 10)] * 15 + [(0, 1, 0, 0, 10, 10)] * 2, difficult=[16])
    _, diagnosis = run(objects, empty_detections(), np.eye(3) < 0, 1)
    strata = quantile_strata(diagnosis, np.append(values, [5, 5]))
    assert np.bincount(strata[:15]).tolist() == [2, 3, 6, 3, 1]
    assert (np.diff(strata[:15]) >= 0).all() and strata[15:].tolist() == [0, -1]


def test_similar_classes_are_those_of_the_sets_or_of_one_superclass() -> None:
    similar = similar_classes(VOC, HOIEM)
    names = list(VOC["name"])

    def of(name: str) -> set[str]:
        return {names[k] for k in np.flatnonzero(similar[names.index(name)])}

    assert of("bird") == {"cat", "cow", "dog", "horse", "person", "sheep", "aeroplane"}
    assert of("sofa") == {"chair", "diningtable"} and of("bottle") == set()
    assert (similar == similar.T).all() and not similar.diagonal().any()
    alike = similar_classes(pd.DataFrame({"name": list("abcd"), "superclass": ["x", "", "x", ""]}))
    assert np.argwhere(alike).tolist() == [[0, 2], [2, 0]]
    with pytest.raises(InputError, match="has no class 'brid'; did you mean 'bird'"):
        similar_classes(VOC, [["cat", "brid"]])


def test_empty_tables_and_classes() -> None:
    objects, detections = hand_case()
    similar = np.eye(4) < 0
    _, nothing = run(objects, empty_detections(), similar, 10)
    assert missed_objects(nothing).sum() == 4 and count_outcomes(nothing)[0].sum() == 0
    average = normalised_average(nothing, np.ones(5, bool))
    np.testing.assert_array_equal(average, [0, 0, 0, np.nan])
    _, no_truth = run(empty_objects(), detections, similar, 10)
    assert (no_truth.outcome == OUTCOMES.index("background")).all()
    assert np.isnan(normalised_average(no_truth, np.empty(0, bool))).all()
    _, neither = run(empty_objects(), empty_detections(), similar, 10)
    assert count_outcomes(neither)[0].tolist() == [[0] * 6] * 4


def test_equal_to_the_loop_on_random_cases() -> None:
    """Ties, copies, difficult objects, several overlapping objects, empty classes."""
    for seed in range(60):
        objects, detections = random_case(seed)
        objects = objects.assign(crowd=False).reset_index(drop=True)
        rng = np.random.default_rng(seed)
        similar = np.triu(rng.random((5, 5)) < 0.4, 1)
        similar = similar | similar.T
        check_equal(objects, detections, similar, rng)


def check_equal(
    objects: pd.DataFrame, detections: pd.DataFrame, similar: np.ndarray, rng: np.random.Generator
) -> None:
    found, diagnosis = run(objects, detections, similar, 20)
    chosen = rng.random(len(objects)) < 0.6
    precision = normalised_precision(diagnosis, chosen)
    average = normalised_average(diagnosis, chosen)
    counts, duplicates = count_outcomes(diagnosis)
    names = outcomes(found, diagnosis)
    sizes = area(objects[BOX].to_numpy(float))
    strata = quantile_strata(diagnosis, sizes)
    for c in range(len(similar)):
        slow = diagnosis_loop.analyse(objects, detections, c, set(np.flatnonzero(similar[c])))
        assert {d: names[d] for d in slow.order} == slow.kind
        assert found.row[found.bounds[c] : found.bounds[c + 1]].tolist() == slow.order
        twice = set(found.row[diagnosis.duplicate].tolist())
        assert {d for d in slow.order if d in twice} == {d for d in slow.order if slow.duplicate[d]}
        own = np.flatnonzero((objects["class_id"] == c) & ~objects["difficult"])
        subset = {int(o) for o in own if chosen[o]}
        value, at = diagnosis_loop.normalised(slow, subset, 0.15 * 20)
        np.testing.assert_allclose(average[c], value, atol=1e-12)
        np.testing.assert_allclose(precision[own], [at.get(int(o), 0) for o in own], atol=1e-12)
        top = slow.order[: len(own)]
        assert counts[c].tolist() == [sum(slow.kind[d] == k for d in top) for k in OUTCOMES]
        assert duplicates[c] == sum(slow.duplicate[d] for d in top)
        assert strata[own].tolist() == [
            diagnosis_loop.stratum(sizes[own], k) for k in range(len(own))
        ]


@pytest.fixture(scope="module")
def records(real_data: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Images and objects of VOC2007's test set."""
    return read_records(real_data)


@pytest.mark.real_data
def test_equal_to_the_loop_on_real_objects(records: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    images, objects = records
    some = images["image_id"] < 150
    objects = objects[objects["image_id"] < 150].reset_index(drop=True)
    detections = simulate(images[some], objects, 1500, np.random.default_rng(1))
    similar = similar_classes(VOC, HOIEM)
    check_equal(objects, detections, similar, np.random.default_rng(2))


# --- planted errors on the whole of VOC2007's test set


def isolated(objects: pd.DataFrame) -> np.ndarray:
    """Return the rows of objects that are not difficult and that nothing else comes near."""
    copies = objects.assign(score=1.0)
    found = candidates(objects, copies, 20, 1e-9)
    lonely = np.bincount(found.row[found.detection], minlength=len(objects)) == 1
    boxes = objects[BOX].to_numpy(float)
    large = ((boxes[:, 2:] - boxes[:, :2]) >= 20).all(1)
    return np.flatnonzero(lonely & large & ~objects["difficult"].to_numpy())


def plant(objects: pd.DataFrame, images: pd.DataFrame) -> tuple[pd.DataFrame, list[str], set[int]]:
    """Return detections, what each of them is, and the rows of the objects left out.

    Every object is detected as it is, but isolated ones by turns: found and found again; with a
    box cut in half twice; as a similar class; as another class; not at all. Small boxes in corners
    without objects are background.
    """
    similar = similar_classes(VOC, HOIEM)
    names = np.array(VOC_CLASSES)
    turn = {int(row): k % 6 for k, row in enumerate(isolated(objects))}
    image_id, class_of = objects["image_id"].to_numpy(), objects["class_id"].to_numpy()
    boxes, difficult = objects[BOX].to_numpy(float), objects["difficult"].to_numpy()
    rows, what, gone = [], [], set()

    def add(row: int, class_id: int, score: float, box: np.ndarray, kind: str) -> None:
        rows.append((image_id[row], class_id, score, *box))
        what.append(kind)

    for row in range(len(objects)):
        class_id, box = int(class_of[row]), boxes[row]
        case = turn.get(row, 5)
        alike, unlike = np.flatnonzero(similar[class_id]), np.flatnonzero(~similar[class_id])
        unlike = unlike[unlike != class_id]
        if case == 2 and not len(alike):
            case = 5
        if case in (0, 5):
            add(row, class_id, 0.9, box, "ignored" if difficult[row] else "true_positive")
        if case == 0:
            add(row, class_id, 0.8, box, "duplicate")
        elif case == 1:
            middle = box[:2] + (box[2:] - box[:2]) / 2
            add(row, class_id, 0.85, np.append(box[:2], middle), "localisation")  # IoU 0.25
        elif case == 2:
            add(row, int(alike[row % len(alike)]), 0.7, box, "similar")
        elif case == 3:
            add(row, int(unlike[row % len(unlike)]), 0.75, box, "other")
        if case in (1, 2, 3, 4):
            gone.add(row)
    corners = images.sample(300, random_state=0)
    found = candidates(
        objects,
        pd.DataFrame(
            [(image, 0, 1.0, 0.0, 0.0, 8.0, 8.0) for image in corners["image_id"]],
            columns=list(DETECTION_TYPES),
        ),
        20,
        1e-9,
    )
    clear = np.delete(corners["image_id"].to_numpy(), found.row[found.detection])
    for k, image in enumerate(clear):
        rows.append((image, k % len(names), 0.95, 0, 0, 8, 8))
        what.append("background")
    return detection_table(rows), what, gone


@pytest.mark.real_data
def test_planted_errors_are_counted_as_what_they_are(
    records: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    images, objects = records
    detections, what, gone = plant(objects, images)
    order = np.random.default_rng(0).permutation(len(detections))
    shuffled = detections.iloc[order].reset_index(drop=True)
    what = [what[k] for k in order]
    similar = similar_classes(VOC, HOIEM)
    found, diagnosis = run(objects, shuffled, similar, len(images))
    planted = pd.Series(what).value_counts().to_dict()
    assert min(planted.values()) > 150 and len(gone) > 1500, (planted, len(gone))
    assert outcomes(found, diagnosis) == [
        "localisation" if kind == "duplicate" else kind for kind in what
    ]
    twice = set(found.row[diagnosis.duplicate])
    assert twice == {k for k, kind in enumerate(what) if kind == "duplicate"}
    assert set(np.flatnonzero(missed_objects(diagnosis))) == gone
    # The counts of the top detections, class by class, from the plan alone.
    counts, duplicates = count_outcomes(diagnosis)
    positives = object_counts(diagnosis, diagnosis.counted)
    for c in range(20):
        mine = shuffled[shuffled["class_id"] == c].sort_values(
            "score", ascending=False, kind="stable"
        )
        top = [what[k] for k in mine.index[: positives[c]]]
        assert duplicates[c] == top.count("duplicate")
        expected = [top.count(kind) for kind in OUTCOMES]
        expected[OUTCOMES.index("localisation")] += top.count("duplicate")
        assert counts[c].tolist() == expected
    percent = 100 * mean_by_class(diagnosis, missed_objects(diagnosis), diagnosis.counted)
    lost = np.bincount(objects["class_id"].to_numpy()[sorted(gone)], minlength=20)
    np.testing.assert_allclose(percent, 100 * lost / positives)


@pytest.mark.real_data
def test_the_truth_as_prediction_makes_no_error(
    records: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    images, objects = records
    truth = objects.assign(score=1.0)[list(DETECTION_TYPES)].astype(DETECTION_TYPES)
    found, diagnosis = run(objects, truth, similar_classes(VOC, HOIEM), len(images))
    expected = np.where(objects["difficult"], "ignored", "true_positive")
    assert outcomes(found, diagnosis) == expected.tolist()
    average = normalised_average(diagnosis, np.ones(len(objects), bool))
    np.testing.assert_allclose(average, 1)
    assert not missed_objects(diagnosis).any()
