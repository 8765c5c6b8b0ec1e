from __future__ import annotations

import numpy as np

from detransfer.detection.overlap import candidates, match_in_order
from tests.detection.test_average_precision import detection_table, object_table


def one_by_one(detection: np.ndarray, item: np.ndarray, reusable: np.ndarray) -> list[int]:
    """Let each detection take its first free object, in order."""
    taken: set[int] = set()
    matches = []
    for d in np.unique(detection):
        for pair in np.flatnonzero(detection == d):
            if reusable[pair] or item[pair] not in taken:
                matches.append(int(pair))
                if not reusable[pair]:
                    taken.add(item[pair])
                break
    return matches


def test_all_at_once_ends_like_one_by_one() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        detections, items = rng.integers(1, 12, 2)
        wished = [rng.permutation(items)[: rng.integers(0, items + 1)] for _ in range(detections)]
        detection = np.repeat(np.arange(detections), [len(w) for w in wished])
        item = np.concatenate(wished).astype(int)
        reusable = (rng.random(items) < 0.1)[item]
        found = match_in_order(detection, item, reusable)
        assert found.tolist() == one_by_one(detection, item, reusable)


def test_a_chain_of_displacements() -> None:
    """The last in order holds what each earlier one asks for after the first has taken its wish."""
    detection = np.array([0, 1, 1, 2, 2, 3, 3])
    item = np.array([0, 0, 1, 1, 2, 2, 3])
    found = match_in_order(detection, item, np.zeros(7, bool))
    assert item[found].tolist() == [0, 1, 2, 3]


def test_pairs_are_those_of_one_image_that_overlap_enough() -> None:
    objects = object_table(
        [(5, 1, 0, 0, 10, 10), (2, 0, 0, 0, 10, 10), (2, 1, 5, 0, 15, 10), (2, 1, 90, 90, 99, 99)]
    )
    detections = detection_table(
        [(2, 1, 0.5, 0, 0, 10, 10), (7, 0, 0.9, 0, 0, 10, 10), (5, 0, 0.9, 0, 9, 10, 10)]
    )
    found = candidates(objects, detections, 3, 0.1)
    assert found.row.tolist() == [1, 2, 0] and found.bounds.tolist() == [0, 2, 3, 3]
    assert found.class_id.tolist() == [0, 0, 1]
    pairs = list(zip(found.detection.tolist(), found.item.tolist(), strict=True))
    assert pairs == [(1, 0), (2, 1), (2, 2)]
    np.testing.assert_allclose(found.overlap, [0.1, 1, 1 / 3])
    assert len(candidates(objects, detections, 3, 0.2).item) == 2


def test_a_crowd_is_overlapped_by_the_share_of_the_detection_inside() -> None:
    objects = object_table([(0, 0, 0, 0, 100, 100)], crowd=[0])
    detections = detection_table([(0, 0, 0.5, 90, 0, 110, 10)])
    assert candidates(objects, detections, 1, 0.1).overlap.tolist() == [0.5]
