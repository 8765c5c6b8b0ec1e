"""Speed of a claim about detection: AP at nine overlaps on 1,000 resamples, as VOC 2007 has it.

    python tests/benchmarks/claims.py [images]

4,952 images (by default a tenth of them), 2.4 objects and 200 detections each, of 20 classes.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import pandas as pd

from detransfer.data.index import BOX
from detransfer.detection.average_precision import match
from detransfer.detection.resampled import resampled_map
from detransfer.report.bootstrap import resamples
from detransfer.report.statements import IOUS

CLASSES, OBJECTS, DETECTIONS = 20, 2.4, 200


def tables(images: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return objects, and detections that are moved copies of objects of their image."""
    rng = np.random.default_rng(0)
    count = int(OBJECTS * images)
    corner = rng.uniform(0, 300, (count, 2))
    boxes = np.hstack([corner, corner + rng.uniform(20, 200, (count, 2))])
    objects = pd.DataFrame(boxes, columns=BOX).assign(
        image_id=np.sort(rng.integers(0, images, count)),
        class_id=rng.integers(0, CLASSES, count),
        difficult=False,
        crowd=False,
    )
    chosen = rng.integers(0, count, DETECTIONS * images)
    detections = objects.iloc[chosen].reset_index(drop=True)
    detections[BOX] += rng.normal(0, 20, (len(chosen), 4))
    return objects, detections.assign(score=rng.random(len(chosen)))


def main() -> None:
    images = int(sys.argv[1]) if len(sys.argv) > 1 else 495
    objects, detections = tables(images)
    counts = resamples(images)
    matches = match(objects, detections, CLASSES)
    places = [table["image_id"].to_numpy() for table in (detections, objects)]
    for name, used in (("compiling", counts[:2]), ("1,000 resamples", counts)):
        started = time.monotonic()
        resampled_map(matches, *places, objects["class_id"].to_numpy(), used, IOUS)
        print(f"{images} images, {name}: {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()
