"""The scores of runs on resamples of their test images, each by the very metric of its table.

A run's *statistics* are called as the claims call them (:mod:`detransfer.report.statements`); all
are percentages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import TypeAdapter

from detransfer.console import InputError
from detransfer.data.index import Index
from detransfer.detection.average_precision import (
    VocConvention,
    average_precision,
    match,
    mean_over_classes,
)
from detransfer.detection.detections import read_detections
from detransfer.detection.resampled import resampled_coco, resampled_map
from detransfer.recipes.evaluation import VocRecipe
from detransfer.report.bootstrap import Scores, resamples
from detransfer.report.claims import Target
from detransfer.report.metrics import RunMetrics, check_comparable
from detransfer.segmentation.by_distance import WIDTHS, anti_trimap, read_confusion, trimap
from detransfer.segmentation.scores import iou, mean_iou

COCO_IOUS = (0.5, 0.75)  # of the paper's section 4.1
OCCLUDED = {"low": 1, "medium": 2}  # the least occlusion level of Table 3's columns
POOLED = ("conv_proj_2x2", "conv_proj_4x4")
LOOKED_AT = {  # columns of visualization's images.parquet
    "inside_share": "inside share",
    "best_iou": "best IoU",
    "mean_drop": "mean drop",
    "fragile_share": "fragile share",
}
FROZEN = ("probe", "visualization")  # runs that train no network but look at one
FITTED = 0.2  # of the way from the floor to 100: a training score below that has not fitted
Numbers = dict[str, Scores]  # of a run, by statistic


def numbers(value: float, resampled: np.ndarray, images: int | None = None) -> Scores:
    """Return a share of 1 and its resamples (n,) as percentages."""
    return Scores(np.asarray(100.0 * value), 100.0 * resampled, images)


def detection(folder: Path, metrics: RunMetrics, index: Index, counts: np.ndarray) -> Numbers:
    """Return the AP of the run's metric by overlap, VOC's with the occluded objects it misses."""
    metric = json.loads(str(metrics.comparability["metric"]))
    ids = index.images["image_id"].to_numpy()
    names = index.classes["name"].tolist()
    found = read_detections(folder / "detections.parquet", set(ids), classes=names)
    if metric["kind"] == "voc":
        voc = TypeAdapter(VocRecipe).validate_python(metric, strict=False)
        return voc_map(found, voc, index, counts) | missed(folder / "objects.parquet", ids, counts)
    if metric["kind"] == "coco":
        return coco_ap(found, metrics, index, counts)
    raise InputError(f"{metrics.run}: there is no claim about the metric {metric['kind']!r}")


def voc_map(found: pd.DataFrame, voc: VocRecipe, index: Index, counts: np.ndarray) -> Numbers:
    """Return VOC's mAP at each overlap of its recipe, in the convention of the headline."""
    ids, objects = index.images["image_id"].to_numpy(), index.objects
    convention = VocConvention(voc.strict_overlap, voc.round_scores, voc.round_boxes)
    matches = match(objects, found, len(index.classes), convention)
    values = average_precision(matches, voc.ious)
    detected, there = (rows_of(ids, table["image_id"].to_numpy()) for table in (found, objects))
    object_class = objects["class_id"].to_numpy()
    means = resampled_map(matches, detected, there, object_class, counts, voc.ious)
    place = ("AP07", "AP10").index(voc.convention)
    whole = mean_over_classes((values.ap07, values.ap10)[place])
    return {
        f"mAP@{threshold:g}": numbers(whole[k], means[place][:, k])
        for k, threshold in enumerate(voc.ious)
    }


def coco_ap(found: pd.DataFrame, metrics: RunMetrics, index: Index, counts: np.ndarray) -> Numbers:
    """Return COCO's AP at the overlaps of the paper; the values are those of the run's metrics."""
    ids, objects = index.images["image_id"].to_numpy(), index.objects
    detected, there = (rows_of(ids, table["image_id"].to_numpy()) for table in (found, objects))
    resampled = resampled_coco(
        objects, found, detected, there, counts, len(index.classes), COCO_IOUS
    )
    return {
        f"AP@{iou:g}": numbers(metrics.metric(f"AP@{iou:g}").value / 100, resampled[:, place])
        for place, iou in enumerate(COCO_IOUS)
    }


def missed(path: Path, ids: np.ndarray, counts: np.ndarray) -> Numbers:
    """Return the missed share of the objects that are occluded, of classes that have levels."""
    objects = pd.read_parquet(path)
    labelled = objects["class_id"].isin(objects["class_id"][objects["level"] >= 0].unique())
    found = {}
    for name, level in OCCLUDED.items():
        part = objects[labelled & ((objects["level"] >= level) | objects["truncated"])]
        if len(part):
            image = rows_of(ids, part["image_id"].to_numpy())
            lost = np.bincount(image, part["missed"].to_numpy(float), len(ids))
            there = np.bincount(image, minlength=len(ids))
            with np.errstate(invalid="ignore"):
                share = (counts @ lost) / (counts @ there)
            images = int(np.count_nonzero(there))
            found[f"missed@{name}"] = numbers(part["missed"].mean(), share, images)
    return found


