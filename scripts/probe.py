"""Fit linear probes to layers of frozen features, and score them on test images.

Writes, in a folder for each layer, metrics.json, predictions.parquet (image_id, class_id,
predicted, and the probability of the true class), classes.csv (the accuracy of each class),
path.csv (the penalties tried on a held-out fifth of the training images) and probe.safetensors
(weight and bias on the features as they are).

Images whose data set gives them no class are taken where all their objects are of one class.
"""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import save
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

import detransfer
from detransfer.classification.accuracy import accuracy, bootstrap_interval, permuted
from detransfer.classification.neighbours import neighbour_votes
from detransfer.classification.probe import (
    Data,
    Probe,
    few_shot,
    fit_probe,
    predict,
    top1,
    training_data,
)
from detransfer.console import InputError, run
from detransfer.data.image_classes import image_classes
from detransfer.data.index import Index, read_index
from detransfer.features.store import Features, open_features, rows_of
from detransfer.files import atomic, digest, sha256
from detransfer.imports import code_digest, imported_files
from detransfer.recipes.classification import ProbeRecipe
from detransfer.report.metrics import Metric, RunMetrics, RunName, provenance, write_metrics
from detransfer.strict import load_file
from detransfer.weights import read_header

log = logging.getLogger("probe")
CONVENTION = (
    "one central view; logistic regression on standardised features, its penalty chosen on a "
    "held-out fifth of the training images"
)


@dataclass(frozen=True)
class Task:
    """What is probed: features (n, d) of all images, and who is learnt from and tested on.

    Classes are numbered among those that can be learnt; ``class_ids`` are their own numbers.
    """

    features: np.ndarray
    names: list[str]
    class_ids: np.ndarray
    training: np.ndarray
    known: np.ndarray
    test: np.ndarray
    truth: np.ndarray


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--features", type=Path, required=True, help="folder of recorded features")
    add("--layers", nargs="+", required=True, help="the layers to probe, such as conv5")
    add("--weights", type=Path, required=True, help="weights that the features must be of")
    add("--index", type=Path, required=True, help="folder of the data set's index")
    add("--splits", nargs="+", required=True, help="splits to learn from")
    add("--eval-split", required=True, help="split to test on")
    add("--recipe", type=Path, required=True, help="recipe of the probe")
    add("--curves", action="store_true", help="few-shot probes and nearest neighbours as well")
    add("--shuffle-labels", action="store_true", help="a control: permute the training labels")
    add("--threads", type=int, default=1, help="processor cores to use")
    add("--pretraining", required=True, help="name of the run's pre-training, for the record")
    add("--target", required=True, help="name of the run's target, for the record")
    add("--dataset", required=True, help="name of the target's data set, for the record")
    add("--seed", type=int, required=True, help="of the held-out fifth and of few-shot draws")
    add("--output", type=Path, required=True, help="folder to write a folder for each layer into")
    return parser.parse_args()


def load_task(arguments: argparse.Namespace, found: Features, index: Index, layer: str) -> Task:
    """Return the images of the task. Of objects' classes, those that no training image has go."""
    of_image = image_classes(index.split(*found.header["splits"]))
    parts = [rows_of(found, splits) for splits in (arguments.splits, [arguments.eval_split])]
    training, test = (rows[of_image[rows] >= 0] for rows in parts)
    class_ids = np.arange(len(index.classes))
    if "class_id" not in found.images:
        class_ids = np.unique(of_image[training])
        test = test[np.isin(of_image[test], class_ids)]
    if not len(training) or not len(test):
        raise InputError(f"{arguments.index}: too few images show objects of one class alone")
    return Task(
        features=found.layer(layer),
        names=index.classes["name"].iloc[class_ids].tolist(),
        class_ids=class_ids,
        training=training,
        known=np.searchsorted(class_ids, of_image[training]),
        test=test,
        truth=np.searchsorted(class_ids, of_image[test]),
    )


def test_metrics(task: Task, predicted: np.ndarray, seed: int) -> list[Metric]:
    score, n = accuracy(task.truth, predicted), len(task.test)
    low, high = bootstrap_interval(predicted == task.truth, seed)
    return [
        Metric("top1", score.top1, "%", n, score.top1_floor, 100.0),
        Metric("top1_low", low, "%", n),
        Metric("top1_high", high, "%", n),
        Metric("mean_class_accuracy", score.mean_class, "%", n, score.mean_class_floor, 100.0),
    ]


def curves(
    task: Task, probe: Probe, known: Data, test: Data, recipe: ProbeRecipe, seed: int
) -> list[Metric]:
    """Return top-1 by training images a class, and of nearest neighbours by their number."""
    answers = {}
    for shots in recipe.shots:
        found = few_shot(known, probe, shots, recipe, seed)
        if found is None:
            log.info("%d images a class: a class has fewer; left out", shots)
            continue
        answers[f"few_shot@{shots}"] = predict(test, found[0].weights)[0]
    queries = (block for _, block in test.blocks())
    votes = neighbour_votes(known.matrix, task.known, queries, recipe.neighbours, len(task.names))
    answers |= {f"neighbours@{count}": answer for count, answer in votes.items()}
    scores = {name: accuracy(task.truth, answer) for name, answer in answers.items()}
    return [
        Metric(name, score.top1, "%", len(task.test), score.top1_floor, 100.0)
        for name, score in scores.items()
    ]


