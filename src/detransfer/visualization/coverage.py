"""How well an activation map covers the objects of a mask (Figure 8).

Two numbers say it: the share of the map's mass inside the objects, and the IoU of the objects with
the region above the best threshold.
"""

from __future__ import annotations

import numpy as np

from detransfer.data.masks import VOID

TOP = 255.0  # of a map


def inside_share(activation: np.ndarray, labels: np.ndarray) -> float:
    """Return which share of a map's mass lies on the objects of a mask, void left out.

    Both (h, w). NaN where the mask has no object, and where no mass lies on labelled pixels.
    """
    labelled = labels != VOID
    mass = float(activation[labelled].sum(dtype=np.float64))
    if mass <= 0 or not (labelled & (labels > 0)).any():
        return np.nan
    return float(activation[labelled & (labels > 0)].sum(dtype=np.float64)) / mass


def best_iou(activation: np.ndarray, labels: np.ndarray) -> float:
    """Return the largest IoU, over all thresholds, of ``activation >= threshold`` with the objects.

    Both (h, w), void left out. NaN where the mask has no object.
    """
    labelled = labels != VOID
    values, inside = activation[labelled], labels[labelled] > 0
    if not inside.any():
        return np.nan
    order = np.argsort(-values, kind="stable")
    values, inside = values[order], inside[order]
    hits, chosen = np.cumsum(inside), np.arange(1, len(values) + 1)
    border = np.append(values[1:] < values[:-1], True)  # equal values pass a threshold together
    return float((hits / (hits[-1] + chosen - hits))[border].max())


def area_share(labels: np.ndarray) -> float:
    """Return the share of the labelled pixels that are objects: what a flat map scores in both."""
    labelled = labels != VOID
    return float((labels[labelled] > 0).mean()) if labelled.any() else np.nan
