"""Run a detector over a split, and over a few training images to see whether the training fitted.

Writes two tables of detections (see detransfer.detection.detections).
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

from detransfer.console import InputError, run
from detransfer.data.index import Index, read_index
from detransfer.detection.detections import write_detections
from detransfer.detection.detector import Detector
from detransfer.detection.predict import load_detector, predict
from detransfer.device_faults import device_faults
from detransfer.ranks import first
from detransfer.recipes.evaluation import InferenceRecipe
from detransfer.strict import load_file
from detransfer.training_run import add_architecture, use_machine
from detransfer.weights import read_header


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--model", type=Path, required=True, help="model.safetensors of train_detector.py")
    add("--index", type=Path, required=True, help="folder of the data set's index")
    add("--split", required=True, help="split to run on")
    add("--training-index", type=Path, help="index of the training images; default: the same")
    add("--training-splits", nargs="+", required=True, help="splits it was trained on")
    add("--recipe", type=Path, required=True, help="recipe of inference and scoring")
    add("--output", type=Path, required=True, help="table of detections on the split")
    add("--training-output", type=Path, required=True, help="table on the training images")
    add("--threads", type=int, default=1, help="processor cores to use")
    add_architecture(parser)
    return parser.parse_args()


def detector_for(
    index: Index, folder: Path, model: Path, architecture: Path | None = None
) -> Detector:
    """Return the detector of a file, naming the classes of ``index``: by its map if they differ.

    ``architecture`` is the file that defines its backbone, where timm does not. Raises InputError
    where the index has no map, or one that knows none of the detector's classes.
    """
    detector, classes = load_detector(model, architecture)
    if classes == index.classes["name"].tolist():
        return detector
    if index.class_map is None:
        raise InputError(
            f"{model}: was trained on other classes than {folder} has, which has no class_map.csv "
            "to say what they mean there; give a detector or an index of the same classes"
        )
    meaning = index.class_map.groupby("source_id")["class_id"].first()
    mapped = [int(meaning.get(source, -1)) for source in read_header(model)["source_ids"]]
    if max(mapped) < 0:
        raise InputError(
            f"{model}: none of its classes means one of {folder}, by the class_map.csv there; give "
            "a detector of the classes that it maps"
        )
    logging.info("%d of %d classes mean one here", sum(m >= 0 for m in mapped), len(mapped))
    detector.merge_classes(mapped, len(index.classes))
    return detector


def main() -> None:
    arguments = parse()
    recipe = load_file(arguments.recipe, InferenceRecipe)
    device, workers = use_machine(arguments.threads)
    index = read_index(arguments.index)
    training = read_index(arguments.training_index or arguments.index)
    training = training.split(*arguments.training_splits).counted()
    training = training.sample(recipe.training_images)
    parts = [
        (index.split(arguments.split), arguments.output),
        (training, arguments.training_output),
    ]
    folders = (arguments.index, arguments.training_index or arguments.index)
    detectors = [
        detector_for(part, folder, arguments.model, arguments.architecture)
        for (part, _), folder in zip(parts, folders, strict=True)
    ]
    remedy = f"Lower batch_size in {arguments.recipe}"
    for detector, (part, output) in zip(detectors, parts, strict=True):
        started = time.monotonic()
        with device_faults(device, f"detecting with {arguments.model}", remedy):
            found = predict(detector, part, recipe, device, workers)
        speed = len(part.images) / (time.monotonic() - started)
        logging.info("%d images at %.2f images/s -> %s", len(part.images), speed, output)
        if first():
            write_detections(output, found, part.classes["name"].tolist())


if __name__ == "__main__":
    run(main)
