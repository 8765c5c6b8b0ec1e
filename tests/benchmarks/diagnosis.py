"""Time the error analysis of detections at VOC2007's size.

4,952 images, 14,976 objects (the real ones where the shared sample data are at hand, made-up ones
otherwise), 495,200 simulated detections of 20 classes. The goal is 2 s for both analyses. Run from
the repository: python tests/benchmarks/diagnosis.py
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "src"), str(REPOSITORY)]

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

from detransfer.data.options.voc import OFFICIAL_CLASSES, SUPERCLASS  # noqa: E402
from detransfer.detection.coco_analysis import seven_curves  # noqa: E402
from detransfer.detection.diagnosis import (  # noqa: E402
    CONFUSED,
    count_outcomes,
    diagnose,
    mean_by_class,
    missed_objects,
    normalised_average,
    quantile_strata,
    similar_classes,
)
from detransfer.detection.overlap import area, candidates  # noqa: E402
from tests.detection.voc_records import read_records, simulate, synthetic_records  # noqa: E402


def main() -> None:
    default = REPOSITORY / "../shared/data"
    folder = Path(os.environ.get("DETRANSFER_REAL_DATA", default)).resolve()
    rng = np.random.default_rng(0)
    real = folder.is_dir()
    images, objects = read_records(folder) if real else synthetic_records(rng)
    detections = simulate(images, objects, 100 * len(images), rng)
    print(f"{len(images)} images, {len(objects)} {'real' if real else 'made-up'} objects, ", end="")
    print(f"{len(detections)} detections, 20 classes")
    names = list(OFFICIAL_CLASSES)
    classes = pd.DataFrame({"name": names, "superclass": [SUPERCLASS[name] for name in names]})
    times = np.array([measure(objects, detections, classes, len(images)) for _ in range(3)])
    parts = ("overlaps", "Hoiem's analysis", "seven curves")
    for name, seconds in zip(parts, times.min(0), strict=True):
        print(f"{name:20}{seconds:8.2f} s")
    print(f"{'in all':20}{times.sum(1).min():8.2f} s  (goal: 2)")


def measure(
    objects: pd.DataFrame, detections: pd.DataFrame, classes: pd.DataFrame, image_count: int
) -> list[float]:
    """Return the seconds that each part of the analysis takes."""
    marks = [time.perf_counter()]
    found = candidates(objects, detections, len(classes), CONFUSED)
    marks.append(time.perf_counter())
    diagnosis = diagnose(objects, found, similar_classes(classes), image_count)
    count_outcomes(diagnosis)
    sizes = quantile_strata(diagnosis, area(objects[["x1", "y1", "x2", "y2"]].to_numpy(float)))
    missed = missed_objects(diagnosis)
    for stratum in range(5):
        normalised_average(diagnosis, sizes == stratum)
        mean_by_class(diagnosis, missed, sizes == stratum)
    marks.append(time.perf_counter())
    seven_curves(objects, detections, found, classes)
    marks.append(time.perf_counter())
    return np.diff(marks).tolist()


if __name__ == "__main__":
    main()
