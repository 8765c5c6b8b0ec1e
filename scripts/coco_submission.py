"""Write detections as the JSON file that COCO's evaluation server and its tools read.

One entry a detection: image_id, category_id (COCO's own number), bbox [x, y, width, height] in
pixels from 0, and score (cocodataset.org, "Results format"). For the server, name the file
detections_test-dev2017_<name>_results.json and pack it into a zip of the same name.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from detransfer.console import InputError, run
from detransfer.data.index import BOX, read_index
from detransfer.detection.detections import read_detections
from detransfer.files import atomic

log = logging.getLogger("coco_submission")
DECIMALS = 2  # of a pixel; COCO recommends one or more


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--detections", type=Path, required=True, help="detections.parquet of the split")
    add("--index", type=Path, required=True, help="folder of the index of a COCO data set")
    add("--split", required=True, help="split the detections are of, such as test-dev2017")
    add("--output", type=Path, required=True, help="JSON file to write")
    return parser.parse_args()


def category_ids(classes: pd.DataFrame, index: Path) -> np.ndarray:
    """Return COCO's category id of every class id."""
    for name, source in zip(classes["name"], classes["source_id"], strict=True):
        if not source.isdecimal():
            raise InputError(
                f"{index / 'classes.csv'}: class {name!r} has source_id {source!r}, which is no "
                "category id of COCO; give the index of a COCO data set"
            )
    return classes["source_id"].astype(int).to_numpy()


def entries(detections: pd.DataFrame, categories: np.ndarray) -> list[dict[str, Any]]:
    """Return the official entries in the order of the detections."""
    box = detections[BOX].to_numpy(float)
    box[:, 2:] -= box[:, :2]
    return [
        {"image_id": image, "category_id": category, "bbox": corners, "score": score}
        for image, category, corners, score in zip(
            detections["image_id"].tolist(),
            categories[detections["class_id"]].tolist(),
            box.round(DECIMALS).tolist(),
            detections["score"].tolist(),
            strict=True,
        )
    ]


def main() -> None:
    arguments = parse()
    index = read_index(arguments.index)
    images = index.split(arguments.split).images["image_id"]
    names = index.classes["name"].tolist()
    detections = read_detections(arguments.detections, set(images), classes=names)
    categories = category_ids(index.classes, arguments.index)
    with atomic(arguments.output) as temporary, temporary.open("w") as file:
        json.dump(entries(detections, categories), file, separators=(",", ":"))
    found = detections["image_id"].nunique()
    log.info("%d detections in %d of %d images", len(detections), found, len(images))


if __name__ == "__main__":
    run(main)
