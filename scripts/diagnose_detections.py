"""Analyse the errors of a run's detections: Hoiem's analysis and COCO's seven curves.

Writes a tidy table (diagnosis.csv), the numbers of Table 3 in the form of metrics.json
(diagnosis.json), and what became of each object. Without occlusion levels the analysis is by
truncation alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from detransfer.console import InputError, run
from detransfer.data.index import BOX, Index, read_index
from detransfer.data.occlusion import LEVELS, read_occlusion
from detransfer.detection.coco_analysis import CURVES, seven_curves
from detransfer.detection.detections import read_detections
from detransfer.detection.diagnosis import (
    CONFUSED,
    OUTCOMES,
    Diagnosis,
    count_outcomes,
    diagnose,
    mean_by_class,
    missed_objects,
    normalised_average,
    normalised_precision,
    object_counts,
    quantile_strata,
    similar_classes,
)
from detransfer.detection.overlap import area, candidates
from detransfer.files import atomic, digest
from detransfer.imports import code_digest, imported_files
from detransfer.recipes.evaluation import InferenceRecipe
from detransfer.report.metrics import Metric, RunMetrics, read_metrics, write_metrics
from detransfer.strict import load_file

log = logging.getLogger("diagnose_detections")
REPOSITORY = Path(__file__).parents[1]
SIZES = ("extra_small", "small", "medium", "large", "extra_large")
ASPECTS = ("extra_tall", "tall", "medium", "wide", "extra_wide")
KEY = ["analysis", "stratum", "metric"]
POOLED = ("missed", "share")  # percentages of objects or detections; the others are averages
# The numbers of diagnosis.json: group of classes, analysis and stratum of a missed percentage.
# Table 3 is about classes with occlusion levels; the paper does not say how it joins them.
HEADLINE = {
    "missed@low": ("labelled:pooled", "occluded", "low"),
    "missed@medium": ("labelled:pooled", "occluded", "medium"),
    "missed@low/mean": ("labelled:mean", "occluded", "low"),
    "missed@medium/mean": ("labelled:mean", "occluded", "medium"),
    "missed@low/all": ("all:pooled", "occluded", "low"),
    "missed@medium/all": ("all:pooled", "occluded", "medium"),
    "missed@truncated/all": ("all:pooled", "truncation", "truncated"),
    "missed@any/all": ("all:pooled", "objects", "all"),
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--detections", type=Path, required=True, help="detections on the split")
    add("--metrics", type=Path, required=True, help="metrics.json of the run")
    add("--index", type=Path, required=True, help="folder of the data set's index")
    add("--split", required=True, help="split the detections are of")
    add("--occlusion", type=Path, help="occlusion.parquet of that split, where there is one")
    add("--recipe", type=Path, required=True, help="recipe of inference and scoring")
    add("--output", type=Path, required=True, help="diagnosis.json to write")
    add("--table", type=Path, required=True, help="CSV of all numbers to write")
    add("--objects", type=Path, required=True, help="table of what became of each object")
    return parser.parse_args()


def strata(
    diagnosis: Diagnosis, objects: pd.DataFrame, level: np.ndarray | None
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield analysis, stratum and which objects (m,) are in it.

    ``occluded`` is cumulative and counts cut objects as occluded, as in Hoiem's code, where the
    other strata exclude each other. An object without a level can be occluded by its cut alone.
    """
    cut = objects["truncated"].to_numpy(bool)
    yield "objects", "all", diagnosis.counted
    yield "truncation", "whole", ~cut
    yield "truncation", "truncated", cut
    boxes = objects[BOX].to_numpy(np.float64)
    sides = boxes[:, 2:] - boxes[:, :2]
    for analysis, names, values in (
        ("size", SIZES, area(boxes)),
        ("aspect", ASPECTS, sides[:, 0] / sides[:, 1]),
    ):
        found = quantile_strata(diagnosis, values)
        for place, name in enumerate(names):
            yield analysis, name, found == place
    if level is not None:
        for place, name in enumerate(LEVELS):
            yield "occlusion", name, level == place
        yield "occluded", "low", (level >= 1) | cut
        yield "occluded", "medium", (level >= 2) | cut


def class_rows(
    diagnosis: Diagnosis, objects: pd.DataFrame, level: np.ndarray | None, curves: np.ndarray
) -> Iterator[tuple[str, str, str, np.ndarray, np.ndarray]]:
    """Yield analysis, stratum, metric, and the value and n of each class; values in percent."""
    missed = missed_objects(diagnosis)
    for analysis, stratum, chosen in strata(diagnosis, objects, level):
        number = object_counts(diagnosis, chosen)
        yield analysis, stratum, "AP_N", 100 * normalised_average(diagnosis, chosen), number
        yield analysis, stratum, "missed", 100 * mean_by_class(diagnosis, missed, chosen), number
    counts, duplicates = count_outcomes(diagnosis)
    top = counts.sum(1)
    with np.errstate(invalid="ignore"):
        share = 100 * counts / top[:, None]
        yield "top_detections", "correct", "share", share[:, 0] + share[:, 1], top
        for place in range(2, len(OUTCOMES)):
            yield "top_detections", OUTCOMES[place], "share", share[:, place], top
        yield "top_detections", "duplicate", "share", 100 * duplicates / top, top
    number = object_counts(diagnosis, diagnosis.counted)
    average = 100 * curves.mean(2)
    gain = np.diff(average, axis=1, prepend=0)
    for place, name in enumerate(CURVES):
        yield "coco", name, "AP", average[:, place], number
        yield "coco", name, "gain", gain[:, place], number


