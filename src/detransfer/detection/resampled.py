"""VOC's average precision on resamples of the images, from one matching.

An image that a resample holds w times brings w copies of its detections and of its objects, and no
copy meets another image's: what becomes of a detection is settled once, and a resample only weighs
it. So the curve of a class is a cumulative sum of weights by falling score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np

from detransfer.detection.average_precision import Matches, judge


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
    classes, images = len(matches.positives), counts.shape[1]
    flat = object_image * classes + object_class
    of_image = np.bincount(flat[matches.counted], minlength=images * classes)
    positives = counts @ of_image.reshape(images, classes)
    image = detection_image[matches.row]
    results = np.empty((2, len(thresholds), classes, len(counts)))
    for place, threshold in enumerate(thresholds):
        found, ignored = judge(matches, threshold)
        right = np.zeros(len(image), np.int8)
        right[found], right[ignored] = 1, -1
        for class_id in range(classes):
            part = slice(matches.bounds[class_id], matches.bounds[class_id + 1])
            values = _weighted(right[part], image[part], weight, positives[:, class_id])
            results[:, place, class_id] = values
    known = positives.T > 0
    with np.errstate(invalid="ignore"):
        means = np.where(known, results, 0).sum(2) / known.sum(0)
    return means[0].T, means[1].T


@numba.njit(cache=True)
def _weighted(
    right: np.ndarray, image: np.ndarray, weight: np.ndarray, positives: np.ndarray
) -> np.ndarray:
    """Return AP07 and AP10 (2, resamples) of one class, its detections by falling score.

    ``right`` (n,) is 1 for a true positive, 0 for a false one, -1 for a detection that counts for
    nothing; ``weight`` is (images, resamples), ``positives`` (resamples,).
    """
    resamples = weight.shape[1]
    hits = np.flatnonzero(right == 1)
    precision = np.zeros((len(hits), resamples))
    reached = np.zeros((len(hits), resamples))
    total, found = np.zeros(resamples), np.zeros(resamples)
    rank = 0
    last = hits[-1] + 1 if len(hits) else 0
    for place in range(last):
        if right[place] < 0:
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
            result[0, b] += envelope * (_levels(now, positives[b]) - _levels(before, positives[b]))
            result[1, b] += envelope * (now - before)
        result[0, b] /= 11
        result[1, b] /= positives[b]
    return result


@numba.njit(cache=True)
def _levels(found: float, positives: float) -> float:
    """Return how many of the recalls 0, 0.1, ..., 1 are reached; quotients of whole numbers."""
    return 0.0 if found == 0 else np.floor(10 * found / positives) + 1
