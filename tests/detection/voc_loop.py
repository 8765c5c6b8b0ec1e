"""The slow way to VOC average precision: detection after detection, as VOCevaldet.m goes.

The oracle of the tests and the opponent of the benchmark. Written from the definition, with corners
that count pixels from 1 and belong to the box, unlike the code under test.
"""

from __future__ import annotations

import numpy as np
import pandas as pd


class VocLoop:
    """The objects of a data set, by class and image, and the loop over detections."""

    def __init__(self, objects: pd.DataFrame) -> None:
        self.truth: dict[int, dict[int, tuple[np.ndarray, np.ndarray]]] = {}
        for (class_id, image_id), rows in objects.groupby(["class_id", "image_id"], sort=False):
            boxes = _from_one(rows)
            ignored = (rows["difficult"] | rows["crowd"]).to_numpy(bool)
            self.truth.setdefault(class_id, {})[image_id] = (boxes, ignored)

    def __call__(
        self, detections: pd.DataFrame, class_id: int, threshold: float, strict: bool = False
    ) -> tuple[float, float]:
        """Return AP07 and AP10 of one class at one IoU threshold."""
        truth = self.truth.get(class_id, {})
        positives = sum(int((~ignored).sum()) for _, ignored in truth.values())
        mine = detections[detections["class_id"] == class_id]
        mine = mine.sort_values("score", ascending=False, kind="stable")
        true, false = self._outcomes(mine, truth, threshold, strict)
        if positives == 0:
            return float("nan"), float("nan")
        if len(mine) == 0:
            return 0.0, 0.0
        hits, misses = np.cumsum(true), np.cumsum(false)
        precision = hits / np.maximum(hits + misses, 1)
        return _ap07(hits, precision, positives), _ap10(hits / positives, precision)

    @staticmethod
    def _outcomes(
        mine: pd.DataFrame,
        truth: dict[int, tuple[np.ndarray, np.ndarray]],
        threshold: float,
        strict: bool,
    ) -> tuple[np.ndarray, np.ndarray]:
        image_ids = mine["image_id"].to_numpy()
        boxes = _from_one(mine)
        true, false = np.zeros(len(mine)), np.zeros(len(mine))
        taken = {image: np.zeros(len(ignored), bool) for image, (_, ignored) in truth.items()}
        for d in range(len(mine)):
            best, overlap = -1, -np.inf
            if image_ids[d] in truth:
                others, ignored = truth[image_ids[d]]
                box = boxes[d]
                w = np.minimum(others[:, 2], box[2]) - np.maximum(others[:, 0], box[0]) + 1
                h = np.minimum(others[:, 3], box[3]) - np.maximum(others[:, 1], box[1]) + 1
                inter = np.maximum(w, 0) * np.maximum(h, 0)
                own = (box[2] - box[0] + 1) * (box[3] - box[1] + 1)
                area = (others[:, 2] - others[:, 0] + 1) * (others[:, 3] - others[:, 1] + 1)
                iou = inter / (own + area - inter)
                best = int(np.argmax(iou))
                overlap = iou[best]
            if overlap > threshold or (overlap == threshold and not strict):
                if not ignored[best]:
                    if taken[image_ids[d]][best]:
                        false[d] = 1
                    else:
                        true[d] = 1
                        taken[image_ids[d]][best] = True
            else:
                false[d] = 1
        return true, false


def _from_one(table: pd.DataFrame) -> np.ndarray:
    """Return 0-based half-open boxes as 1-based corners that belong to the box."""
    return table[["x1", "y1", "x2", "y2"]].to_numpy(np.float64) + np.array([1, 1, 0, 0])


def _ap07(hits: np.ndarray, precision: np.ndarray, positives: int) -> float:
    """The mean over recall k / 10 of the largest precision at that recall or above."""
    total = 0.0
    for k in range(11):
        enough = 10 * hits >= k * positives
        total += precision[enough].max() if enough.any() else 0.0
    return total / 11


def _ap10(recall: np.ndarray, precision: np.ndarray) -> float:
    """The area under the precision envelope, with sentinels at both ends as in VOCap.m."""
    recall = np.concatenate([[0.0], recall, [1.0]])
    precision = np.concatenate([[0.0], precision, [0.0]])
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    steps = np.flatnonzero(recall[1:] != recall[:-1])
    return float(np.sum((recall[steps + 1] - recall[steps]) * precision[steps + 1]))