def segmentation(folder: Path, metrics: RunMetrics, index: Index, counts: np.ndarray) -> Numbers:
    """Return the IoU of each class, and mean IoU in all pixels, near to and far from borders."""
    confusion = read_confusion(folder / "confusion.parquet")
    pixels = confusion.counts()[np.argsort(confusion.image_ids)]
    resampled = (counts @ pixels.reshape(len(pixels), -1)).reshape(-1, *pixels.shape[1:])
    total = pixels.sum(0)
    found = {"mIoU": numbers(float(mean_iou(total.sum(0))), mean_iou(resampled.sum(1)))}
    by_class = iou(total.sum(0)), iou(resampled.sum(1))
    for place, name in enumerate(confusion.classes):
        found[f"IoU {name}"] = numbers(by_class[0][place], by_class[1][:, place])
    for name, inside in (("trimap", trimap), ("anti-trimap", anti_trimap)):
        here, there = mean_iou(inside(total)), mean_iou(inside(resampled))
        whole = inside(total)[..., 1].astype(bool).sum(-1)  # classes that a width has pixels of
        wide = whole == whole.max()
        found[f"mIoU in {name}"] = numbers(here[wide].mean(), there[:, wide].mean(-1))
        for width in (5, WIDTHS):
            found[f"mIoU in {name}@{width}"] = numbers(here[width - 1], there[:, width - 1])
    return found


def classification(folder: Path, metrics: RunMetrics, index: Index, counts: np.ndarray) -> Numbers:
    """Return top-1 after fine-tuning, or of a linear probe of one layer."""
    table = pd.read_parquet(folder / "predictions.parquet")
    ids = index.images["image_id"].to_numpy()
    right = np.zeros(len(ids))
    right[rows_of(ids, table["image_id"].to_numpy())] = table["class_id"] == table["predicted"]
    layer = metrics.run.task.partition("/")[2]
    if re.fullmatch(r"conv_proj_(\d+)x\1", layer) and layer not in POOLED:
        layer = "conv_proj_whole"  # whatever the side of the RoI blob is
    name = f"top1 {layer or 'fine-tuned'}"
    return {name: numbers(right.mean(), counts @ right / len(right))}


def visualization(folder: Path, metrics: RunMetrics, index: Index, counts: np.ndarray) -> Numbers:
    """Return what activation maps and mask-out maps come to, means over the images that have it."""
    table = pd.read_parquet(folder / "images.parquet")
    place = rows_of(index.images["image_id"].to_numpy(), table["image_id"].to_numpy())
    return {
        name: mean_over_images(table[column].to_numpy(float), place, counts)
        for column, name in LOOKED_AT.items()
        if column in table
    }


def mean_over_images(values: np.ndarray, place: np.ndarray, counts: np.ndarray) -> Scores:
    """Return the mean of the values (n,) of the images in columns ``place``; NaN ones are out."""
    known = np.isfinite(values)
    weight = counts[:, place[known]]
    with np.errstate(invalid="ignore"):
        share = weight @ values[known] / weight.sum(1)
    return numbers(float(values[known].mean()), share, int(known.sum()))


SCORERS: dict[str, Callable[[Path, RunMetrics, Index, np.ndarray], Numbers]] = {
    "detection": detection,
    "segmentation": segmentation,
    "classification": classification,
    "probe": classification,
    "visualization": visualization,
}


def rows_of(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the places of ``wanted`` image ids in ``ids``; raises InputError for unknown ones."""
    order = np.argsort(ids)
    places = order[np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)]
    unknown = ids[places] != wanted
    if unknown.any():
        raise InputError(f"image {wanted[unknown][0]} is not in the split that is tested on")
    return places


def fitted(metrics: RunMetrics) -> bool:
    """Say whether a run got its training images right well above what a blind answer does."""
    score = metrics.fit.get("training_score")
    floor = next((m.floor for m in metrics.metrics if m.floor is not None), 0.0)
    return score is None or well_above(floor, score)


def well_above(floor: float, score: float) -> bool:
    return score >= floor + FITTED * (100 - floor)


def pretraining_fitted(path: Path) -> bool:
    """Say whether a pre-training fitted, from its ``metrics.json`` or ``fit.json``; its floor is 0.

    Raises InputError for a file without a training score.
    """
    try:
        content = json.loads(path.read_text())
        return well_above(0.0, float(content.get("fit", content)["training_score"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not the fit of a training with its score ({error!r})") from error


def read_target(
    name: str,
    index: Index,
    runs: Sequence[tuple[Path, RunMetrics]],
    unfit_pretrainings: Collection[str] = (),
) -> Target:
    """Return what is known of a target from all of its runs; raises InputError for unlike ones.

    What frozen networks say rests on the fit of their pre-training, too.
    """
    counts = resamples(len(index.images))
    scores: dict[str, dict[str, dict[int, Scores]]] = {}
    unfit = set()
    for folder, metrics in runs:
        who = metrics.run
        task = who.task.partition("/")[0]
        fits = fitted(metrics) and not (task in FROZEN and who.pretraining in unfit_pretrainings)
        for statistic, value in SCORERS[task](folder, metrics, index, counts).items():
            scores.setdefault(statistic, {}).setdefault(who.pretraining, {})[who.seed] = value
            if not fits:
                unfit.add((statistic, who.pretraining))
    for name_of_task in {metrics.run.task for _, metrics in runs}:
        check_comparable([metrics for _, metrics in runs if metrics.run.task == name_of_task])
    dataset = runs[0][1].run.dataset
    return Target(name, dataset, len(index.images), scores, frozenset(unfit))
