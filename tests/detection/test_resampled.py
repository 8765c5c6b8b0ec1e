"""AP of resamples from one matching, against AP of the resampled images themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from detransfer.data.index import BOX, Index
from detransfer.detection.average_precision import average_precision, match, mean_over_classes
from detransfer.detection.coco_metrics import coco_average_precision
from detransfer.detection.resampled import resampled_coco, resampled_map

CLASSES, IMAGES = 4, 12
IOUS = (0.3, 0.5, 0.8)


def tables(seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return objects, and detections that are moved copies of them among strays, with ties."""
    rng = np.random.default_rng(seed)
    count = 40
    corner = rng.uniform(0, 60, (count, 2))
    boxes = np.hstack([corner, corner + rng.uniform(10, 40, (count, 2))])
    objects = pd.DataFrame(boxes, columns=BOX).assign(
        image_id=np.sort(rng.integers(0, IMAGES, count)),
        class_id=rng.integers(0, CLASSES - 1, count),  # one class has no object
        difficult=rng.random(count) < 0.15,
        crowd=rng.random(count) < 0.05,
    )
    chosen = rng.integers(0, count, 150)
    moved = boxes[chosen] + rng.normal(0, 4, (150, 4))
    detections = pd.DataFrame(moved, columns=BOX).assign(
        image_id=objects["image_id"].to_numpy()[chosen],
        class_id=np.where(
            rng.random(150) < 0.7, objects["class_id"].to_numpy()[chosen], CLASSES - 1
        ),
        score=rng.random(150).round(1),  # many ties
    )
    sound = (detections["x2"] > detections["x1"]) & (detections["y2"] > detections["y1"])
    return objects, detections[sound].reset_index(drop=True)


def repeated(table: pd.DataFrame, counts: np.ndarray) -> pd.DataFrame:
    """Return a table of images each of which stands there so often, under ids of its own."""
    times = counts[table["image_id"].to_numpy()].astype(int)
    copy = np.concatenate([np.arange(n) for n in times]) if len(times) else np.empty(0)
    whole = table.loc[table.index.repeat(times)].reset_index(drop=True)
    return whole.assign(image_id=100 * whole["image_id"] + copy.astype(int))  # copies side by side


@pytest.mark.parametrize("seed", range(4))
def test_as_if_the_resampled_images_were_scored(seed: int) -> None:
    objects, detections = tables(seed)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), 25).astype(float)
    ap07, ap10 = resampled_map(
        match(objects, detections, CLASSES),
        detections["image_id"].to_numpy(),
        objects["image_id"].to_numpy(),
        objects["class_id"].to_numpy(),
        counts,
        IOUS,
    )
    for row, drawn in enumerate(counts):
        matches = match(repeated(objects, drawn), repeated(detections, drawn), CLASSES)
        slow = average_precision(matches, IOUS)
        np.testing.assert_allclose(ap07[row], mean_over_classes(slow.ap07), atol=1e-12)
        np.testing.assert_allclose(ap10[row], mean_over_classes(slow.ap10), atol=1e-12)


def test_all_images_once_is_the_score_itself() -> None:
    objects, detections = tables(7)
    matches = match(objects, detections, CLASSES)
    places = detections["image_id"].to_numpy(), objects["image_id"].to_numpy()
    once = np.ones((1, IMAGES))
    ap07, ap10 = resampled_map(matches, *places, objects["class_id"].to_numpy(), once, IOUS)
    whole = average_precision(matches, IOUS)
    np.testing.assert_allclose(ap07[0], mean_over_classes(whole.ap07))
    np.testing.assert_allclose(ap10[0], mean_over_classes(whole.ap10))


def test_without_detections_or_positives() -> None:
    objects, detections = tables(1)
    none = detections.iloc[:0]
    matches = match(objects, none, CLASSES)
    empty = np.empty(0, np.int64)
    ids = objects["image_id"].to_numpy(), objects["class_id"].to_numpy()
    counts = np.ones((2, IMAGES))
    counts[1] = 0  # no image at all, and so no positives
    ap07, _ = resampled_map(matches, empty, *ids, counts, [0.5])
    assert ap07[0, 0] == 0 and np.isnan(ap07[1, 0])


def index(objects: pd.DataFrame) -> Index:
    """Return an index of the objects, as the evaluator for COCO reads it."""
    ids = np.unique(objects["image_id"])
    images = pd.DataFrame({"image_id": ids, "width": 100, "height": 100})
    classes = pd.DataFrame({"class_id": range(CLASSES), "name": list("abcd")})
    return Index(images, objects.assign(group_of=False), classes, Path())


@pytest.mark.parametrize("seed", range(3))
def test_cocos_average_precision_of_resamples(seed: int) -> None:
    objects, detections = tables(seed)
    detections["score"] = np.random.default_rng(seed).random(len(detections))  # no ties
    counts = np.random.default_rng(seed).multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), 10)
    fast = resampled_coco(
        objects,
        detections,
        detections["image_id"].to_numpy(),
        objects["image_id"].to_numpy(),
        counts.astype(float),
        CLASSES,
        (0.5, 0.75),
    )
    for row, drawn in enumerate(counts):
        again, found = repeated(objects, drawn), repeated(detections, drawn)
        found = found[found["image_id"].isin(again["image_id"])]
        slow, _ = coco_average_precision(index(again), found)
        assert fast[row] == pytest.approx([slow["AP@0.5"], slow["AP@0.75"]], abs=1e-9)
