"""Average precision, VOC's and COCO's, on resamples of the images, from one matching.

An image that a resample holds w times brings w copies of its detections and of its objects, and no
copy meets another image's: what becomes of a detection is settled once, and a resample only weighs
it. So the curve of a class is a cumulative sum of weights by falling score. (Of an image's
detections with equal scores the copies of the first come first.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
import pandas as pd

from detransfer.detection.average_precision import Matches, judge
from detransfer.detection.coco_analysis import RECALLS, judged
from detransfer.detection.overlap import candidates

VOC_RECALLS = np.arange(11) / 10 - 1e-12  # compared as whole numbers are: 3 of 10 is recall 0.3


def resampled_map(
    matches: Matches,
    detection_image: np.ndarray,
    object_image: np.ndarray,
    object_class: np.ndarray,
    counts: np.ndarray,
    thresholds: Sequence[float],
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean AP07 and the mean AP10 of each resample, both (resamples, thresholds).

    ``matches`` are those of all images; ``detection_image`` and ``object_image`` hold the image
    (column of ``counts``) of each row of the two tables that they were made of, ``object_class``
    the class of each object. ``counts`` (resamples, images) says how often a resample has each
    image. A class without positives in a resample leaves its mean; NaN where none has any.
    """
    weight = np.ascontiguousarray(counts.T, np.float64)
    counted = matches.counted
    positives = _positives(
        object_image[counted], object_class[counted], counts, len(matches.positives)
    )
    image = detection_image[matches.row]
    results = np.empty((2, len(thresholds), len(matches.positives), len(counts)))
    for place, threshold in enumerate(thresholds):
        found, ignored = judge(matches, threshold)
        right = np.full(len(image), -1, np.int8)
        right[found], right[ignored] = 1, 0
        for class_id in range(len(matches.positives)):
            part = slice(matches.bounds[class_id], matches.bounds[class_id + 1])
            results[:, place, class_id] = _weighted(
                right[part], image[part], weight, positives[:, class_id], VOC_RECALLS
            )
    ap07, ap10 = _mean(results, positives)
    return ap07, ap10


def resampled_coco(
    objects: pd.DataFrame,
    detections: pd.DataFrame,
    detection_image: np.ndarray,
    object_image: np.ndarray,
    counts: np.ndarray,
    class_count: int,
    thresholds: Sequence[float],
) -> np.ndarray:
    """Return COCO's AP at each threshold, of each resample: (resamples, thresholds).

    The tables are those of the index and of ``detections.parquet``; the rest as in
    :func:`resampled_map`.
    """
    weight = np.ascontiguousarray(counts.T, np.float64)
    object_class = objects["class_id"].to_numpy()
    # COCO has no difficult objects: those of others are what its crowds are, as in the metric.
    objects = objects.assign(crowd=objects["difficult"] | objects["crowd"])
    counted = ~objects["crowd"].to_numpy(bool)
    positives = _positives(object_image[counted], object_class[counted], counts, class_count)
    near = candidates(objects, detections, class_count, min(thresholds))
    results = np.empty((1, len(thresholds), class_count, len(counts)))
    for place, threshold in enumerate(thresholds):
        for class_id, (rows, right) in enumerate(judged(objects, detections, near, threshold)):
            image = detection_image[rows]
            found = _weighted(right, image, weight, positives[:, class_id], RECALLS)
            results[0, place, class_id] = found[0]
    return _mean(results, positives)[0]


def _positives(
    image: np.ndarray, class_id: np.ndarray, counts: np.ndarray, classes: int
) -> np.ndarray:
    """Return how many objects of each class count in each resample, (resamples, classes)."""
    images = counts.shape[1]
    of_image = np.bincount(image * classes + class_id, minlength=images * classes)
    total: np.ndarray = counts @ of_image.reshape(images, classes)
    return total


def _mean(results: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """Return the means over classes with positives of (metrics, thresholds, classes, resamples).

    Shape (metrics, resamples, thresholds).
    """
    known = positives.T > 0
    with np.errstate(invalid="ignore"):
        means: np.ndarray = np.where(known, results, 0).sum(2) / known.sum(0)
    return means.swapaxes(1, 2)


@numba.njit(cache=True)
def _weighted(
    right: np.ndarray,
    image: np.ndarray,
    weight: np.ndarray,
    positives: np.ndarray,
    recalls: np.ndarray,
) -> np.ndarray:
    """Return AP (2, resamples) of one class, its detections by falling score.

    First the mean of the envelope over ``recalls``, then the area under it. ``right`` (n,) is 1 for
    a true positive, -1 for a false one, 0 for a detection that counts for nothing; ``weight`` is
    (images, resamples), ``positives`` (resamples,).
    """
    resamples = weight.shape[1]
    hits = np.flatnonzero(right == 1)
    precision = np.zeros((len(hits), resamples))
    reached = np.zeros((len(hits), resamples))
    total, found = np.zeros(resamples), np.zeros(resamples)
    rank = 0
    last = hits[-1] + 1 if len(hits) else 0
    for place in range(last):
        if right[place] == 0:
            continue
        row = weight[image[place]]
        for b in range(resamples):
            total[b] += row[b]
        if right[place] == 1:
            for b in range(resamples):
                found[b] += row[b]
                reached[rank, b] = found[b]
                if total[b] > 0:
                    precision[rank, b] = found[b] / total[b]
            rank += 1
    result = np.zeros((2, resamples))
    for b in range(resamples):
        if positives[b] == 0:
            continue
        envelope = 0.0
        for rank in range(len(hits) - 1, -1, -1):
            envelope = max(envelope, precision[rank, b])
            now, before = reached[rank, b], reached[rank - 1, b] if rank else 0.0
            levels = np.searchsorted(recalls, now / positives[b], side="right")
            if before > 0:
                levels -= np.searchsorted(recalls, before / positives[b], side="right")
            if now > 0:
                result[0, b] += envelope * levels
            result[1, b] += envelope * (now - before)
        result[0, b] /= len(recalls)
        result[1, b] /= positives[b]
    return result
