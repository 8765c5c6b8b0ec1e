"""Counting pixels by class and by distance to the void borders, in one pass over an image.

The trimap of width x holds the labelled pixels whose distance to the nearest void pixel is at most
x, which is the dilation of the void by a disc of radius x; all other labelled pixels make the
anti-trimap (Kohli et al., IJCV 2009; the paper's section 4.2). A histogram by distance therefore
holds the trimaps of all widths at once.
"""

from __future__ import annotations

import cv2
import numba
import numpy as np

from detransfer.data.masks import VOID
from detransfer.segmentation.by_distance import FAR


def narrowest_trimap(truth: np.ndarray) -> np.ndarray:
    """Return for each pixel of a mask the width of the narrowest trimap that holds it.

    That is its exact Euclidean distance to the nearest void pixel, rounded up: uint8 (h, w) from 1
    to FAR, which stands for all that is farther and for images without void; 0 on the void itself.
    """
    labelled = (truth != VOID).astype(np.uint8)
    if labelled.all():
        return np.full(truth.shape, FAR, np.uint8)
    distance = cv2.distanceTransform(labelled, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return _round_up(distance)


def confusion_by_distance(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return the pixels by distance, true and predicted class: int64 (FAR, classes, classes).

    Row k holds the pixels whose narrowest trimap has width k + 1; void is left out. Both masks are
    uint8 (h, w), ``truth`` below ``classes`` or VOID, ``predicted`` below ``classes``.
    """
    return _count(truth, predicted, narrowest_trimap(truth), classes)


@numba.njit(cache=True)
def _round_up(distance: np.ndarray) -> np.ndarray:
    widths = np.empty(distance.shape, np.uint8)
    for row in range(distance.shape[0]):
        for column in range(distance.shape[1]):
            exact = distance[row, column]
            if exact > FAR:
                widths[row, column] = FAR
                continue
            squared = int(exact * exact + 0.5)  # whole in truth: undo the rounding of its root
            width = int(np.sqrt(squared))
            widths[row, column] = width + (width * width < squared)
    return widths


@numba.njit(cache=True)
def _count(
    truth: np.ndarray, predicted: np.ndarray, widths: np.ndarray, classes: int
) -> np.ndarray:
    counts = np.zeros((FAR, classes, classes), np.int64)
    for row in range(truth.shape[0]):
        for column in range(truth.shape[1]):
            label = truth[row, column]
            if label != VOID:
                counts[widths[row, column] - 1, label, predicted[row, column]] += 1
    return counts
