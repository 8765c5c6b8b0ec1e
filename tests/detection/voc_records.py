"""The VOC2007 test ground truth from its public MATLAB file, and simulated detections on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import scipy.io

from detransfer.data.index import OBJECT_TYPES

VOC_CLASSES = [
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
]


def read_records(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return (images, objects) of the 4,952 images; of the images their sizes and paths."""
    path = folder / "hoiem_voc07" / "VOC2007_records_test.mat"
    records = scipy.io.loadmat(path, squeeze_me=True)["rec"]
    images, objects = [], []
    for image_id, record in enumerate(records):
        size = record["size"]
        name = f"VOCdevkit/VOC2007/JPEGImages/{record['filename']}"
        images.append((image_id, int(size["width"]), int(size["height"]), name))
        for item in np.atleast_1d(record["objects"]):
            x1, y1, x2, y2 = (int(value) for value in item["bbox"])
            class_id = VOC_CLASSES.index(str(item["class"]))
            box = (x1 - 1, y1 - 1, x2, y2)
            difficult, truncated = bool(item["difficult"]), bool(item["truncated"])
            flags = (difficult, truncated, bool(item["occluded"]), False, False)
            objects.append((image_id, class_id, *box, *flags))
    table = pd.DataFrame(objects, columns=list(OBJECT_TYPES)).astype(OBJECT_TYPES)
    return pd.DataFrame(images, columns=["image_id", "width", "height", "path"]), table


def synthetic_records(rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return made-up objects of the same number: 4,952 images of 500 x 375, 14,976 objects."""
    count = 14_976
    images = pd.DataFrame({"image_id": np.arange(4952), "width": 500, "height": 375})
    corner = rng.uniform(0, [400, 300], (count, 2))
    size = np.minimum(rng.uniform(20, 300, (count, 2)), np.array([500, 375]) - corner)
    table = pd.DataFrame(
        np.hstack([corner, corner + size]).round(), columns=["x1", "y1", "x2", "y2"]
    )
    table["image_id"] = np.sort(rng.integers(0, 4952, count))
    table["class_id"] = rng.integers(0, 20, count)
    table["difficult"] = rng.random(count) < 0.2
    table[["truncated", "occluded", "crowd", "group_of"]] = False
    return images, table[list(OBJECT_TYPES)].astype(OBJECT_TYPES)


def simulate(
    images: pd.DataFrame, objects: pd.DataFrame, count: int, rng: np.random.Generator
) -> pd.DataFrame:
    """Return ``count`` detections in the order of the images: half near objects, half anywhere.

    Scores have three decimals, so that many are equal; good boxes tend to score higher.
    """
    near = count // 2
    truth = objects.iloc[rng.integers(0, len(objects), near)]
    boxes = truth[["x1", "y1", "x2", "y2"]].to_numpy(np.float64)
    size = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    spread = rng.choice([0.0, 0.05, 0.15, 0.4], (near, 1))
    boxes = boxes + rng.normal(0, 1, boxes.shape) * size * spread
    where = images.iloc[rng.integers(0, len(images), count - near)]
    extent = where[["width", "height"]].to_numpy(np.float64)
    corners = rng.random((2, count - near, 2)) * extent
    anywhere = np.hstack([corners.min(0), corners.max(0)])
    table = pd.DataFrame(np.vstack([boxes, anywhere]), columns=["x1", "y1", "x2", "y2"])
    table["image_id"] = np.concatenate([truth["image_id"], where["image_id"]])
    right = np.where(rng.random(near) < 0.9, truth["class_id"], rng.integers(0, 20, near))
    table["class_id"] = np.concatenate([right, rng.integers(0, 20, count - near)])
    quality = np.concatenate([1 - 2 * spread[:, 0], np.zeros(count - near)])
    table["score"] = (rng.random(count) * (0.4 + 0.6 * quality)).round(3)
    corner = np.minimum(table[["x1", "y1"]], table[["x2", "y2"]].to_numpy())
    table[["x2", "y2"]] = np.maximum(table[["x1", "y1"]].to_numpy(), table[["x2", "y2"]])
    table[["x1", "y1"]] = corner
    table = table.sort_values("image_id", kind="stable", ignore_index=True)
    kinds = {"image_id": "int32", "class_id": "int32", "score": "float32"}
    columns = [*kinds, "x1", "y1", "x2", "y2"]
    return table[columns].astype({**dict.fromkeys(columns, "float32"), **kinds})
