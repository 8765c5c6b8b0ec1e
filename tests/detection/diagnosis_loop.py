"""The slow way to Hoiem's error analysis: detection after detection, curve after curve.

The oracle of the tests, written from the definition with corners that count pixels from 1 and
belong to the box. Not for crowds, which VOC does not have.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

BOX = ["x1", "y1", "x2", "y2"]


@dataclass
class Found:
    """What became of a class's detections (by row of their table) and objects (by row)."""

    order: list[int]
    label: dict[int, int] = field(default_factory=dict)  # 1 true, 0 ignored, -1 false
    kind: dict[int, str] = field(default_factory=dict)
    duplicate: dict[int, bool] = field(default_factory=dict)
    found_by: dict[int, int] = field(default_factory=dict)  # object: detection


def overlap(first: list[float], second: list[float]) -> float:
    a, b = ((*(corner + 1 for corner in box[:2]), *box[2:]) for box in (first, second))
    w = min(a[2], b[2]) - max(a[0], b[0]) + 1
    h = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if w <= 0 or h <= 0:
        return 0.0
    size = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b)]
    return w * h / (size[0] + size[1] - w * h)


def analyse(
    objects: pd.DataFrame, detections: pd.DataFrame, class_id: int, similar: set[int]
) -> Found:
    """Match the detections of one class and name the kind of each."""
    mine = detections[detections["class_id"] == class_id]
    found = Found(list(mine.sort_values("score", ascending=False, kind="stable").index))
    boxes, truth = detections[BOX].to_numpy(float).tolist(), objects[BOX].to_numpy(float).tolist()
    difficult = objects["difficult"].to_numpy(bool)
    image_id, class_of = objects["image_id"].to_numpy(), objects["class_id"].to_numpy()
    image_of = detections["image_id"].to_numpy()
    taken: set[int] = set()
    for d in found.order:
        here = np.flatnonzero(image_id == image_of[d]).tolist()
        ious = {o: overlap(boxes[d], truth[o]) for o in here}
        own = {o: iou for o, iou in ious.items() if class_of[o] == class_id}
        free = {o: iou for o, iou in own.items() if o not in taken and iou >= 0.5}
        found.duplicate[d] = False
        if free:
            best = max(free, key=lambda o: (free[o], -o))
            taken.add(best)
            found.label[d] = 0 if difficult[best] else 1
            found.kind[d] = "ignored" if difficult[best] else "true_positive"
            if not difficult[best]:
                found.found_by[best] = d
            continue
        found.label[d] = -1
        found.duplicate[d] = any(iou >= 0.5 for iou in own.values())
        classes = {int(class_of[o]) for o, iou in ious.items() if iou >= 0.1}
        if class_id in classes:
            found.kind[d] = "localisation"
        elif classes & similar:
            found.kind[d] = "similar"
        else:
            found.kind[d] = "other" if classes else "background"
    return found


def normalised(found: Found, chosen: set[int], normal: float) -> tuple[float, dict[int, float]]:
    """Return AP_N over the chosen objects, and the precision at which each of them is found."""
    reward = {d: o for o, d in found.found_by.items()}
    label = [
        0 if found.label[d] == 1 and reward[d] not in chosen else found.label[d]
        for d in found.order
    ]
    true, false, curve = 0, 0, []
    for value in label:
        true, false = true + (value == 1), false + (value == -1)
        weighted = true * normal / len(chosen) if chosen else np.nan
        curve.append(weighted / (weighted + false) if weighted + false > 0 else np.nan)
    for k in range(len(curve) - 2, -1, -1):
        curve[k] = np.fmax(curve[k], curve[k + 1])
    at = {reward[d]: p for d, v, p in zip(found.order, label, curve, strict=True) if v == 1}
    if not chosen:
        return np.nan, at
    recall = len(at) / len(chosen)
    return (float(np.mean(list(at.values()))) * recall if at else 0.0), at


def stratum(values: np.ndarray, k: int) -> int:
    """Return the place of value k among five quantile strata of its class (1-based ranks)."""
    ranked = np.sort(values)
    limits = [ranked[max(int(np.floor(q * len(values) / 10 + 0.5)), 1) - 1] for q in (1, 3, 7, 9)]
    return sum(bool(values[k] > limit) for limit in limits)
