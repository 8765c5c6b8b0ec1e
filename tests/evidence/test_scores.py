"""Scores of resamples against the scores of the resampled images themselves, metric by metric."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from detransfer.console import InputError
from detransfer.data.index import BOX, CLASS_COLUMNS, Index, empty_objects
from detransfer.detection.average_precision import (
    VocConvention,
    average_precision,
    match,
    mean_over_classes,
)
from detransfer.detection.coco_metrics import coco_average_precision
from detransfer.detection.detections import read_detections, write_detections
from detransfer.evidence.scores import (
    classification,
    detection,
    fitted,
    missed,
    pretraining_fitted,
    read_target,
    segmentation,
    visualization,
)
from detransfer.recipes.evaluation import CocoRecipe, VocRecipe
from detransfer.report.bootstrap import resamples
from detransfer.report.metrics import Metric, RunMetrics, RunName, read_metrics, write_metrics
from detransfer.segmentation.by_distance import WIDTHS, anti_trimap, read_confusion, trimap
from detransfer.segmentation.scores import iou, mean_iou
from tests.detection import test_resampled as boxes
from tests.segmentation.runs import hits, write_run

IMAGES = 8
IDS = np.arange(10, 10 + IMAGES)


def index(ids: np.ndarray = IDS) -> Index:
    images = pd.DataFrame({"image_id": ids.astype(np.int32)})
    classes = pd.DataFrame([[0, "a", "a", ""]], columns=CLASS_COLUMNS)
    return Index(images, empty_objects(), classes, Path("index"))


def drawn(count: int = 20) -> np.ndarray:
    return resamples(IMAGES)[:count]


def run_metrics(task: str, pretraining: str = "coco", seed: int = 0, **fit: float) -> RunMetrics:
    name = RunName(task, "caltech", "caltech256", pretraining, seed)
    metrics = (Metric("top1", 50.0, "%", IMAGES, 10.0, 100.0),)
    return RunMetrics(name, metrics, fit, {"recipe": "r"}, {})


def write_answers(folder: Path, right: np.ndarray, ids: np.ndarray = IDS) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame({"image_id": ids, "class_id": 3, "predicted": np.where(right, 3, 1)})
    table.to_parquet(folder / "predictions.parquet", index=False)


def test_top1_of_resamples(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    right = rng.random(IMAGES) < 0.5
    order = rng.permutation(IMAGES)  # the table need not stand in the order of the index
    write_answers(tmp_path, right[order], IDS[order])
    counts = drawn()
    for task, name in (
        ("classification", "top1 fine-tuned"),
        ("probe/conv5", "top1 conv5"),
        ("probe/conv_proj_7x7", "top1 conv_proj_whole"),
        ("probe/conv_proj_2x2", "top1 conv_proj_2x2"),
    ):
        found = classification(tmp_path, run_metrics(task), index(), counts)[name]
        assert float(found.value) == 100 * right.mean()
        for row, times in enumerate(counts.astype(int)):
            slow = 100 * np.repeat(right, times).mean()
            assert found.resampled[row] == pytest.approx(slow)


def test_answers_to_other_images_are_refused(tmp_path: Path) -> None:
    write_answers(tmp_path, np.ones(IMAGES, bool), IDS + 1)
    with pytest.raises(InputError, match="image 18 is not in the split"):
        classification(tmp_path, run_metrics("classification"), index(), drawn())


def test_missed_objects_of_resamples(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    count = 60
    objects = pd.DataFrame(
        {
            "image_id": rng.choice(IDS, count),
            "class_id": rng.integers(0, 3, count),
            "truncated": rng.random(count) < 0.2,
            "missed": rng.random(count) < 0.4,
        }
    )
    levels = rng.integers(0, 4, count)
    objects["level"] = np.where(objects["class_id"] == 2, -1, levels)  # a class without levels
    objects.to_parquet(tmp_path / "objects.parquet")
    counts = drawn()
    found = missed(tmp_path / "objects.parquet", IDS, counts)
    for name, least in (("low", 1), ("medium", 2)):
        # Table 3: levels are cumulative, and a cut object counts as occluded.
        occluded = (objects["class_id"] < 2) & ((objects["level"] >= least) | objects["truncated"])
        part = objects[occluded]
        assert float(found[f"missed@{name}"].value) == pytest.approx(100 * part["missed"].mean())
        assert found[f"missed@{name}"].images == part["image_id"].nunique()
        for row, times in enumerate(counts.astype(int)):
            weights = dict(zip(IDS, times, strict=True))
            again = part.loc[part.index.repeat(part["image_id"].map(weights))]
            slow = 100 * again["missed"].mean()
            assert found[f"missed@{name}"].resampled[row] == pytest.approx(slow)


def scene(folder: Path, seed: int) -> tuple[Index, pd.DataFrame, np.ndarray]:
    """Write detections; return an index of 12 images in any order, them, and resamples (10, 12)."""
    objects, found = boxes.tables(seed)
    objects.loc[0, [*BOX, "crowd", "class_id"]] = [80.0, 80.0, 100.0, 100.0, False, 0]
    half = objects.loc[[0], ["image_id", "class_id", *BOX]].assign(y2=90.0)  # an overlap of 0.5
    found = pd.concat([half, found], ignore_index=True)
    found["score"] = np.random.default_rng(seed).random(len(found))  # no ties
    given = boxes.index(objects.assign(difficult=False))
    names = given.classes["name"].tolist()
    write_detections(folder / "detections.parquet", found, names)
    order = np.random.default_rng(seed).permutation(boxes.IMAGES)
    given = replace(given, images=given.images.iloc[order].reset_index(drop=True))
    counts = resamples(boxes.IMAGES)[:10]
    return given, read_detections(folder / "detections.parquet", classes=names), counts


def again(
    given: Index, found: pd.DataFrame, drawn: np.ndarray
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the objects and detections of a resample: its images as often as it has them."""
    times = np.zeros(boxes.IMAGES)
    times[given.images["image_id"]] = drawn
    return boxes.repeated(given.objects, times), boxes.repeated(found, times)


