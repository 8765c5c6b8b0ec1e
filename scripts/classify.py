"""Run a trained classifier on one split of an index and score it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import detransfer
from detransfer.classification.accuracy import Accuracy, accuracy
from detransfer.classification.evaluate import REMEDY, predict
from detransfer.classification.finetune import labelled_images, load_classifier
from detransfer.console import InputError, run
from detransfer.data.index import read_index
from detransfer.device_faults import device_faults
from detransfer.files import atomic
from detransfer.imports import code_digest, imported_files
from detransfer.ranks import first
from detransfer.report.metrics import Metric, RunMetrics, RunName, provenance, write_metrics
from detransfer.training_log import device_name
from detransfer.training_run import add_architecture, use_machine
from detransfer.weights import check_classes

DESCRIPTION = """\
Run a trained classifier on one split of an index, each image through a central crop, and score it.
Writes a table of predictions (image_id, class_id, predicted, and the probability of the true
class) and metrics.json with top-1 and the mean accuracy over classes, in percent. Their floors are
those of the best answer that never looks at an image.
"""
CONVENTION = "one central crop, images weighed alike (top1) or classes (mean_class_accuracy)"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=DESCRIPTION)
    add = parser.add_argument
    add("--model", type=Path, required=True, help="model.safetensors of train_classifier.py")
    add("--fit", type=Path, required=True, help="fit.json beside it")
    add("--index", type=Path, required=True, help="folder of the data set's index")
    add("--split", required=True, help="split to evaluate on")
    add("--threads", type=int, default=1, help="processor cores to use")
    add("--pretraining", required=True, help="name of the run's pre-training, for the record")
    add("--target", required=True, help="name of the run's target, for the record")
    add("--dataset", required=True, help="name of the target's data set, for the record")
    add("--seed", type=int, required=True, help="the run's seed, for the record")
    add("--predictions", type=Path, required=True, help="parquet file to write")
    add("--output", type=Path, required=True, help="metrics.json to write")
    add_architecture(parser)
    return parser.parse_args()


def write_predictions(path: Path, table: dict[str, np.ndarray]) -> None:
    """Write the predictions; ids as int32, the probability as float32."""
    with atomic(path) as temporary:
        pd.DataFrame(table).to_parquet(temporary, index=False)


def metrics_of(score: Accuracy, n: int) -> tuple[Metric, ...]:
    """Return the scores as they stand in metrics.json."""
    return (
        Metric("top1", score.top1, "%", n, score.top1_floor, 100.0),
        Metric("mean_class_accuracy", score.mean_class, "%", n, score.mean_class_floor, 100.0),
    )


def read_fit(path: Path) -> dict[str, Any]:
    try:
        fit: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable fit.json ({error})") from error
    return fit


def main() -> None:
    arguments = parse()
    fit = read_fit(arguments.fit)
    device, workers = use_machine(arguments.threads)
    model, header = load_classifier(arguments.model, arguments.architecture)
    index = read_index(arguments.index).split(arguments.split)
    check_classes(arguments.model, header, index.classes["name"].tolist(), arguments.index)
    images = labelled_images(index, model.recipe.images)
    with device_faults(device, f"classifying with {arguments.model}", REMEDY):
        predicted, probability = predict(model, images, device, workers)
    if not first():
        return
    table = {
        "image_id": index.images["image_id"].to_numpy(np.int32),
        "class_id": images.class_ids.astype(np.int32),
        "predicted": predicted.astype(np.int32),
        "probability": probability,
    }
    write_predictions(arguments.predictions, table)
    code = code_digest(imported_files(Path(__file__), Path(detransfer.__file__).parent))
    metrics = RunMetrics(
        run=RunName(
            "classification",
            arguments.target,
            arguments.dataset,
            arguments.pretraining,
            arguments.seed,
        ),
        metrics=metrics_of(accuracy(images.class_ids, predicted), len(images)),
        fit=fit,
        comparability={
            "evaluation_data": index.digest(),
            "evaluation_split": arguments.split,
            "training_data": header["data_digest"],
            "recipe": header["recipe_digest"],
            "convention": CONVENTION,
            "image_size": model.recipe.images.size,
        },
        provenance=provenance(arguments.model, header, code, device_name(device)),
    )
    write_metrics(arguments.output, metrics)


if __name__ == "__main__":
    run(main)
