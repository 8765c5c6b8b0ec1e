"""PASCAL VOC average precision, exactly as VOCdevkit 2007 computes it, at many thresholds at once.

The rule of ``VOCevaldet.m``: detections of a class are taken by falling score. Each is compared
with *one* object, the one of its class and image with the largest IoU (difficult ones included, the
first in the table at ties). Below the threshold it is a false positive. At or above it: if the
object is difficult, the detection counts for nothing; if the object is free, it is a true positive;
if the object is taken, it is a false positive, even when it overlaps another free object as well.

That one object does not depend on the threshold, so :func:`match` finds it once and
:func:`average_precision` reads off every threshold and both conventions from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from detransfer.console import InputError
from detransfer.data.index import BOX
from detransfer.detection.overlap import iou


@dataclass(frozen=True)
class VocConvention:
    """Where evaluations of PASCAL VOC differ; the default is the definition without rounding.

    ``strict_overlap`` asks for IoU > threshold instead of >=. ``round_scores`` and ``round_boxes``
    give the decimals that scores and boxes keep (None: all). The code of SNIPER and of many others
    writes text files first and compares strictly: ``VocConvention(True, 3, 1)``.
    """

    strict_overlap: bool = False
    round_scores: int | None = None
    round_boxes: int | None = None


@dataclass(frozen=True)
class Matches:
    """Each of n detections with its best object among m, by class and then by falling score.

    ``row`` (n,) the detection's row in its table; ``score`` (n,); ``best`` (n,) row of the object
    in its table, -1 where none overlaps; ``overlap`` (n,) IoU with it; ``bounds`` (classes + 1,)
    where each class begins; ``counted`` (m,) False for difficult and crowd objects; ``positives``
    (classes,) the number of counted objects; ``strict_overlap`` as in the convention.
    """

    row: np.ndarray
    score: np.ndarray
    best: np.ndarray
    overlap: np.ndarray
    bounds: np.ndarray
    counted: np.ndarray
    positives: np.ndarray
    strict_overlap: bool


@dataclass(frozen=True)
class AveragePrecision:
    """Average precision, shape (classes, thresholds): NaN for a class without positives.

    ``ap07``: the mean, over recall 0, 0.1, ..., 1, of the largest precision at that recall or more.
    ``ap10``: the area under the precision envelope.
    """

    thresholds: tuple[float, ...]
    ap07: np.ndarray
    ap10: np.ndarray


def match(
    objects: pd.DataFrame,
    detections: pd.DataFrame,
    class_count: int,
    convention: VocConvention = VocConvention(),
) -> Matches:
    """Find each detection's best object and put the detections in the order of the evaluation.

    ``objects`` is the index's table, ``detections`` that of ``detections.parquet``. Crowd objects
    are treated like difficult ones. Memory grows with detections plus objects, not with pairs.
    Raises InputError when a class id does not lie in 0 .. class_count - 1.
    """
    for name, table in (("a detection", detections), ("an object", objects)):
        wrong = table["class_id"][~table["class_id"].between(0, class_count - 1)]
        if len(wrong):
            raise InputError(
                f"{name} has class_id {wrong.iloc[0]}, but the data set has {class_count} classes"
                f" (0 to {class_count - 1}); do both tables belong to the same data set?"
            )
    score = detections["score"].to_numpy()
    boxes = detections[BOX].to_numpy()
    if convention.round_scores is not None:
        score = np.round(score.astype(np.float64), convention.round_scores)
    if convention.round_boxes is not None:
        boxes = np.round(boxes.astype(np.float64), convention.round_boxes)
    class_id = detections["class_id"].to_numpy()
    row = np.lexsort((-score, class_id))  # stable: equal scores stay in the order of the table
    best, overlap = _best_objects(
        _group(detections, class_count),
        boxes,
        _group(objects, class_count),
        objects[BOX].to_numpy(),
    )
    counted = ~(objects["difficult"] | objects["crowd"]).to_numpy(bool)
    return Matches(
        row=row,
        score=score[row],
        best=best[row],
        overlap=overlap[row],
        bounds=np.searchsorted(class_id[row], np.arange(class_count + 1)),
        counted=counted,
        positives=np.bincount(objects["class_id"].to_numpy()[counted], minlength=class_count),
        strict_overlap=convention.strict_overlap,
    )


def average_precision(matches: Matches, thresholds: Sequence[float]) -> AveragePrecision:
    """Return both average precisions of every class at every IoU threshold.

    Recall is compared with 0, 0.1, ..., 1 in whole numbers: 3 of 10 objects *are* recall 0.3 here,
    while ``arange(0, 1.1, 0.1)`` in common code holds 0.30000000000000004.
    """
    pairs = [_average_precision(matches, threshold) for threshold in thresholds]
    shape = (len(matches.positives), 0)
    ap07 = np.stack([pair[0] for pair in pairs], axis=1) if pairs else np.empty(shape)
    ap10 = np.stack([pair[1] for pair in pairs], axis=1) if pairs else np.empty(shape)
    return AveragePrecision(tuple(thresholds), ap07, ap10)


def mean_over_classes(values: np.ndarray) -> np.ndarray:
    """Return the mean over the first axis of (classes, thresholds); NaN classes are left out.

    NaN where no class has a value.
    """
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(0) / known.sum(0)


def judge(matches: Matches, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the places in ``matches`` of the true positives and of the ignored detections, rising.

    All other detections are false positives. Raises InputError for a threshold of 0 or less.
    """
    if not threshold > 0:
        raise InputError(f"IoU threshold {threshold}: must be above 0")
    overlap = matches.overlap
    hits = np.flatnonzero(overlap > threshold if matches.strict_overlap else overlap >= threshold)
    best = matches.best[hits]
    counted = matches.counted[best]
    first = np.full(len(matches.counted), -1)
    # Of several values for one index the last stays: backwards, that is the best-scored detection.
    first[best[counted][::-1]] = hits[counted][::-1]
    return np.sort(first[first >= 0]), hits[~counted]