@pytest.mark.parametrize("convention", ["AP07", "AP10"])
def test_vocs_average_precision_of_resamples(tmp_path: Path, convention: str) -> None:
    given, found, counts = scene(tmp_path, 0)
    recipe = VocRecipe.model_validate(
        {"kind": "voc", "ious": (0.3, 0.5, 0.8), "convention": convention}
        | {"strict_overlap": True, "round_scores": 1, "round_boxes": 0}
    )
    objects = given.objects[["image_id", "class_id"]]
    told = objects.assign(level=2, truncated=False, missed=True)
    told.to_parquet(tmp_path / "objects.parquet")
    metrics = run_metrics("detection")
    metrics.comparability["metric"] = recipe.model_dump_json()
    scores = detection(tmp_path, metrics, given, counts)
    assert set(scores) == {"mAP@0.3", "mAP@0.5", "mAP@0.8", "missed@low", "missed@medium"}
    assert float(scores["missed@low"].value) == 100

    def slow(objects: pd.DataFrame, found: pd.DataFrame) -> np.ndarray:
        matches = match(objects, found, boxes.CLASSES, VocConvention(True, 1, 0))
        precision = average_precision(matches, recipe.ious)
        whole = {"AP07": precision.ap07, "AP10": precision.ap10}[convention]
        return 100 * mean_over_classes(whole)

    names = [f"mAP@{threshold:g}" for threshold in recipe.ious]
    whole = slow(given.objects, found)
    assert [float(scores[name].value) for name in names] == pytest.approx(list(whole))
    for row, drawn in enumerate(counts):
        resampled = [scores[name].resampled[row] for name in names]
        assert resampled == pytest.approx(list(slow(*again(given, found, drawn))))


def test_cocos_average_precision_of_resamples(tmp_path: Path) -> None:
    given, found, counts = scene(tmp_path, 1)
    whole, _ = coco_average_precision(given, found)
    names = ("AP@0.5", "AP@0.75")
    own = tuple(Metric(name, 100 * whole[name], "%", boxes.IMAGES) for name in names)
    metrics = replace(run_metrics("detection"), metrics=own)
    metrics.comparability["metric"] = CocoRecipe(kind="coco").model_dump_json()
    scores = detection(tmp_path, metrics, given, counts)
    assert set(scores) == set(names)
    for name in names:
        assert float(scores[name].value) == pytest.approx(100 * whole[name])
    for row, drawn in enumerate(counts):
        objects, detections = again(given, found, drawn)
        slow, _ = coco_average_precision(boxes.index(objects), detections)
        for name in names:
            assert scores[name].resampled[row] == pytest.approx(100 * slow[name], abs=1e-7)


def test_what_maps_say_of_resamples(tmp_path: Path) -> None:
    """Means over the images that have a value, on any images of the test set in any order."""
    columns = {
        "inside_share": [0.5, np.nan, 0.25, 0.75],
        "best_iou": [0.125, np.nan, 0.5, 0.25],
        "mean_drop": [0.1, 0.2, 0.3, 0.6],
        "fragile_share": [0.0, 1.0, np.nan, np.nan],
    }
    looked_at = IDS[[6, 1, 3, 4]]
    pd.DataFrame({"image_id": looked_at, **columns}).to_parquet(tmp_path / "images.parquet")
    counts = resamples(IMAGES)
    found = visualization(tmp_path, run_metrics("visualization"), index(), counts)
    by_hand = {
        "inside share": ("inside_share", 50.0, 3),
        "best IoU": ("best_iou", 100 * 0.875 / 3, 3),
        "mean drop": ("mean_drop", 30.0, 4),
        "fragile share": ("fragile_share", 50.0, 2),
    }
    assert set(found) == set(by_hand)
    for name, (column, value, images) in by_hand.items():
        assert float(found[name].value) == pytest.approx(value) and found[name].images == images
        values = pd.Series(columns[column], looked_at).reindex(IDS).to_numpy()
        for row, times in enumerate(counts.astype(int)):
            drawn = np.repeat(values, times)
            slow = 100 * drawn[np.isfinite(drawn)].mean() if np.isfinite(drawn).any() else np.nan
            assert found[name].resampled[row] == pytest.approx(slow, nan_ok=True)


