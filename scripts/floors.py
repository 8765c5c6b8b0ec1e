"""Score answers that need no network: what nobody may lie below, and what nobody can exceed.

The truth as prediction (the oracle) must reach 100 % by every metric. Printed beside it: answers
that never see the image they are about (floors), and the truth as far as scales and strides let a
network tell it (ceilings).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from detransfer.classification.accuracy import accuracy
from detransfer.console import run
from detransfer.data.index import BOX, Index, read_index
from detransfer.data.masks import VOID, mask_paths, read_mask, resize_labels
from detransfer.detection.average_precision import average_precision, match, mean_over_classes
from detransfer.detection.coco_metrics import coco_average_precision
from detransfer.detection.diagnosis import CONFUSED, diagnose, missed_objects, similar_classes
from detransfer.detection.overlap import candidates
from detransfer.recipes.detection import DetectionRecipe, ScaleRecipe
from detransfer.recipes.evaluation import InferenceRecipe
from detransfer.recipes.segmentation import SegmentationRecipe
from detransfer.report.controls import COLUMNS, Row, line
from detransfer.report.tables import write_table
from detransfer.segmentation.confusion import confusion
from detransfer.segmentation.scores import class_counts, mean_iou
from detransfer.strict import load_file
from detransfer.visualization.coverage import TOP, best_iou, inside_share

IOUS = (0.5, 0.7, 0.9)
TRUTH = "100 %: the truth as prediction"
NONE = "0 %: the truth as prediction"
EXACT = 1e-9  # points that rounding may cost the truth


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--task", choices=sorted(TASKS), required=True, help="task of the target")
    add("--index", type=Path, required=True, help="folder of the data set's index")
    add("--splits", nargs="+", required=True, help="splits that are trained on")
    add("--eval-split", required=True, help="split that is tested on")
    add("--finetune", type=Path, required=True, help="recipe of the fine-tuning")
    add("--evaluate", type=Path, help="recipe of a detector's inference")
    add("--target", required=True, help="name of the target")
    add("--output", type=Path, required=True, help="CSV to write")
    return parser.parse_args()


def oracle(target: str, metric: str, value: float) -> Row:
    return line("oracle", target, metric, value, TRUTH, bool(abs(value - 100) < EXACT))


def detection(train: Index, test: Index, arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield the lines of a detection target."""
    recipe = load_file(arguments.evaluate, InferenceRecipe)
    chips = load_file(arguments.finetune, DetectionRecipe).chips
    target, voc = arguments.target, recipe.metric.kind == "voc"
    objects = test.objects[~test.objects["crowd"]]
    truth = objects[["image_id", "class_id", *BOX]].assign(score=1.0)
    for scores in (coco_ap, voc_map) if voc else (coco_ap,):
        for metric, value in scores(test, truth).items():
            yield oracle(target, metric, value)
    if voc:  # by whose rules alone the analysis says what is missed
        missed = missed_share(test, truth)
        yield line("oracle", target, "missed share of objects", missed, NONE, missed < EXACT)
    for name, answer in (
        ("a mean-size box in the centre", centred_boxes(train, test)),
        ("the objects of another image", other_images(test, truth)),
    ):
        for metric, value in (voc_map if voc else coco_ap)(test, answer).items():
            yield line("floors", target, f"{metric} of {name}", value)
    for name, scales in (("scales of inference", recipe.scales), ("chips", chips.scales)):
        share = 100 * reachable(test, scales)
        yield line("ceilings", target, f"objects in the range of the {name}", share)


def missed_share(test: Index, detections: pd.DataFrame) -> float:
    """Return the percentage of the objects that count which the error analysis calls missed."""
    found = candidates(test.objects, detections, len(test.classes), CONFUSED)
    similar = similar_classes(test.classes)
    diagnosis = diagnose(test.objects, found, similar, len(test.images))
    return float(100 * missed_objects(diagnosis).sum() / diagnosis.counted.sum())


def voc_map(test: Index, detections: pd.DataFrame) -> dict[str, float]:
    matches = match(test.objects, detections, len(test.classes))
    values = 100 * mean_over_classes(average_precision(matches, IOUS).ap07)
    return {f"mAP@{iou:g}": float(value) for iou, value in zip(IOUS, values, strict=True)}


def coco_ap(test: Index, detections: pd.DataFrame) -> dict[str, float]:
    found, _ = coco_average_precision(test, detections)
    return {f"COCO's {name}": 100 * found[name] for name in ("AP@0.5", "AP@0.75")}


def centred_boxes(train: Index, test: Index) -> pd.DataFrame:
    """Return for each image a box of each class in its middle, of the mean size in training.

    Its score is the share of training images that have the class.
    """
    sizes = train.images.set_index("image_id")[["width", "height"]]
    objects = train.objects
    whole = sizes.loc[objects["image_id"]].to_numpy(float)
    sides = (objects[BOX[2:]].to_numpy() - objects[BOX[:2]].to_numpy()) / whole
    by_class = pd.DataFrame(sides, columns=["w", "h"]).groupby(objects["class_id"].to_numpy())
    mean = by_class.mean()
    having = objects.groupby("class_id")["image_id"].nunique() / len(train.images)
    width, height = (test.images[name].to_numpy(float) for name in ("width", "height"))
    parts = []
    for class_id, w, h in zip(mean.index, mean["w"], mean["h"], strict=True):
        x, y = width * (1 - w) / 2, height * (1 - h) / 2
        boxes = np.stack([x, y, x + width * w, y + height * h], 1)
        part = pd.DataFrame(boxes, columns=BOX)
        part["class_id"], part["score"] = int(class_id), having.loc[class_id]
        parts.append(part.assign(image_id=test.images["image_id"].to_numpy()))
    return pd.concat(parts, ignore_index=True)


