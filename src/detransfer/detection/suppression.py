"""Gaussian soft-NMS (Bodla et al., "Improving Object Detection with One Line of Code", 2017)."""

from __future__ import annotations

import numba
import numpy as np


def soft_nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    class_ids: np.ndarray,
    sigma: float,
    floor: float,
    most: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the detections of one image that stay, best first, and their new scores.

    Within each class the best detection is taken again and again, and the scores of the rest fall
    by ``exp(-iou ** 2 / sigma)``, where ``iou`` is the overlap with it; what falls below ``floor``
    is dropped. Of all classes together the best ``most`` stay. ``boxes`` (m, 4), ``scores`` and
    ``class_ids`` (m,); ties go to the earlier row, within a class and between classes.
    """
    order = np.argsort(class_ids, kind="stable")
    starts = np.flatnonzero(np.diff(class_ids[order], prepend=-1))
    ends = np.append(starts[1:], len(order))
    rows, left = _soft_nms(
        boxes[order].astype(np.float64),
        scores[order].astype(np.float64),
        starts,
        ends,
        sigma,
        floor,
    )
    rows = order[rows]
    best = np.lexsort((rows, -left))[:most]
    return rows[best], left[best]


@numba.njit(cache=True)
def _soft_nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    sigma: float,
    floor: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Suppress each class, whose detections stand between a start and an end."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    rows = np.empty(len(scores), np.int64)
    left = np.empty(len(scores), np.float64)
    taken = 0
    for group in range(len(starts)):
        waiting = np.arange(starts[group], ends[group])
        count = len(waiting)
        while count > 0:
            place = 0
            for other in range(1, count):
                if scores[waiting[other]] > scores[waiting[place]]:
                    place = other
            best = waiting[place]
            if scores[best] < floor:
                break
            rows[taken], left[taken] = best, scores[best]
            taken += 1
            kept = 0
            for other in range(count):  # in the old order, so that ties go to the earlier row
                row = waiting[other]
                if row == best:
                    continue
                width = min(boxes[best, 2], boxes[row, 2]) - max(boxes[best, 0], boxes[row, 0])
                height = min(boxes[best, 3], boxes[row, 3]) - max(boxes[best, 1], boxes[row, 1])
                if width > 0 and height > 0:
                    shared = width * height
                    iou = shared / (areas[best] + areas[row] - shared)
                    scores[row] *= np.exp(-iou * iou / sigma)
                if scores[row] >= floor:
                    waiting[kept] = row
                    kept += 1
            count = kept
    return rows[:taken], left[:taken]
