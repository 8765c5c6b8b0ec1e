"""Score predicted masks against the true ones, in whole images and by distance to the borders."""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

import detransfer
from detransfer.console import InputError, run
from detransfer.data.index import Index, read_index
from detransfer.data.masks import VOID, mask_paths, read_mask, resize_labels
from detransfer.imports import code_digest, imported_files
from detransfer.recipes.segmentation import ResizeRecipe, SegmentationRecipe
from detransfer.report.metrics import Metric, RunMetrics, RunName, provenance, write_metrics
from detransfer.report.tables import write_table
from detransfer.segmentation.by_distance import CELL_TYPES, Confusion, write_confusion
from detransfer.segmentation.confusion import confusion
from detransfer.segmentation.predictions import Predictions
from detransfer.segmentation.scores import (
    all_background,
    class_counts,
    iou,
    mean_iou,
    pixel_accuracy,
)
from detransfer.segmentation.trimap import confusion_by_distance
from detransfer.strict import validate
from detransfer.weights import check_classes, read_header

DESCRIPTION = """\
Score predicted masks against the true ones. Writes metrics.json (mean IoU and pixel accuracy in
percent at the original resolution and, as ..._resized, at the one that the network sees; their
floors are those of the answer that all is background), a table of the classes, and the pixels of
every image by distance to the void borders, true and predicted class, from which trimaps of any
width and any resample of the images can be scored.
"""
CONVENTION = "one confusion matrix over all images; mean over the classes that have true pixels"


@dataclass(frozen=True)
class Evaluated:
    """What the pixels of all images come to, at both resolutions."""

    original: Confusion
    resized: np.ndarray  # (classes, classes)
    without_void: int  # images


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=DESCRIPTION)
    add = parser.add_argument
    add("--predictions", type=Path, required=True, help="predicted masks of segment.py")
    add("--model", type=Path, required=True, help="model.safetensors of the run")
    add("--fit", type=Path, required=True, help="fit.json of the run")
    add("--index", type=Path, required=True, help="folder of the data set's index")
    add("--split", required=True, help="split the predictions are of")
    add("--pretraining", required=True, help="name of the pre-training")
    add("--target", required=True, help="name of the target")
    add("--dataset", required=True, help="name of the target's data set")
    add("--seed", type=int, required=True, help="seed of the run")
    add("--output", type=Path, required=True, help="metrics.json to write")
    add("--classes", type=Path, required=True, help="CSV of the classes to write")
    add("--confusion", type=Path, required=True, help="parquet of the pixels to write")
    return parser.parse_args()


def evaluate(index: Index, predictions: Predictions, recipe: ResizeRecipe) -> Evaluated:
    """Count the pixels of all images, each read once."""
    classes = index.classes["name"].tolist()
    resized = np.zeros((len(classes), len(classes)), np.int64)
    parts, without_void = [], 0
    images = index.images
    rows = zip(
        images["image_id"], mask_paths(index), images["height"], images["width"], strict=True
    )
    for image_id, path, *size in tqdm(rows, "images", len(images), unit=" images", disable=None):
        truth = true_mask(path, size, len(classes))
        found = predicted_mask(predictions, image_id, recipe.size(*size))
        counts = confusion_by_distance(truth, resize_labels(found, *truth.shape), len(classes))
        parts.append(cells(image_id, counts))
        resized += confusion(resize_labels(truth, *found.shape), found, len(classes))
        without_void += not (truth == VOID).any()
    table = pd.DataFrame(np.concatenate(parts), columns=list(CELL_TYPES))
    ids = images["image_id"].to_numpy(np.int32)
    return Evaluated(Confusion(ids, tuple(classes), table), resized, without_void)


def true_mask(path: Path, size: list[int], classes: int) -> np.ndarray:
    """Read a true mask; raises InputError where it has another size than the image."""
    mask = read_mask(path, classes - 1)
    if list(mask.shape) != size:
        raise InputError(
            f"{path}: the mask has {mask.shape[1]} x {mask.shape[0]} pixels, but its image has "
            f"{size[1]} x {size[0]}; make the index again"
        )
    return mask


def predicted_mask(
    predictions: Predictions, image_id: int, expected: tuple[int, int]
) -> np.ndarray:
    """Read a predicted mask; raises InputError unless it has the size that the network sees."""
    mask = predictions.mask(image_id)
    if mask.shape != expected:
        raise InputError(
            f"{predictions.path}: {image_id}.png has {mask.shape[1]} x {mask.shape[0]} pixels, but "
            f"the model sees {expected[1]} x {expected[0]}; run scripts/segment.py again"
        )
    return mask


