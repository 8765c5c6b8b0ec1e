"""The confusion matrix of a mask, counted in one pass."""

from __future__ import annotations

import numba
import numpy as np

from detransfer.data.masks import VOID


@numba.njit(cache=True)
def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return the pixels by true and predicted class, void left out: int64 (classes, classes).

    Both masks are uint8 (h, w), ``truth`` below ``classes`` or VOID, ``predicted`` below
    ``classes``.
    """
    counts = np.zeros((classes, classes), np.int64)
    for row in range(truth.shape[0]):
        for column in range(truth.shape[1]):
            label = truth[row, column]
            if label != VOID:
                counts[label, predicted[row, column]] += 1
    return counts
