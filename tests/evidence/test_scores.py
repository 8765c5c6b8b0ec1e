"""Scores of resamples against the scores of the resampled images themselves, metric by metric."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from detransfer.console import InputError
from detransfer.data.index import CLASS_COLUMNS, Index, empty_objects
from detransfer.evidence.scores import classification, fitted, missed, read_target, segmentation
from detransfer.report.bootstrap import resamples
from detransfer.report.metrics import Metric, RunMetrics, RunName, read_metrics, write_metrics
from detransfer.segmentation.by_distance import WIDTHS, anti_trimap, read_confusion, trimap
from detransfer.segmentation.scores import iou, mean_iou
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


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    write_answers(tmp_path, np.ones(IMAGES, bool))
    other = run_metrics("classification", "cls")
    other.comparability["recipe"] = "other"
    runs = [(tmp_path, run_metrics("classification")), (tmp_path, other)]
    with pytest.raises(InputError, match="cannot stand in one table"):
        read_target("caltech", index(), runs)
    write_metrics(tmp_path / "metrics.json", other)
