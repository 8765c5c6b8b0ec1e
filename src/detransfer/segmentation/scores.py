"""Intersection over union and accuracy from counts of pixels.

``counts`` are arrays (..., classes, 3) of pixels: rightly predicted, true, and predicted, of each
class. Sums of counts are counts, so images, distances and resamples add up before they are scored.
"""

from __future__ import annotations

import warnings

import numpy as np


def class_counts(confusion: np.ndarray) -> np.ndarray:
    """Return the counts (..., classes, 3) of confusion matrices (..., classes, classes)."""
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    return np.stack([right, confusion.sum(-1), confusion.sum(-2)], -1)


def iou(counts: np.ndarray) -> np.ndarray:
    """Return the IoU (..., classes) of counts, NaN for a class without a true pixel.

    Such a class leaves the mean even where it is predicted: its pixels are missing in the classes
    that are there.
    """
    right, truth, predicted = np.moveaxis(counts, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(truth > 0, right / (truth + predicted - right), np.nan)


def mean_iou(counts: np.ndarray) -> np.ndarray:
    """Return the mean IoU (...) over the classes that have a true pixel; NaN without any."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of nothing is NaN
        return np.asarray(np.nanmean(iou(counts), axis=-1))


def pixel_accuracy(counts: np.ndarray) -> np.ndarray:
    """Return the share (...) of labelled pixels that are rightly predicted; NaN without any."""
    with np.errstate(invalid="ignore"):
        right, truth, _ = np.moveaxis(counts.sum(-2), -1, 0)
        return np.asarray(right / truth)


def all_background(counts: np.ndarray) -> np.ndarray:
    """Return the counts of the answer that every pixel is class 0, which never sees an image."""
    floor = np.zeros_like(counts)
    floor[..., 1] = counts[..., 1]
    floor[..., 0, 0] = counts[..., 0, 1]
    floor[..., 0, 2] = counts[..., 1].sum(-1)
    return floor
