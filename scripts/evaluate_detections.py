"""Score a run's detections by the metric of its recipe: VOC's, COCO's or Open Images'.

VOC's is taken at every overlap and in both conventions. Writes metrics.json and a table of the
average precision of each class.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from detransfer.console import InputError, run
from detransfer.data.index import Index, read_index
from detransfer.detection.average_precision import (
    VocConvention,
    average_precision,
    match,
    mean_over_classes,
)
from detransfer.detection.coco_metrics import (
    coco_average_precision,
    open_images_average_precision,
)
from detransfer.detection.detections import read_detections
from detransfer.files import atomic
from detransfer.imports import code_digest, imported_files
from detransfer.recipes.evaluation import CocoRecipe, InferenceRecipe, OpenImagesRecipe, VocRecipe
from detransfer.report.metrics import Metric, RunMetrics, RunName, provenance, write_metrics
from detransfer.strict import load_file
from detransfer.weights import read_header

REPOSITORY = Path(__file__).parents[1]
SCORING = {"metric", "diagnosis", "batch_size", "training_images"}  # what no detection depends on


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--detections", type=Path, required=True, help="detections on the split")
    add("--training-detections", type=Path, required=True, help="those on training images")
    add("--model", type=Path, required=True, help="model.safetensors of the run")
    add("--fit", type=Path, required=True, help="fit.json of the run")
    add("--index", type=Path, required=True, help="folder of the data set's index")
    add("--split", required=True, help="split the detections are of")
    add("--training-index", type=Path, help="index of the training images; default: the same")
    add("--training-splits", nargs="+", required=True, help="splits of the training images")
    add("--recipe", type=Path, required=True, help="recipe of inference and scoring")
    add("--task", choices=("detection", "pretraining"), required=True, help="what the run is")
    add("--pretraining", required=True, help="name of the pre-training")
    add("--target", required=True, help="name of the target")
    add("--dataset", required=True, help="name of the target's data set")
    add("--seed", type=int, required=True, help="seed of the run")
    add("--output", type=Path, required=True, help="metrics.json to write")
    add("--classes", type=Path, required=True, help="CSV of the classes' average precisions")
    return parser.parse_args()


@dataclass(frozen=True)
class Score:
    """The metrics of a table of detections, the headline first, and a table of the classes."""

    metrics: tuple[Metric, ...]
    classes: pd.DataFrame


def score(index: Index, path: Path, recipe: VocRecipe | CocoRecipe | OpenImagesRecipe) -> Score:
    """Score the detections in a file on the images of ``index`` by the recipe's metric."""
    names = index.classes["name"].tolist()
    detections = read_detections(path, set(index.images["image_id"]), classes=names)
    if not (~index.objects[["difficult", "crowd"]].any(axis=1)).any():
        raise InputError(f"{index.root}: no object of these splits counts, so there is no AP")
    if isinstance(recipe, VocRecipe):
        return score_voc(index, detections, recipe)
    images = len(index.images)
    if isinstance(recipe, CocoRecipe):
        values, by_class = coco_average_precision(index, detections)
    else:
        by_class = open_images_average_precision(index, detections)
        values = {"mAP@0.5": float(np.nanmean(by_class))}
    found = [percent(name, value, images) for name, value in values.items() if value == value]
    metric, iou = next(iter(values)).split("@")
    table = pd.DataFrame({"class": names, "metric": metric.removeprefix("m"), "iou": iou})
    return Score(tuple(found), table.assign(value=100 * by_class))


def score_voc(index: Index, detections: pd.DataFrame, voc: VocRecipe) -> Score:
    """Score by VOC's metric: the headline convention bare, both under their own names."""
    convention = VocConvention(voc.strict_overlap, voc.round_scores, voc.round_boxes)
    matches = match(index.objects, detections, len(index.classes), convention)
    result = average_precision(matches, voc.ious)
    found, parts = [], []
    for name, values in (("AP07", result.ap07), ("AP10", result.ap10)):
        for iou, value in zip(voc.ious, mean_over_classes(values), strict=True):
            if name == voc.convention:
                found.append(percent(f"mAP@{iou:g}", value, len(index.images)))
            found.append(percent(f"m{name}@{iou:g}", value, len(index.images)))
        table = pd.DataFrame(100 * values, columns=[f"{iou:g}" for iou in result.thresholds])
        table.insert(0, "class", index.classes["name"])
        table.insert(1, "metric", name)
        parts.append(table.melt(["class", "metric"], var_name="iou"))
    return Score(tuple(found), pd.concat(parts))


def percent(name: str, value: float, images: int) -> Metric:
    return Metric(name, float(100 * value), "%", images, None, 100.0)


def headline(score: Score) -> float:
    """Return the score at overlap 0.5, by which one sees whether a training fitted."""
    return next(m.value for m in score.metrics if m.name in ("mAP@0.5", "AP@0.5"))


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
    recipe = load_file(arguments.recipe, InferenceRecipe)
    part = read_index(arguments.index).split(arguments.split)
    result = score(part, arguments.detections, recipe.metric)
    training = read_index(arguments.training_index or arguments.index)
    training = training.split(*arguments.training_splits).counted()
    training = training.sample(recipe.training_images)
    fitted = score(training, arguments.training_detections, recipe.metric)
    fit, header = read_run(arguments.fit, arguments.model)
    run_metrics = RunMetrics(
        run=RunName(
            arguments.task,
            arguments.target,
            arguments.dataset,
            arguments.pretraining,
            arguments.seed,
        ),
        metrics=result.metrics,
        fit={**fit, "training_score": headline(fitted)},
        comparability={
            "evaluation_data": part.digest(),
            "evaluation_split": arguments.split,
            "training_data": header["data_digest"],
            "training_recipe": header["recipe_digest"],
            "inference": recipe.model_dump_json(exclude=SCORING),
            "metric": recipe.metric.model_dump_json(),
        },
        provenance=provenance(
            arguments.model,
            header,
            code_digest(imported_files(Path(__file__), REPOSITORY / "src" / "detransfer")),
            fit["device"],
        ),
    )
    write_metrics(arguments.output, run_metrics)
    with atomic(arguments.classes) as temporary:
        result.classes.to_csv(temporary, index=False)


if __name__ == "__main__":
    run(main)