def other_images(test: Index, truth: pd.DataFrame) -> pd.DataFrame:
    """Return the objects of each image as the answer to the next one: permuted rows."""
    ids = test.images["image_id"].to_numpy()
    return truth.assign(
        image_id=truth["image_id"].map(dict(zip(ids, np.roll(ids, 1), strict=True)))
    )


def reachable(test: Index, scales: tuple[ScaleRecipe, ...]) -> float:
    """Return the share of objects whose size is in the range of some scale."""
    boxes = test.objects[BOX].to_numpy(float)
    size = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
    low, high = zip(*(scale.valid_range for scale in scales), strict=True)
    most = [np.inf if bound is None else bound for bound in high]
    inside = [(size >= a) & (size <= b) for a, b in zip(low, most, strict=True)]
    return float(np.any(inside, axis=0).mean())


def segmentation(train: Index, test: Index, arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield the lines of a segmentation target."""
    recipe = load_file(arguments.finetune, SegmentationRecipe)
    classes, target = len(test.classes), arguments.target
    answers = answers_to_masks(train, recipe, classes)
    counts = {name: np.zeros((classes, classes), np.int64) for name in answers}
    before, covered = None, []
    for path in mask_paths(test):
        truth = read_mask(path, classes - 1)
        covered.append(cover(known(truth), truth))
        for name, answer in answers.items():
            found = answer(truth, truth if before is None else before)
            counts[name] += confusion(truth, found, classes)
        before = truth
    score = {name: float(100 * mean_iou(class_counts(table))) for name, table in counts.items()}
    for name, value in score.items():
        if name == "truth":
            yield oracle(target, "mIoU", value)
        else:
            kind = "ceilings" if name.startswith("truth") else "floors"
            yield line(kind, target, f"mIoU of {name}", value)
    names = ("inside share of an activation map", "best IoU of an activation map")
    for name, value in zip(names, 100 * np.nanmean(covered, axis=0), strict=True):
        yield oracle(target, name, float(value))


def cover(answer: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Return what Figure 8 says of an answer's objects as an activation map; NaN without any."""
    shade = np.where(answer > 0, TOP, 0.0)
    return inside_share(shade, truth), best_iou(shade, truth)


Answer = Callable[[np.ndarray, np.ndarray], np.ndarray]


def answers_to_masks(train: Index, recipe: SegmentationRecipe, classes: int) -> dict[str, Answer]:
    """Return answers by name: functions of the true mask and that of the image before."""
    masks = [read_mask(path, classes - 1) for path in mask_paths(train.sample(300))]
    objects = [mask[(mask > 0) & (mask != VOID)] for mask in masks]
    commonest = int(np.bincount(np.concatenate(objects), minlength=classes)[1:].argmax()) + 1
    share = float(
        np.mean([len(inside) / mask.size for inside, mask in zip(objects, masks, strict=True)])
    )

    def sized(truth: np.ndarray, stride: int) -> np.ndarray:
        height, width = recipe.images.size(*truth.shape)
        small = resize_labels(known(truth), -(-height // stride), -(-width // stride))
        return resize_labels(small, *truth.shape)

    stride = recipe.backbone.output_stride
    return {
        "truth": lambda truth, _: known(truth),
        "truth at the network's size": lambda truth, _: sized(truth, 1),
        f"truth at stride {stride}": lambda truth, _: sized(truth, stride),
        "all background": lambda truth, _: np.zeros_like(truth),
        "a disc of the commonest class in the centre": lambda truth, _: disc(
            truth, share, commonest
        ),
        "the mask of another image": lambda truth, other: resize_labels(known(other), *truth.shape),
    }


def known(mask: np.ndarray) -> np.ndarray:
    """Return a mask with background for void, as an answer must have a class everywhere."""
    return np.where(mask == VOID, 0, mask).astype(np.uint8)


def disc(truth: np.ndarray, share: float, class_id: int) -> np.ndarray:
    """Return a mask with a disc of ``share`` of the image's area in its middle."""
    height, width = truth.shape
    y, x = np.ogrid[:height, :width]
    distance = (y - (height - 1) / 2) ** 2 + (x - (width - 1) / 2) ** 2
    return np.where(distance <= share * height * width / np.pi, class_id, 0).astype(np.uint8)


def classification(train: Index, test: Index, arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield the lines of a classification target."""
    target = arguments.target
    truth = test.images["class_id"].to_numpy()
    prior = np.full(len(truth), np.bincount(train.images["class_id"]).argmax())
    shuffled = np.random.default_rng(0).permutation(truth)
    yield oracle(target, "top-1", accuracy(truth, truth).top1)
    for name, answer in (("the commonest class", prior), ("permuted rows", shuffled)):
        yield line("floors", target, f"top-1 of {name}", accuracy(truth, answer).top1)


TASKS = {
    "detection": detection,
    "segmentation": segmentation,
    "classification": classification,
}


def main() -> None:
    arguments = parse()
    index = read_index(arguments.index)
    train, test = index.split(*arguments.splits), index.split(arguments.eval_split)
    rows = TASKS[arguments.task](train, test, arguments)
    write_table(arguments.output, pd.DataFrame(rows, columns=COLUMNS))


if __name__ == "__main__":
    run(main)
