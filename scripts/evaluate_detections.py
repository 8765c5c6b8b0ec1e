"""Score a run's detections by VOC's average precision at every overlap, in both conventions.

Writes metrics.json and a table of the average precision of each class.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd

from detransfer.console import InputError, run
from detransfer.data.index import Index, read_index
from detransfer.detection.average_precision import (
    AveragePrecision,
    VocConvention,
    average_precision,
    match,
    mean_over_classes,
)
from detransfer.detection.detections import read_detections
from detransfer.imports import code_digest, imported_files
from detransfer.recipes import InferenceRecipe, VocRecipe
from detransfer.report.metrics import Metric, RunMetrics, RunName, provenance, write_metrics
from detransfer.study import load_recipe_file
from detransfer.weights import read_header

REPOSITORY = Path(__file__).parents[1]
SCORING = {"voc", "diagnosis", "batch_size", "training_images"}  # what no detection depends on


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--detections", type=Path, required=True, help="detections on the split")
    add("--training-detections", type=Path, required=True, help="those on training images")
    add("--model", type=Path, required=True, help="model.safetensors of the run")
    add("--fit", type=Path, required=True, help="fit.json of the run")
    add("--index", type=Path, required=True, help="folder of the data set's index")
    add("--split", required=True, help="split the detections are of")
    add("--training-splits", nargs="+", required=True, help="splits of the training images")
    add("--recipe", type=Path, required=True, help="recipe of inference and scoring")
    add("--pretraining", required=True, help="name of the pre-training")
    add("--dataset", required=True, help="name of the data set")
    add("--seed", type=int, required=True, help="seed of the run")
    add("--output", type=Path, required=True, help="metrics.json to write")
    add("--classes", type=Path, required=True, help="CSV of the classes' average precisions")
    return parser.parse_args()


def score(index: Index, path: Path, voc: VocRecipe) -> AveragePrecision:
    """Return the average precisions of a table of detections on the images of ``index``."""
    detections = read_detections(path, set(index.images["image_id"]), len(index.classes))
    convention = VocConvention(voc.strict_overlap, voc.round_scores, voc.round_boxes)
    matches = match(index.objects, detections, len(index.classes), convention)
    if not matches.positives.any():
        raise InputError(f"{index.root}: no object of these splits counts, so there is no AP")
    return average_precision(matches, voc.ious)


def metrics(result: AveragePrecision, voc: VocRecipe, images: int) -> tuple[Metric, ...]:
    """Return the means over classes: the headline convention bare, both under their own names."""
    found = []
    for name, values in (("AP07", result.ap07), ("AP10", result.ap10)):
        for iou, value in zip(voc.ious, mean_over_classes(values), strict=True):
            percent = float(100 * value)
            if name == voc.convention:
                found.append(Metric(f"mAP@{iou:g}", percent, "%", images, None, 100.0))
            found.append(Metric(f"m{name}@{iou:g}", percent, "%", images, None, 100.0))
    return tuple(found)


def class_table(result: AveragePrecision, classes: pd.Series) -> pd.DataFrame:
    """Return one row a class, convention and overlap; empty for a class without objects."""
    parts = []
    for name, values in (("AP07", result.ap07), ("AP10", result.ap10)):
        table = pd.DataFrame(100 * values, columns=[f"{iou:g}" for iou in result.thresholds])
        table.insert(0, "class", classes)
        table.insert(1, "metric", name)
        parts.append(table.melt(["class", "metric"], var_name="iou"))
    return pd.concat(parts)


def read_run(fit: Path, model: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the content of fit.json and the header of the model; raises InputError."""
    header = read_header(model)
    if header.get("task") != "detection":
        raise InputError(
            f"{model}: holds no detector (task: {header.get('task', 'not given')}); give the "
            "model.safetensors that scripts/train_detector.py wrote"
        )
    try:
        return json.loads(fit.read_text()), header
    except (OSError, ValueError) as error:
        raise InputError(f"{fit}: not a readable fit.json ({error})") from error


def main() -> None:
    arguments = parse()
    recipe = load_recipe_file(arguments.recipe, InferenceRecipe)
    index = read_index(arguments.index)
    part = index.split(arguments.split)
    result = score(part, arguments.detections, recipe.voc)
    training = index.split(*arguments.training_splits).sample(recipe.training_images)
    training_result = score(training, arguments.training_detections, recipe.voc)
    fitted = metrics(training_result, recipe.voc, len(training.images))
    fit, header = read_run(arguments.fit, arguments.model)
    run_metrics = RunMetrics(
        run=RunName("detection", arguments.dataset, arguments.pretraining, arguments.seed),
        metrics=metrics(result, recipe.voc, len(part.images)),
        fit={**fit, "training_score": next(m.value for m in fitted if m.name == "mAP@0.5")},
        comparability={
            "evaluation_data": part.digest(),
            "evaluation_split": arguments.split,
            "training_data": header["data_digest"],
            "training_recipe": header["recipe_digest"],
            "inference": recipe.model_dump_json(exclude=SCORING),
            "metric": recipe.voc.model_dump_json(),
        },
        provenance=provenance(
            arguments.model,
            header,
            code_digest(imported_files(Path(__file__), REPOSITORY / "src" / "detransfer")),
            fit["device"],
        ),
    )
    write_metrics(arguments.output, run_metrics)
    class_table(result, index.classes["name"]).to_csv(arguments.classes, index=False)


if __name__ == "__main__":
    run(main)