def fit_record(task: Task, probe: Probe, known: Data, seconds: float) -> dict[str, Any]:
    """Return what the fitting came to, for metrics.json; say where it did not converge."""
    solution = probe.solution
    for point in (*(point.solution for point in probe.path), solution):
        if not point.converged:
            log.warning(
                "penalty %g: not converged: gradient norm %.1e after %d evaluations",
                point.penalty,
                point.gradient_norm,
                point.evaluations,
            )
    penalties = [point.solution.penalty for point in probe.path]
    if len(penalties) > 1 and solution.penalty in (penalties[0], penalties[-1]):
        log.warning("penalty %g, the best, is at an end of those that were tried", solution.penalty)
    return {
        "images": len(task.training),
        "dimension": task.features.shape[1],
        "seconds": round(seconds, 3),
        "training_score": top1(known, solution.weights),
        "best_training_score": max(point.training_top1 for point in probe.path),
        "penalty": solution.penalty,
        "objective": solution.objective,
        "gradient_norm": solution.gradient_norm,
        "converged": solution.converged and all(p.solution.converged for p in probe.path),
        "evaluations": solution.evaluations + sum(p.solution.evaluations for p in probe.path),
    }


def write_files(
    output: Path,
    task: Task,
    probe: Probe,
    images: pd.DataFrame,
    predicted: np.ndarray,
    probability: np.ndarray,
) -> None:
    """Write the predictions, the accuracy of each class, the path of penalties, the weights."""
    table = pd.DataFrame(
        {
            "image_id": images["image_id"].to_numpy(np.int32),
            "class_id": task.class_ids[task.truth].astype(np.int32),
            "predicted": task.class_ids[predicted].astype(np.int32),
            "probability": probability,
        }
    )
    with atomic(output / "predictions.parquet") as temporary:
        table.to_parquet(temporary, index=False)
    right = pd.Series(predicted == task.truth).groupby(task.truth).agg(["size", "sum"])
    right = right.reindex(range(len(task.names)), fill_value=0)
    classes = pd.DataFrame({"class_id": task.class_ids, "name": task.names})
    classes["images"], classes["right"] = right["size"], right["sum"]
    classes["accuracy"] = 100 * right["sum"] / right["size"].where(right["size"] > 0)
    path = pd.DataFrame(
        [
            {
                "penalty": point.solution.penalty,
                "training_top1": point.training_top1,
                "held_out_top1": point.held_out_top1,
                "objective": point.solution.objective,
                "gradient_norm": point.solution.gradient_norm,
                "evaluations": point.solution.evaluations,
                "converged": point.solution.converged,
                "chosen": point.solution.penalty == probe.solution.penalty,
            }
            for point in probe.path
        ]
    )
    for name, content in (("classes", classes), ("path", path)):
        with atomic(output / f"{name}.csv") as temporary:
            content.to_csv(temporary, index=False, float_format="%.6g")
    weight, bias = probe.on_raw_features()
    with atomic(output / "probe.safetensors") as temporary:
        temporary.write_bytes(save({"weight": weight, "bias": bias}))


def comparability(
    arguments: argparse.Namespace, found: Features, index: Index, task: Task, layer: str
) -> dict[str, str | int | float]:
    """Return what decides what the numbers mean, but for the network."""
    view = found.header["view"]
    labels = {"labels": "permuted"} if arguments.shuffle_labels else {}
    return {
        **labels,
        "evaluation_data": index.split(arguments.eval_split).digest(),
        "evaluation_split": arguments.eval_split,
        "training_data": index.split(*arguments.splits).digest(),
        "classes": len(task.names),
        "recipe": sha256(arguments.recipe),
        "view": digest(f"{name}={value}" for name, value in sorted(view.items())),
        "layer": layer,
        "convention": CONVENTION,
        "image_size": view["size"],
    }


def score(
    task: Task, recipe: ProbeRecipe, arguments: argparse.Namespace, images: pd.DataFrame, out: Path
) -> tuple[list[Metric], dict[str, Any]]:
    """Fit the probe, test it, write its files; return its metrics and what the fitting came to."""
    started, seed, classes = time.monotonic(), arguments.seed, len(task.names)
    probe = fit_probe(task.features, task.training, task.known, task.names, recipe, seed)
    seconds = time.monotonic() - started
    everyone = np.ones(len(task.training), bool)
    space = probe.space
    known = training_data(space, task.features, task.training, task.known, classes)(everyone)
    test = Data(lambda: space.blocks(task.features, task.test), task.truth, classes)
    predicted, probability = predict(test, probe.solution.weights)
    metrics = test_metrics(task, predicted, seed)
    if arguments.curves:
        metrics += curves(task, probe, known, test, recipe, seed)
    write_files(out, task, probe, images.iloc[task.test], predicted, probability)
    return metrics, fit_record(task, probe, known, seconds)


def main() -> None:
    arguments = parse()
    recipe = load_file(arguments.recipe, ProbeRecipe)
    found, index = open_features(arguments.features), read_index(arguments.index)
    found.check_source(index, arguments.weights)
    name = (arguments.target, arguments.dataset, arguments.pretraining, arguments.seed)
    code = code_digest(imported_files(Path(__file__), Path(detransfer.__file__).parent))
    origin = provenance(arguments.weights, read_header(arguments.weights), code, "cpu")
    for layer in arguments.layers:
        task, out = load_task(arguments, found, index, layer), arguments.output / layer
        if arguments.shuffle_labels:
            task = replace(task, known=permuted(task.known, arguments.seed))
        with threadpool_limits(arguments.threads):
            metrics, fit = score(task, recipe, arguments, found.images, out)
        run_name = RunName(f"probe/{layer}", *name)
        alike = comparability(arguments, found, index, task, layer)
        write_metrics(
            out / "metrics.json", RunMetrics(run_name, tuple(metrics), fit, alike, origin)
        )


if __name__ == "__main__":
    run(main)