def _average_precision(matches: Matches, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return ap07 and ap10 (classes,): both need the precision at the true positives only."""
    found, ignored = judge(matches, threshold)
    bounds = np.searchsorted(found, matches.bounds)
    number = np.diff(bounds)
    class_id = np.repeat(np.arange(len(number)), number)
    rank = np.arange(len(found)) - bounds[class_id] + 1
    start = matches.bounds[class_id]
    skipped = np.searchsorted(ignored, found) - np.searchsorted(ignored, start)
    envelope = rank / (found - start + 1 - skipped)
    for first, last in pairwise(bounds):
        envelope[first:last] = np.maximum.accumulate(envelope[first:last][::-1])[::-1]
    positives = matches.positives
    # The true positive that reaches recall k / 10: ceil(k * positives / 10), at least the first.
    needed = np.maximum(-(-np.arange(11) * positives[:, None] // 10), 1)
    reached = needed <= number[:, None]
    values = np.zeros(needed.shape)
    values[reached] = envelope[(bounds[:-1, None] + needed - 1)[reached]]
    with np.errstate(invalid="ignore"):
        ap10 = np.bincount(class_id, envelope, len(number)) / positives
    return np.where(positives > 0, values.mean(1), np.nan), ap10


def _group(table: pd.DataFrame, class_count: int) -> np.ndarray:
    """Return one number for each pair of image and class."""
    return table["image_id"].to_numpy(np.int64) * class_count + table["class_id"].to_numpy(np.int64)


def _best_objects(
    group: np.ndarray, boxes: np.ndarray, object_group: np.ndarray, object_boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each detection the object of its group with the largest IoU (or -1), and the IoU.

    Every detection is compared with the first object of its group, then with the second, and so
    on: a later object wins only by a larger IoU.
    """
    best = np.full(len(group), -1)
    overlap = np.zeros(len(group))
    if not len(object_group):
        return best, overlap
    order = np.argsort(object_group, kind="stable")
    groups, start, size = np.unique(object_group[order], return_index=True, return_counts=True)
    place = np.minimum(np.searchsorted(groups, group), len(groups) - 1)
    active = np.flatnonzero(groups[place] == group)
    place = place[active]
    step = 0
    while len(active):
        candidate = order[start[place] + step]
        overlaps = iou(boxes[active].astype(np.float64), object_boxes[candidate].astype(np.float64))
        better = overlaps > overlap[active]
        overlap[active[better]] = overlaps[better]
        best[active[better]] = candidate[better]
        step += 1
        more = size[place] > step
        active, place = active[more], place[more]
    return best, overlap