def cells(image_id: int, counts: np.ndarray) -> np.ndarray:
    """Return the cells of one image that occur, (m, 5), in the columns of ``CELL_TYPES``."""
    distance, truth, predicted = np.nonzero(counts)
    pixels = counts[distance, truth, predicted]
    ids = np.full(len(pixels), image_id)
    return np.stack([ids, distance + 1, truth, predicted, pixels], 1)


def metrics(original: np.ndarray, resized: np.ndarray, images: int) -> tuple[Metric, ...]:
    """Return the scores of the counts (classes, 3) at both resolutions, with their floors."""
    found = []
    for suffix, counts in (("", original), ("_resized", resized)):
        floor = all_background(counts)
        for name, score in (("mIoU", mean_iou), ("pixel_accuracy", pixel_accuracy)):
            value, least = float(100 * score(counts)), float(100 * score(floor))
            found.append(Metric(name + suffix, value, "%", images, least, 100.0))
    scored = float((original[:, 1] > 0).sum())
    return (*found, Metric("classes_scored", scored, "classes", images, None, float(len(original))))


def class_table(evaluated: Evaluated) -> pd.DataFrame:
    """Return one row a class: its IoU in percent at both resolutions, empty where it is absent."""
    by_image = evaluated.original.counts().sum(1)
    counts = by_image.sum(0)
    return pd.DataFrame(
        {
            "class_id": range(len(counts)),
            "class": evaluated.original.classes,
            "iou": 100 * iou(counts),
            "iou_resized": 100 * iou(class_counts(evaluated.resized)),
            "images": (by_image[..., 1] > 0).sum(0),
            "true_pixels": counts[:, 1],
            "predicted_pixels": counts[:, 2],
        }
    )


def read_run(fit: Path, model: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the content of fit.json and the header of the model; raises InputError."""
    header = read_header(model)
    if header.get("task") != "segmentation":
        raise InputError(
            f"{model}: holds no segmenter (task: {header.get('task', 'not given')}); give the "
            "model.safetensors that scripts/train_segmenter.py wrote"
        )
    try:
        return json.loads(fit.read_text()), header
    except (OSError, ValueError) as error:
        raise InputError(f"{fit}: not a readable fit.json ({error})") from error


def report(evaluated: Evaluated, table: pd.DataFrame, index: Index) -> None:
    """Say what the numbers leave out; raises InputError if that is everything."""
    absent = table[table["true_pixels"] == 0]["class"].tolist()
    if len(absent) == len(table):
        raise InputError(f"{index.root}: all pixels of this split are void: there is no score")
    if absent:
        logging.warning("no true pixel, so left out of the mean: %s", ", ".join(absent))
    if evaluated.without_void:
        text = "%d of %d images have no void: they lie in the anti-trimap, whatever its width"
        logging.warning(text, evaluated.without_void, len(index.images))


def record(
    arguments: argparse.Namespace,
    index: Index,
    evaluated: Evaluated,
    header: dict[str, Any],
    fit: dict[str, Any],
) -> RunMetrics:
    """Return the content of metrics.json."""
    counts = evaluated.original.counts().sum((0, 1))
    name = (arguments.target, arguments.dataset, arguments.pretraining, arguments.seed)
    code = code_digest(imported_files(Path(__file__), Path(detransfer.__file__).parent))
    return RunMetrics(
        run=RunName("segmentation", *name),
        metrics=metrics(counts, class_counts(evaluated.resized), len(index.images)),
        fit=fit,
        comparability={
            "evaluation_data": index.digest(),
            "evaluation_split": arguments.split,
            "training_data": header["data_digest"],
            "recipe": header["recipe_digest"],
            "convention": CONVENTION,
        },
        provenance=provenance(arguments.model, header, code, fit["device"]),
    )


def main() -> None:
    arguments = parse()
    cv2.setNumThreads(1)
    fit, header = read_run(arguments.fit, arguments.model)
    recipe = validate(SegmentationRecipe, header["recipe"], str(arguments.model)).images
    index = read_index(arguments.index).split(arguments.split)
    names = index.classes["name"].tolist()
    check_classes(arguments.model, header, names, arguments.index)
    ids = index.images["image_id"].tolist()
    evaluated = evaluate(index, Predictions(arguments.predictions, ids, len(names)), recipe)
    table = class_table(evaluated)
    report(evaluated, table, index)
    write_confusion(arguments.confusion, evaluated.original)
    write_table(arguments.classes, table)
    write_metrics(arguments.output, record(arguments, index, evaluated, header, fit))


if __name__ == "__main__":
    run(main)
