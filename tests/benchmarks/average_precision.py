"""Time VOC average precision at VOC2007's size: ours, pycocotools and the usual loop.

4,952 images, 14,976 objects (the real ones where the shared sample data are at hand, made-up ones
otherwise), 495,200 simulated detections, 20 classes, nine IoU thresholds. The goals are 20 times
pycocotools and 100 times the loop. Run from the repository: python
tests/benchmarks/average_precision.py
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "src"), str(REPOSITORY)]

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from pycocotools.coco import COCO  # noqa: E402
from pycocotools.cocoeval import COCOeval  # noqa: E402

from detransfer.detection.average_precision import average_precision, match  # noqa: E402
from tests.detection.voc_loop import VocLoop  # noqa: E402
from tests.detection.voc_records import read_records, simulate, synthetic_records  # noqa: E402

THRESHOLDS = [k / 10 for k in range(1, 10)]


def seconds(call: Callable[[], object], repeats: int = 1) -> float:
    """Return the shortest time that ``call`` took."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def coco_evaluation(
    images: pd.DataFrame, objects: pd.DataFrame, detections: pd.DataFrame
) -> COCOeval:
    """Return pycocotools' evaluation with everything loaded: all areas as one, 100 an image."""

    def entries(table: pd.DataFrame) -> list[dict]:
        box = table[["x1", "y1", "x2", "y2"]].to_numpy(np.float64)
        size = box[:, 2:] - box[:, :2]
        frame = pd.DataFrame({"image_id": table["image_id"], "category_id": table["class_id"]})
        frame["bbox"] = np.hstack([box[:, :2], size]).tolist()
        frame["area"] = size.prod(1)
        if "score" in table:
            frame["score"] = table["score"].astype(float)
        else:
            frame["id"] = range(1, len(table) + 1)
            frame["iscrowd"] = table["difficult"].astype(int)
        return frame.to_dict("records")

    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": int(image_id)} for image_id in images["image_id"]],
        "categories": [{"id": k} for k in range(20)],
        "annotations": entries(objects),
    }
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(entries(detections)), "bbox")
    evaluation.params.iouThrs = np.array(THRESHOLDS)
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
    evaluation.params.maxDets = [100]
    return evaluation


def main() -> None:
    default = REPOSITORY / "../shared/data"
    folder = Path(os.environ.get("DETRANSFER_REAL_DATA", default)).resolve()
    rng = np.random.default_rng(0)
    real = folder.is_dir()
    images, objects = read_records(folder) if real else synthetic_records(rng)
    detections = simulate(images, objects, 100 * len(images), rng)
    print(f"{len(images)} images, {len(objects)} {'real' if real else 'made-up'} objects, ", end="")
    print(f"{len(detections)} detections, 20 classes, {len(THRESHOLDS)} IoU thresholds")

    ours = seconds(lambda: average_precision(match(objects, detections, 20), THRESHOLDS), 5)
    print(f"ours (AP07 and AP10)      {ours:8.2f} s")
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = coco_evaluation(images, objects, detections)
        coco = seconds(lambda: (evaluation.evaluate(), evaluation.accumulate()))
    print(f"pycocotools, one area     {coco:8.2f} s  {coco / ours:6.0f} times ours (goal: 20)")
    loop = VocLoop(objects)
    slow = seconds(lambda: [loop(detections, c, t) for c in range(20) for t in THRESHOLDS])
    print(f"the loop, in full         {slow:8.2f} s  {slow / ours:6.0f} times ours (goal: 100)")


if __name__ == "__main__":
    main()