def group_rows(table: pd.DataFrame, name: str) -> Iterator[pd.DataFrame]:
    """Yield the mean over the classes of a table, and for percentages the one of all together."""
    groups = table.groupby(KEY, sort=False)
    mean = groups.agg(value=("value", "mean"), n=("n", "sum")).reset_index()
    yield mean.assign(**{"class": f"{name}:mean"})
    shares = table[table["metric"].isin(POOLED)]
    weighted = shares.assign(value=shares["value"] * shares["n"])
    pooled = weighted.groupby(KEY, sort=False)[["value", "n"]].sum().reset_index()
    yield pooled.assign(value=pooled["value"] / pooled["n"], **{"class": f"{name}:pooled"})


def tabulate(
    diagnosis: Diagnosis,
    index: Index,
    level: np.ndarray | None,
    curves: np.ndarray,
) -> pd.DataFrame:
    """Return ``class analysis stratum metric value n``: one row a number, groups of classes last.

    Groups: ``all`` classes, and those ``labelled`` with occlusion levels.
    """
    names = index.classes["name"]
    rows = class_rows(diagnosis, index.objects, level, curves)
    parts = [
        pd.DataFrame({"class": names, **dict(zip(KEY, key, strict=True)), "value": value, "n": n})
        for *key, value, n in rows
    ]
    table = pd.concat(parts, ignore_index=True)
    table = table[table["n"] > 0]
    groups = [*group_rows(table, "all")]
    if level is not None:
        labelled = names.iloc[np.unique(diagnosis.object_class[level >= 0])]
        groups += group_rows(table[table["class"].isin(labelled)], "labelled")
    return pd.concat([table, *groups], ignore_index=True)[["class", *KEY, "value", "n"]]


def object_table(
    diagnosis: Diagnosis, index: Index, level: np.ndarray | None, row: np.ndarray
) -> pd.DataFrame:
    """Return the objects that count: their place, whether they are missed, and by what found.

    ``level`` as in occlusion.parquet; ``precision`` at which an object is found, 0 to 1;
    ``detection`` the row in detections.parquet that found it, or -1.
    """
    found = np.where(diagnosis.found_by >= 0, np.append(row, -1)[diagnosis.found_by], -1)
    table = index.objects[["image_id", "class_id", *BOX, "truncated"]].assign(
        level=np.int8(-1) if level is None else level,
        missed=missed_objects(diagnosis),
        precision=normalised_precision(diagnosis, diagnosis.counted),
        detection=found,
    )
    return table[diagnosis.counted].reset_index(drop=True)


def headline(table: pd.DataFrame) -> tuple[Metric, ...]:
    """Return the numbers of diagnosis.json; without occlusion levels those by truncation."""
    missed = table[table["metric"] == "missed"]
    keys = zip(missed["class"], missed["analysis"], missed["stratum"], strict=True)
    numbers = dict(zip(keys, zip(missed["value"], missed["n"], strict=True), strict=True))
    return tuple(
        Metric(name, float(numbers[key][0]), "%", int(numbers[key][1]))
        for name, key in HEADLINE.items()
        if key in numbers
    )


def checked_run(path: Path, index: Index) -> RunMetrics:
    """Return the run's metrics; raises InputError for those of another data set."""
    metrics = read_metrics(path)
    if metrics.comparability["evaluation_data"] != index.digest():
        raise InputError(f"{path}: {metrics.run} was evaluated on other data than {index.root}")
    return metrics


def main() -> None:
    arguments = parse()
    recipe = load_file(arguments.recipe, InferenceRecipe)
    index = read_index(arguments.index).split(arguments.split)
    metrics = checked_run(arguments.metrics, index)
    ids, names = set(index.images["image_id"]), index.classes["name"].tolist()
    detections = read_detections(arguments.detections, ids, classes=names)
    level = None
    if arguments.occlusion:
        level = read_occlusion(arguments.occlusion, index.objects)
    else:
        log.info("no occlusion levels: the analysis is by truncation alone")
    similar = similar_classes(index.classes, recipe.diagnosis.similar_classes)
    found = candidates(index.objects, detections, len(index.classes), CONFUSED)
    diagnosis = diagnose(index.objects, found, similar, len(index.images))
    curves = seven_curves(index.objects, detections, found, index.classes)
    table = tabulate(diagnosis, index, level, curves)
    with atomic(arguments.objects) as temporary:
        object_table(diagnosis, index, level, found.row).to_parquet(temporary, index=False)
    with atomic(arguments.table) as temporary:
        table.to_csv(temporary, index=False)
    code = code_digest(imported_files(Path(__file__), REPOSITORY / "src" / "detransfer"))
    given = {
        "similar_classes": recipe.diagnosis.model_dump_json(),
        "occlusion": "none" if level is None else digest(map(str, level)),
    }
    write_metrics(
        arguments.output,
        dataclasses.replace(
            metrics,
            metrics=headline(table),
            comparability={**metrics.comparability, **given},
            provenance={**metrics.provenance, "evaluation_code_digest": code},
        ),
    )


if __name__ == "__main__":
    run(main)