def test_maps_without_masks_say_nothing_of_objects(tmp_path: Path) -> None:
    pd.DataFrame({"image_id": IDS, "mean_drop": 0.5}).to_parquet(tmp_path / "images.parquet")
    found = visualization(tmp_path, run_metrics("visualization"), index(), drawn())
    assert set(found) == {"mean drop"}


def test_masks_of_resamples(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "coco", 0, hits(40, 80, IMAGES, spread=20))
    counts = drawn()
    found = segmentation(folder, read_metrics(folder / "metrics.json"), index(), counts)
    pixels = read_confusion(folder / "confusion.parquet").counts()
    for row, times in enumerate(counts.astype(int)):
        again = np.repeat(pixels, times, axis=0).sum(0)
        slow = {
            "mIoU": mean_iou(again.sum(0)),
            "IoU sheep": iou(again.sum(0))[1],
            "mIoU in trimap": mean_iou(trimap(again)).mean(),
            "mIoU in anti-trimap": mean_iou(anti_trimap(again)).mean(),
            "mIoU in trimap@5": mean_iou(trimap(again))[4],
            f"mIoU in trimap@{WIDTHS}": mean_iou(trimap(again))[-1],
        }
        for name, value in slow.items():
            assert found[name].resampled[row] == pytest.approx(100 * value)
    assert float(found["mIoU"].value) == pytest.approx(100 * mean_iou(pixels.sum((0, 1))))


def test_a_training_fits_a_fifth_of_the_way_above_its_floor() -> None:
    for score, fits in ((27.9, False), (28.0, True), (100.0, True)):  # the floor is 10
        assert fitted(run_metrics("classification", training_score=score)) is fits
    assert fitted(run_metrics("classification"))  # nobody measured it


def test_a_target_gathers_its_runs_and_says_which_did_not_fit(tmp_path: Path) -> None:
    runs = []
    for name, score in (("coco", 90.0), ("cls", 12.0)):
        for seed in (0, 1):
            folder = tmp_path / name / str(seed)
            write_answers(folder, np.arange(IMAGES) % 2 == seed)
            runs.append((folder, run_metrics("classification", name, seed, training_score=score)))
    found = read_target("caltech", index(), runs)
    assert found.dataset == "caltech256" and found.images == IMAGES
    assert set(found.scores["top1 fine-tuned"]) == {"coco", "cls"}
    assert set(found.scores["top1 fine-tuned"]["coco"]) == {0, 1}
    assert found.unfit == {("top1 fine-tuned", "cls")}


def test_frozen_networks_fit_as_far_as_their_pretraining(tmp_path: Path) -> None:
    """What is fine-tuned learns anew; a probe that fits cannot mend a network that did not."""
    runs = []
    for task in ("classification", "probe/conv5"):
        for name in ("coco", "cls"):
            folder = tmp_path / task / name
            write_answers(folder, np.arange(IMAGES) % 2 == 0)
            runs.append((folder, run_metrics(task, name, training_score=90.0)))
    assert read_target("caltech", index(), runs).unfit == frozenset()
    found = read_target("caltech", index(), runs, {"cls"})
    assert found.unfit == {("top1 conv5", "cls")}


def test_the_fit_of_a_pretraining(tmp_path: Path) -> None:
    file = tmp_path / "fit.json"
    for score, fits in ((19.9, False), (20.0, True)):
        file.write_text(json.dumps({"steps": 9, "training_score": score}))
        assert pretraining_fitted(file) is fits
        write_metrics(tmp_path / "metrics.json", run_metrics("pretraining", training_score=score))
        assert pretraining_fitted(tmp_path / "metrics.json") is fits
    for content in ("", "[]", "{}", '{"training_score": null}'):
        file.write_text(content)
        with pytest.raises(InputError, match=r"fit\.json: not the fit of a training"):
            pretraining_fitted(file)


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    write_answers(tmp_path, np.ones(IMAGES, bool))
    other = run_metrics("classification", "cls")
    other.comparability["recipe"] = "other"
    runs = [(tmp_path, run_metrics("classification")), (tmp_path, other)]
    with pytest.raises(InputError, match="cannot stand in one table"):
        read_target("caltech", index(), runs)
    write_metrics(tmp_path / "metrics.json", other)
