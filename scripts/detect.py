"""Run a detector over a split, and over a few training images to see whether the training fitted.

Writes two tables of detections (see detransfer.detection.detections).
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

from detransfer.console import InputError, run
from detransfer.data.index import read_index
from detransfer.detection.detections import write_detections
from detransfer.detection.predict import load_detector, predict
from detransfer.recipes import InferenceRecipe
from detransfer.study import load_recipe_file
from detransfer.training_run import use_machine


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--model", type=Path, required=True, help="model.safetensors of train_detector.py")
    add("--index", type=Path, required=True, help="folder of the data set's index")
    add("--split", required=True, help="split to run on")
    add("--training-splits", nargs="+", required=True, help="splits it was trained on")
    add("--recipe", type=Path, required=True, help="recipe of inference and scoring")
    add("--output", type=Path, required=True, help="table of detections on the split")
    add("--training-output", type=Path, required=True, help="table on the training images")
    add("--threads", type=int, default=1, help="processor cores to use")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    recipe = load_recipe_file(arguments.recipe, InferenceRecipe)
    device = use_machine(arguments.threads)
    workers = arguments.threads if device.type == "cuda" else 0
    index = read_index(arguments.index)
    detector, classes = load_detector(arguments.model)
    if classes != index.classes["name"].tolist():
        raise InputError(
            f"{arguments.model}: was trained on other classes than {arguments.index} has"
        )
    training = index.split(*arguments.training_splits).sample(recipe.training_images)
    for part, output in (
        (index.split(arguments.split), arguments.output),
        (training, arguments.training_output),
    ):
        started = time.monotonic()
        found = predict(detector, part, recipe, device, workers)
        speed = len(part.images) / (time.monotonic() - started)
        logging.info("%d images at %.2f images/s -> %s", len(part.images), speed, output)
        write_detections(output, found)


if __name__ == "__main__":
    run(main)
