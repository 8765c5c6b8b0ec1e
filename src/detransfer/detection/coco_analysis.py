"""COCO's analysis of errors: seven precision-recall curves, each forgiving more than the last.

After ``CocoEval.m`` (``analyze`` of the COCO toolbox): C75, C50 and Loc count boxes as correct from
IoU 0.75, 0.5 and 0.1 on; Sim also ignores confusions within the supercategory, Oth those with any
class; BG leaves out all other false positives, and FN fills up to recall 1. The area between two
neighbours is what that kind of error costs.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd

from detransfer.detection.overlap import Candidates, match_in_order

CURVES = ("C75", "C50", "Loc", "Sim", "Oth", "BG", "FN")
LOOSE = 0.1  # IoU of Loc and of what Sim and Oth ignore
RECALLS = np.linspace(0, 1, 101)
PER_IMAGE = 100  # detections of a class that count in an image


def seven_curves(
    objects: pd.DataFrame, detections: pd.DataFrame, found: Candidates, classes: pd.DataFrame
) -> np.ndarray:
    """Return precision at ``RECALLS``, (classes, ``CURVES``, 101); NaN for a class without objects.

    The tables are those of the index and of ``detections.parquet``; ``found`` are the candidates
    at an overlap of ``LOOSE`` or less. Difficult objects are ignored once each, crowds any number
    of times; classes with the same ``superclass`` make up a supercategory.
    """
    object_class = objects["class_id"].to_numpy()
    ignored = (objects["difficult"] | objects["crowd"]).to_numpy(bool)
    crowd = objects["crowd"].to_numpy(bool)
    kind = pd.factorize(classes["superclass"].where(classes["superclass"] != ""))[0]
    order = _curve_order(detections["image_id"].to_numpy(), detections["score"].to_numpy(), found)
    precision = np.full((len(classes), len(CURVES), len(RECALLS)), np.nan)
    for class_id in range(len(classes)):
        own = object_class == class_id
        free = ~own | ignored
        positives = int((~free).sum())
        if not positives:
            continue
        akin = own | ((kind[object_class] == kind[class_id]) & (kind[class_id] >= 0))
        all_classes = np.ones(len(own), bool)
        pairs = _best_first(found, class_id, free)
        settings = ((0.75, own), (0.5, own), (LOOSE, own), (LOOSE, akin), (LOOSE, all_classes))
        for curve, (least, allowed) in enumerate(settings):
            chosen = pairs[allowed[found.item[pairs]] & (found.overlap[pairs] >= least)]
            outcome = _outcomes(found, class_id, chosen, free, crowd)
            precision[class_id, curve] = _at_recalls(outcome[order[class_id]], positives)
        precision[class_id, 5] = precision[class_id, 4] > 0
        precision[class_id, 6] = 1
    return precision


def judged(
    objects: pd.DataFrame, detections: pd.DataFrame, found: Candidates, least: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return what becomes of the detections of each class at an IoU of ``least``, best first.

    For each class the rows of its detections that count, and 1 for a true positive, 0 for one that
    is ignored, -1 for a false positive. ``found`` are the candidates at an overlap of ``least`` or
    less.
    """
    object_class = objects["class_id"].to_numpy()
    ignored = (objects["difficult"] | objects["crowd"]).to_numpy(bool)
    crowd = objects["crowd"].to_numpy(bool)
    order = _curve_order(detections["image_id"].to_numpy(), detections["score"].to_numpy(), found)
    result = []
    for class_id, places in enumerate(order):
        own = object_class == class_id
        free = ~own | ignored
        pairs = _best_first(found, class_id, free)
        chosen = pairs[own[found.item[pairs]] & (found.overlap[pairs] >= least)]
        outcome = _outcomes(found, class_id, chosen, free, crowd)
        result.append((found.row[found.bounds[class_id] + places], outcome[places]))
    return result


def _curve_order(image_id: np.ndarray, score: np.ndarray, found: Candidates) -> list[np.ndarray]:
    """Return, for each class, which of its detections make up its curves, in COCO's order.

    By falling score and then by image; in an image the first ``PER_IMAGE`` of a class count.
    """
    class_id, image_id, score = found.class_id, image_id[found.row], score[found.row]
    by_image = np.lexsort((image_id, class_id))
    group = class_id[by_image] * (image_id.max(initial=0) + 1) + image_id[by_image]
    rank = np.arange(len(group)) - np.searchsorted(group, group)
    by_score = np.lexsort((image_id, -score, class_id))
    kept = np.zeros(len(group), bool)
    kept[by_image[rank < PER_IMAGE]] = True
    return [by_score[a:b][kept[by_score[a:b]]] - a for a, b in pairwise(found.bounds)]


def _best_first(found: Candidates, class_id: int, free: np.ndarray) -> np.ndarray:
    """Return a class's pairs by detection, with the object first that COCO's matching takes first.

    Objects that count before those that are ignored (``free``), then by overlap; at ties the last.
    """
    first, last = np.searchsorted(found.detection, found.bounds[class_id : class_id + 2])
    item, detection = found.item[first:last], found.detection[first:last]
    keys = (-item, -found.overlap[first:last], free[item], detection)
    return first + np.lexsort(keys)


def _outcomes(
    found: Candidates, class_id: int, pairs: np.ndarray, free: np.ndarray, crowd: np.ndarray
) -> np.ndarray:
    """Return what becomes of a class's detections: 1 true, 0 ignored, -1 false.

    ``pairs`` are those allowed, best first; ``free`` marks objects that are ignored.
    """
    item = found.item[pairs]
    matches = match_in_order(found.detection[pairs], item, crowd[item])
    start, stop = found.bounds[class_id : class_id + 2]
    outcome = np.full(stop - start, -1, np.int8)
    outcome[found.detection[pairs[matches]] - start] = ~free[item[matches]]
    return outcome


def _at_recalls(outcome: np.ndarray, positives: int) -> np.ndarray:
    """Return the interpolated precision at ``RECALLS`` from outcomes in the curve's order."""
    places = np.flatnonzero(outcome == 1)
    rank = np.arange(1, len(places) + 1)
    false = np.cumsum(outcome == -1)[places]
    envelope = np.maximum.accumulate((rank / (rank + false))[::-1])[::-1]
    reached = np.searchsorted(rank / positives, RECALLS)
    return np.append(envelope, 0.0)[reached]
