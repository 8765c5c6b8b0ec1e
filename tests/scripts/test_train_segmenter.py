"""The three programs of segmentation, from an index to metrics.json, over a few small scenes."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torchmetrics.functional.classification import multiclass_jaccard_index

from detransfer.backbone import build, read_weights, save_backbone
from detransfer.console import InputError
from detransfer.data.index import Index, read_index, write_index
from detransfer.data.masks import VOID, encode_mask, read_mask, resize_labels
from detransfer.recipes.segmentation import ResizeRecipe
from detransfer.report.metrics import read_metrics
from detransfer.segmentation.by_distance import read_confusion, trimap
from detransfer.segmentation.confusion import confusion
from detransfer.segmentation.predictions import Predictions, write_predictions
from detransfer.segmentation.scores import class_counts, mean_iou
from detransfer.segmentation.trimap import narrowest_trimap
from tests.segmentation.scenes import CLASSES, TINY, write_scenes

RECIPE: dict[str, Any] = {
    "task": "segmentation",
    "training": {
        "epochs": 30,
        "batch_size": 4,
        "optimizer": "adamw",
        "learning_rate": 0.01,
        "weight_decay": 0.0,
        "schedule": "cosine",
        "log_every": 20,
    },
    "backbone": {"output_stride": 8, "batch_norm": "trained", "deformable_groups": 1},
    "images": {"short": 40, "long": 64},
    "head": {"kind": "plain", "hidden": 16},
}
TEST = 5


class Programs:
    """The programs, over one world of eight scenes to train on and five to test on."""

    def __init__(self, repository: Path, folder: Path) -> None:
        self.folder, self.scripts = folder, repository / "scripts"
        self.instead: dict[str, Any] = {}  # of names in a program
        write_index(folder / "index", write_scenes(folder / "scenes", 8, TEST))
        self.index = folder / "index"
        self.write_recipe("recipe.yaml")
        torch.manual_seed(0)
        header = {"architecture": TINY.model_dump(mode="json"), "pretraining": "scratch"}
        save_backbone(folder / "backbone.safetensors", build(TINY).state_dict(), header)

    def write_recipe(self, name: str, **changes: Any) -> Path:
        path = self.folder / name
        path.write_text(yaml.safe_dump({**RECIPE, **changes}))
        return path

    def call(self, program: str, **options: object) -> None:
        words = [f"--{name}={value}" for name, value in options.items()]
        loaded = runpy.run_path(str(self.scripts / f"{program}.py"))
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.instead.items():
                patch.setitem(loaded["main"].__globals__, name, value)
            patch.setattr(sys, "argv", [f"{program}.py", *words])
            loaded["main"]()

    def train(self, output: str, seed: int = 0, **options: object) -> Path:
        given: dict[str, object] = {
            "index": self.index,
            "splits": "train",
            "start": self.folder / "backbone.safetensors",
            "recipe": self.folder / "recipe.yaml",
            "seed": seed,
            "state": self.folder / f"state_{output}",
            "output": self.folder / output,
        }
        self.call("train_segmenter", **{**given, **options})
        return self.folder / output

    def segment(self, run: Path, index: Path | None = None) -> Path:
        path = run / "predictions.zip"
        model, index = run / "model.safetensors", index or self.index
        self.call("segment", model=model, index=index, split="test", output=path)
        return path

    def evaluate(self, run: Path, output: Path, **options: object) -> Path:
        given: dict[str, object] = {
            "predictions": run / "predictions.zip",
            "model": run / "model.safetensors",
            "fit": run / "fit.json",
            "index": self.index,
            "split": "test",
            "pretraining": "scratch",
            "target": "blocks",
            "dataset": "scenes",
            "seed": 3,
            "output": output / "metrics.json",
            "classes": output / "iou.csv",
            "confusion": output / "confusion.parquet",
        }
        self.call("evaluate_segmentation", **{**given, **options})
        return output


@pytest.fixture(scope="module")
def programs(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return Programs(repository, tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def run(programs: Programs) -> Path:
    run = programs.train("run")
    programs.segment(run)
    return programs.evaluate(run, run)


def truths(index: Index) -> dict[int, np.ndarray]:
    images = index.images
    paths = zip(images["image_id"], images["mask"], strict=True)
    return {image_id: read_mask(index.root / path, 3) for image_id, path in paths}


def test_training_learns_what_is_easy(run: Path) -> None:
    fit = json.loads((run / "fit.json").read_text())
    assert fit["steps"] == 30 * 16 / 4  # eight images and their mirror images
    assert fit["training_score"] > 80
    assert read_metrics(run / "metrics.json").metric("mIoU").value > 50


def test_the_model_file_says_what_rebuilds_it(run: Path, programs: Programs) -> None:
    state, header = read_weights(run / "model.safetensors")
    assert {name.split(".")[0] for name in state} == {"backbone", "head"}
    assert state["head.2.weight"].shape[:2] == (4, 16)
    assert (header["task"], header["classes"]) == ("segmentation", list(CLASSES))
    assert header["recipe"]["images"]["short"] == 40 and header["pretraining"] == "scratch"
    assert header["data_digest"] == read_index(programs.index).split("train").digest()
    assert "inputs_digest" not in header


def test_equal_runs_give_equal_files_and_the_seed_matters(programs: Programs) -> None:
    short = programs.write_recipe("short.yaml", training={**RECIPE["training"], "epochs": 1})
    first = programs.train("first", recipe=short) / "model.safetensors"
    again = programs.train("again", recipe=short) / "model.safetensors"
    other = programs.train("other", seed=1, recipe=short) / "model.safetensors"
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()


def test_the_scores_are_torchmetrics_on_the_predictions(run: Path, programs: Programs) -> None:
    index = read_index(programs.index).split("test")
    found = Predictions(run / "predictions.zip", index.images["image_id"].tolist(), 4)
    metrics = read_metrics(run / "metrics.json")
    pixels: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"mIoU": [], "mIoU_resized": []}
    for image_id, truth in truths(index).items():
        mask = found.mask(image_id)
        assert mask.shape == ResizeRecipe(short=40, long=64).size(*truth.shape) != truth.shape
        pixels["mIoU"].append((resize_labels(mask, *truth.shape).ravel(), truth.ravel()))
        pixels["mIoU_resized"].append((mask.ravel(), resize_labels(truth, *mask.shape).ravel()))
    for name, pairs in pixels.items():
        predicted, truth = (
            torch.from_numpy(np.concatenate(p)).long() for p in zip(*pairs, strict=True)
        )
        wanted = 100 * float(multiclass_jaccard_index(predicted, truth, 4, ignore_index=VOID))
        metric = metrics.metric(name)
        assert metric.value == pytest.approx(wanted, rel=1e-5)
        labelled = truth[truth != VOID]
        background = float((labelled == 0).float().mean())
        assert metric.floor == pytest.approx(100 * background / 4)
        assert (metric.n, metric.unit, metric.ceiling) == (TEST, "%", 100.0)
    assert metrics.metric("mIoU").value != metrics.metric("mIoU_resized").value
    assert metrics.metric("classes_scored").value == 4


def test_every_image_can_be_scored_again_at_any_width(run: Path, programs: Programs) -> None:
    index = read_index(programs.index).split("test")
    kept = read_confusion(run / "confusion.parquet")
    assert kept.image_ids.tolist() == index.images["image_id"].tolist()
    assert kept.classes == CLASSES
    counts = trimap(kept.counts())
    found = Predictions(run / "predictions.zip", kept.image_ids.tolist(), 4)
    for row, (image_id, truth) in enumerate(truths(index).items()):
        mask = resize_labels(found.mask(image_id), *truth.shape)
        for width in (1, 3, 12):
            band = np.where(narrowest_trimap(truth) <= width, truth, VOID)
            wanted = class_counts(confusion(band, mask, 4))
            np.testing.assert_array_equal(counts[row, width - 1], wanted)


def test_the_metrics_say_where_they_come_from(run: Path, programs: Programs) -> None:
    metrics = read_metrics(run / "metrics.json")
    header = read_weights(run / "model.safetensors")[1]
    assert str(metrics.run) == "segmentation/blocks/scratch/seed3"
    assert metrics.run.dataset == "scenes"
    assert metrics.fit == json.loads((run / "fit.json").read_text())
    test = read_index(programs.index).split("test")
    assert metrics.comparability["evaluation_data"] == test.digest()
    assert metrics.comparability["training_data"] == header["data_digest"]
    assert metrics.comparability["recipe"] == header["recipe_digest"]
    assert metrics.provenance["start_digest"] == header["start_digest"]


def rewritten(run: Path, folder: Path, masks: dict[int, np.ndarray]) -> Path:
    """Write other predictions; return their path."""
    path = folder / "predictions.zip"
    write_predictions(path, masks.items())
    return path


@pytest.fixture
def masks(run: Path, programs: Programs) -> dict[int, np.ndarray]:
    ids = read_index(programs.index).split("test").images["image_id"].tolist()
    found = Predictions(run / "predictions.zip", ids, 4)
    return {image_id: found.mask(image_id) for image_id in ids}


def test_truth_as_prediction_is_perfect(run: Path, programs: Programs, tmp_path: Path) -> None:
    """At a recipe's size that is the image's own, for sizes of 48 x 64, 64 x 48 and 56 x 80."""
    index = read_index(programs.index).split("test")
    state, header = read_weights(run / "model.safetensors")
    for image_id, truth in truths(index).items():
        one = replace(index, images=index.images[index.images["image_id"] == image_id])
        write_index(tmp_path / "index", one)
        header["recipe"]["images"] = {"short": min(truth.shape), "long": 999}
        save_backbone(tmp_path / "model.safetensors", state, header)
        path = rewritten(run, tmp_path, {image_id: np.where(truth == VOID, 0, truth)})
        options = {"model": tmp_path / "model.safetensors", "index": tmp_path / "index"}
        programs.evaluate(run, tmp_path, predictions=path, **options)
        metrics = read_metrics(tmp_path / "metrics.json")
        for name in ("mIoU", "mIoU_resized", "pixel_accuracy", "pixel_accuracy_resized"):
            assert metrics.metric(name).value == 100.0


def test_an_absent_class_is_reported_and_not_averaged(
    run: Path,
    programs: Programs,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    masks: dict[int, np.ndarray],
) -> None:
    index = read_index(programs.index)
    for path in index.split("test").images["mask"]:
        mask = read_mask(index.root / path, 3)
        copy = tmp_path / "images" / path
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(encode_mask(np.where(mask == 2, 0, mask)))
    write_index(tmp_path / "index", replace(index.split("test"), root=tmp_path / "images"))
    programs.evaluate(run, tmp_path, index=tmp_path / "index")
    assert "no true pixel, so left out of the mean: green" in caplog.text
    table = pd.read_csv(tmp_path / "iou.csv").set_index("class")
    assert table["iou"].isna().tolist() == [False, False, True, False]
    assert (table.loc["green", "true_pixels"], table.loc["green", "images"]) == (0, 0)
    assert table.loc["green", "predicted_pixels"] > 0
    metrics = read_metrics(tmp_path / "metrics.json")
    assert metrics.metric("mIoU").value == pytest.approx(table["iou"].mean(), rel=1e-4)
    classes = metrics.metric("classes_scored")
    assert (classes.value, classes.ceiling) == (3, 4)


def test_an_image_without_void_lies_outside_every_trimap(
    run: Path, programs: Programs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = read_index(programs.index).split("test")
    first = index.images["mask"].iloc[0]
    (tmp_path / "images").mkdir()
    for path in index.images["mask"]:
        mask = read_mask(index.root / path, 3)
        plain = np.where(mask == VOID, 0, mask) if path == first else mask
        (tmp_path / "images" / path).write_bytes(encode_mask(plain))
    write_index(tmp_path / "index", replace(index, root=tmp_path / "images"))
    programs.evaluate(run, tmp_path, index=tmp_path / "index")
    assert "1 of 5 images have no void" in caplog.text
    counts = read_confusion(tmp_path / "confusion.parquet").counts()
    assert trimap(counts)[0].sum() == 0 < trimap(counts)[1].sum()
    assert counts[0].sum((0, 1))[1] == mask.size or counts[0, -1].sum() > 0


def test_wrong_predictions_are_refused(
    run: Path, programs: Programs, tmp_path: Path, masks: dict[int, np.ndarray]
) -> None:
    def fails(message: str, changed: dict[int, np.ndarray]) -> None:
        with pytest.raises(InputError, match=message):
            programs.evaluate(run, tmp_path, predictions=rewritten(run, tmp_path, changed))
        assert not (tmp_path / "metrics.json").exists()

    first, *rest = masks
    fails(rf"no prediction for image {first}", {each: masks[each] for each in rest})
    fails("images that are not evaluated: image 7", {**masks, 7: masks[first]})
    fails(rf"{first}\.png has 9 x 9 pixels, but the model sees", {
        **masks, first: np.zeros((9, 9), np.uint8)})  # fmt: skip
    wrong = masks[first].copy()
    wrong[1, 2] = 4
    fails(rf"{first}\.png: pixel x=2, y=1 is 4, but there are 4 classes", {**masks, first: wrong})


def test_wrong_truth_is_refused(run: Path, programs: Programs, tmp_path: Path) -> None:
    index = read_index(programs.index).split("test")
    swapped = index.classes.assign(name=["background", "red", "blue", "green"])
    write_index(tmp_path / "classes", replace(index, classes=swapped))
    with pytest.raises(InputError, match="class 2 is 'green' there and 'blue' here"):
        programs.evaluate(run, tmp_path, index=tmp_path / "classes")
    bare = replace(index, images=index.images.drop(columns="mask"))
    write_index(tmp_path / "bare", bare)
    with pytest.raises(InputError, match="its images have no masks"):
        programs.evaluate(run, tmp_path, index=tmp_path / "bare")
    images = index.images.assign(width=index.images["width"] * 2)
    write_index(tmp_path / "sizes", replace(index, images=images))
    with pytest.raises(InputError, match=r"_mask\.png: the mask has .* but its image has"):
        programs.evaluate(run, tmp_path, index=tmp_path / "sizes")


def test_a_detector_gives_its_offsets_only_where_the_recipe_asks(programs: Programs) -> None:
    one = {**RECIPE["training"], "epochs": 0.25}
    keep = programs.write_recipe("keep.yaml", training=one, offsets="keep")
    zero = programs.write_recipe("zero.yaml", training=one)
    detector = build(TINY, 0, 16, deformable_groups=1)
    for name, value in detector.state_dict().items():
        if ".offset." in name:
            torch.nn.init.normal_(value)
    state = {f"backbone.{name}": value for name, value in detector.state_dict().items()}
    path = programs.folder / "detector.safetensors"
    save_backbone(path, state, {})
    with pytest.raises(InputError, match="says that offsets start at zero"):
        programs.train("refused", recipe=zero, offsets=path)
    kept, header = read_weights(
        programs.train("kept", recipe=keep, offsets=path) / "model.safetensors"
    )
    name = "backbone.layer4.0.conv1.offset.weight"
    assert (kept[name] - state[name]).abs().max() < 0.1 < state[name].abs().max()
    plain, other = read_weights(programs.train("plain", recipe=keep) / "model.safetensors")
    assert plain[name].abs().max() < 0.1
    assert header["inputs_digest"] and header["run_digest"] != other["run_digest"]


def test_mean_iou_of_the_table_is_that_of_the_metrics(run: Path) -> None:
    table = pd.read_csv(run / "iou.csv")
    assert table["class"].tolist() == list(CLASSES)
    metrics = read_metrics(run / "metrics.json")
    counts = read_confusion(run / "confusion.parquet").counts().sum((0, 1))
    assert metrics.metric("mIoU").value == pytest.approx(100 * float(mean_iou(counts)))
    for column, name in (("iou", "mIoU"), ("iou_resized", "mIoU_resized")):
        assert table[column].mean() == pytest.approx(metrics.metric(name).value, rel=1e-4)


def test_a_gpu_without_memory_for_the_score_is_named(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Iterator[Any]:
        yield 0, np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.uint8)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    programs.write_recipe("short.yaml", training={**RECIPE["training"], "epochs": 0.5})
    monkeypatch.setattr(programs, "instead", {"predict": full})
    expected = r"^scoring .*unscored: the cpu of .* ran out of memory: .* 8 images .*images\.short"
    with pytest.raises(InputError, match=expected):
        programs.train("unscored", recipe=programs.folder / "short.yaml")
