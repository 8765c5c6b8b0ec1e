"""Run folders with planted confusions, as the figures read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from detransfer.report.metrics import Metric, RunMetrics, RunName, write_metrics
from detransfer.segmentation.by_distance import CELL_TYPES, FAR, Confusion, write_confusion

CLASSES = ("background", "sheep", "pottedplant")


def write_run(
    folder: Path,
    pretraining: str,
    seed: int,
    hits: np.ndarray,
    recipe: str = "r",
    target: str = "voc",
) -> Path:
    """Write a run with 100 pixels a class and distance, ``hits`` (n, FAR, c) of them right.

    The others are taken for the next class.
    """
    rows = []
    for image, distance, label in np.ndindex(hits.shape):
        right = int(hits[image, distance, label])
        other = (label + 1) % hits.shape[2]
        for predicted, pixels in ((label, right), (other, 100 - right)):
            if pixels:
                rows.append((10 + image, distance + 1, label, predicted, pixels))
    path = folder / target / pretraining / f"seed{seed}"
    cells = pd.DataFrame(rows, columns=list(CELL_TYPES))
    ids = np.arange(10, 10 + len(hits), dtype=np.int32)
    write_confusion(path / "confusion.parquet", Confusion(ids, CLASSES[: hits.shape[2]], cells))
    name = RunName("segmentation", target, "voc_segmentation", pretraining, seed)
    metrics = (Metric("mIoU", 50.0, "%", len(hits)),)
    write_metrics(path / "metrics.json", RunMetrics(name, metrics, {}, {"recipe": recipe}, {}))
    return path


def hits(near: int, far: int, images: int = 6, spread: int = 0, seed: int = 0) -> np.ndarray:
    """Return hits that are ``near`` up to distance 10 and ``far`` beyond, the same for all classes.

    Each image is up to ``spread`` better or worse, the same at all distances.
    """
    by_distance = np.where(np.arange(FAR) < 10, near, far)
    shift = np.random.default_rng(seed).integers(-spread, spread, images, endpoint=True)
    table = by_distance[None, :, None] + shift[:, None, None]
    return np.repeat(table, len(CLASSES), axis=2).clip(0, 100)


def iou_of(right: float) -> float:
    """Return the IoU, in percent, of classes that each have so many percent right."""
    return 100 * right / (200 - right)
