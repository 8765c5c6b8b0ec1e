from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from detransfer.backbone import read_weights, save_backbone
from detransfer.console import InputError
from detransfer.data.index import BOX, read_index, write_index
from detransfer.detection.average_precision import (
    VocConvention,
    average_precision,
    match,
    mean_over_classes,
)
from detransfer.detection.detections import write_detections
from detransfer.files import sha256
from detransfer.report.metrics import RunMetrics, check_comparable, read_metrics
from tests.detection.rectangles import (
    COLOURS,
    call,
    detection_recipe,
    inference_recipe,
    training_words,
    write_recipe,
    write_rectangles,
    write_start,
)

IOUS = [0.3, 0.5, 0.7, 1.0]
VOC = {"kind": "voc", "ious": IOUS, "convention": "AP07"}


@pytest.fixture(scope="module")
def world(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run, and tables of detections that are the truth."""
    folder = tmp_path_factory.mktemp("rectangles") / "world"
    index = write_rectangles(folder)
    start = write_start(folder / "backbone.safetensors")
    recipe = write_recipe(folder / "train.yaml", detection_recipe(training={"epochs": 0.5}))
    call(repository / "scripts/train_detector.py", training_words(folder, "run", start, recipe))
    write_recipe(folder / "recipe.yaml", inference_recipe(metric=VOC, training_images=6))
    training = index.split("train").counted().sample(6)
    truth = {"truth": index.split("test").objects, "training": training.objects}
    for name, objects in truth.items():
        write_detections(folder / f"{name}.parquet", objects.assign(score=0.5), list(COLOURS))
    return folder


class Evaluation:
    """The program with all its arguments, of which some may be changed."""

    def __init__(self, repository: Path, world: Path, folder: Path) -> None:
        self.program = repository / "scripts/evaluate_detections.py"
        self.world, self.folder = world, folder

    def words(self, **changes: Any) -> list[str]:
        options = {
            "detections": self.world / "truth.parquet",
            "training-detections": self.world / "training.parquet",
            "model": self.world / "run" / "model.safetensors",
            "fit": self.world / "run" / "fit.json",
            "index": self.world / "index",
            "split": "test",
            "training-splits": "train",
            "recipe": self.world / "recipe.yaml",
            "pretraining": "scratch",
            "target": "boxes",
            "dataset": "rectangles",
            "task": "detection",
            "seed": 3,
            "output": self.folder / "metrics.json",
            "classes": self.folder / "classes.csv",
            **{name.replace("_", "-"): value for name, value in changes.items()},
        }
        return [f"--{name}={value}" for name, value in options.items()]

    def run(self, **changes: Any) -> RunMetrics:
        call(self.program, self.words(**changes))
        return read_metrics(self.folder / "metrics.json")


@pytest.fixture
def evaluation(repository: Path, world: Path, tmp_path: Path) -> Evaluation:
    return Evaluation(repository, world, tmp_path)


def test_the_truth_scores_a_hundred_at_every_overlap(evaluation: Evaluation) -> None:
    metrics = evaluation.run()
    names = [f"{kind}@{iou:g}" for kind in ("mAP", "mAP07", "mAP10") for iou in IOUS]
    assert sorted(metric.name for metric in metrics.metrics) == sorted(names)
    for name in names:
        metric = metrics.metric(name)
        assert (metric.value, metric.unit, metric.n) == (pytest.approx(100), "%", 4)
        assert metric.ceiling == 100
    assert metrics.fit["training_score"] == pytest.approx(100)
    classes = pd.read_csv(evaluation.folder / "classes.csv")
    assert list(classes) == ["class", "metric", "iou", "value"]
    assert len(classes) == 3 * 2 * len(IOUS) and set(classes["class"]) == set(COLOURS)
    assert classes["value"].tolist() == pytest.approx([100] * len(classes))


def test_the_scores_are_those_of_the_detections(evaluation: Evaluation, tmp_path: Path) -> None:
    index = read_index(evaluation.world / "index").split("test")
    shifted = index.objects.assign(score=[i / 100 for i in range(len(index.objects))])
    shifted["x2"] += 3
    shifted = shifted.iloc[1:]
    write_detections(tmp_path / "shifted.parquet", shifted, list(COLOURS))
    metrics = evaluation.run(detections=tmp_path / "shifted.parquet")
    result = average_precision(match(index.objects, shifted, 3), IOUS)
    for place, iou in enumerate(IOUS):
        for name, values in (("AP07", result.ap07), ("AP10", result.ap10)):
            wanted = 100 * mean_over_classes(values)[place]
            assert metrics.metric(f"m{name}@{iou:g}").value == pytest.approx(wanted)
        assert metrics.metric(f"mAP@{iou:g}").value == metrics.metric(f"mAP07@{iou:g}").value
    assert 0 < metrics.metric("mAP@0.5").value < 100 and metrics.metric("mAP@1").value == 0
    table = pd.read_csv(evaluation.folder / "classes.csv")
    column = table[(table["metric"] == "AP10") & (table["iou"] == 0.5)]["value"]
    assert column.tolist() == pytest.approx((100 * result.ap10[:, 1]).tolist())
    assert metrics.fit["training_score"] == pytest.approx(100)  # that of the other table


def test_cocos_metric_by_its_recipe(evaluation: Evaluation, tmp_path: Path) -> None:
    recipe = write_recipe(
        tmp_path / "coco.yaml", inference_recipe(metric={"kind": "coco"}, training_images=6)
    )
    metrics = evaluation.run(recipe=recipe, task="pretraining")
    assert str(metrics.run) == "pretraining/boxes/scratch/seed3"
    found = {metric.name: metric.value for metric in metrics.metrics}
    assert found["AP@[.5:.95]"] == found["AP@0.75"] == pytest.approx(100)
    assert "AP large" not in found  # of 96 x 96 pixels or more there is none
    assert metrics.fit["training_score"] == pytest.approx(100)
    classes = pd.read_csv(evaluation.folder / "classes.csv")
    assert set(classes["metric"]) == {"AP"} and set(classes["iou"]) == {"[.5:.95]"}
    assert classes["value"].tolist() == pytest.approx([100] * 3)


def test_open_images_metric_needs_verified_labels(evaluation: Evaluation, tmp_path: Path) -> None:
    recipe = write_recipe(
        tmp_path / "oi.yaml", inference_recipe(metric={"kind": "open_images"}, training_images=6)
    )
    with pytest.raises(InputError, match="has no verified negatives"):
        evaluation.run(recipe=recipe)
    index = read_index(evaluation.world / "index")
    negatives = pd.DataFrame({"image_id": [9], "class_id": [1]})
    write_index(tmp_path / "index", replace(index, negatives=negatives))
    metrics = evaluation.run(recipe=recipe, index=tmp_path / "index")
    assert metrics.metric("mAP@0.5").value == pytest.approx(100)
    assert len(metrics.metrics) == 1


def test_training_images_may_be_those_of_another_data_set(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    """As for a detector of ImageNet-LOC, which is evaluated on ImageNet DET."""
    index = read_index(evaluation.world / "index")
    write_index(tmp_path / "other", index.split("test"))
    words = {"index": tmp_path / "other", "training_index": evaluation.world / "index"}
    metrics = evaluation.run(**words)
    assert metrics.metric("mAP@0.5").value == metrics.fit["training_score"] == pytest.approx(100)


@pytest.mark.parametrize("place", ["detections", "training_detections"])
@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([*COLOURS, "grey"], "numbers 4 classes, but the data set has 3; detect again"),
        ([*COLOURS][::-1], "numbers other classes than the data set has, or in another order"),
    ],
)
def test_detections_of_other_classes_are_refused(
    evaluation: Evaluation, tmp_path: Path, place: str, names: list[str], message: str
) -> None:
    """Though every image and number is one of the data set's."""
    index = read_index(evaluation.world / "index")
    parts = {
        "detections": index.split("test"),
        "training_detections": index.split("train").counted().sample(6),
    }
    objects = parts[place].objects
    write_detections(tmp_path / "other.parquet", objects.assign(score=1), names)
    with pytest.raises(InputError, match=rf"other\.parquet: {message}"):
        evaluation.run(**{place: tmp_path / "other.parquet"})


def test_the_recipe_sets_headline_and_convention(evaluation: Evaluation, tmp_path: Path) -> None:
    voc = {"kind": "voc", "ious": [0.5], "convention": "AP10"}
    voc |= {"strict_overlap": True, "round_boxes": 0}
    recipe = write_recipe(tmp_path / "other.yaml", inference_recipe(metric=voc, training_images=6))
    index = read_index(evaluation.world / "index").split("test")
    halves = index.objects.assign(score=0.5)
    halves["x2"] = halves["x1"] + (halves["x2"] - halves["x1"]) / 2  # IoU 0.5, or less if rounded
    write_detections(tmp_path / "halves.parquet", halves, list(COLOURS))
    loose = evaluation.run(detections=tmp_path / "halves.parquet")
    strict = evaluation.run(detections=tmp_path / "halves.parquet", recipe=recipe)
    convention = VocConvention(strict_overlap=True, round_boxes=0)
    result = average_precision(match(index.objects, halves, 3, convention), [0.5])
    assert loose.metric("mAP@0.5").value == pytest.approx(100)
    wanted = 100 * mean_over_classes(result.ap10)[0]
    assert strict.metric("mAP@0.5").value == pytest.approx(wanted) and wanted < 60
    assert strict.metric("mAP@0.5").value == strict.metric("mAP10@0.5").value


def test_the_metrics_say_where_they_come_from(evaluation: Evaluation) -> None:
    metrics, run = evaluation.run(), evaluation.world / "run"
    header = read_weights(run / "model.safetensors")[1]
    index = read_index(evaluation.world / "index")
    assert str(metrics.run) == "detection/boxes/scratch/seed3"
    assert metrics.run.dataset == "rectangles"
    fit = json.loads((run / "fit.json").read_text())
    assert {**metrics.fit, "training_score": None} == fit
    assert metrics.comparability["evaluation_data"] == index.split("test").digest()
    assert metrics.comparability["evaluation_split"] == "test"
    assert metrics.comparability["training_data"] == index.split("train").digest()
    assert metrics.comparability["training_recipe"] == sha256(evaluation.world / "train.yaml")
    assert "seed" not in metrics.comparability
    assert metrics.provenance["model_digest"] == sha256(run / "model.safetensors")
    assert metrics.provenance["start_digest"] == header["start_digest"]


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"scales": [{"factor": 1.0}]}, "inference"),
        ({"soft_nms_sigma": 0.4}, "inference"),
        ({"score_threshold": 0.2}, "inference"),
        ({"proposals": 17}, "inference"),
        ({"metric": {**VOC, "strict_overlap": True}}, "metric"),
        ({"metric": {**VOC, "convention": "AP10"}}, "metric"),
        ({"batch_size": 9}, None),
    ],
)
def test_what_defines_the_number_makes_runs_comparable(
    evaluation: Evaluation, tmp_path: Path, changes: dict[str, Any], differs: str | None
) -> None:
    values = {"metric": VOC, "training_images": 6, **changes}
    recipe = write_recipe(tmp_path / "other.yaml", inference_recipe(**values))
    first, second = evaluation.run(), evaluation.run(recipe=recipe)
    if differs is None:
        check_comparable([first, second])
    else:
        with pytest.raises(InputError, match=f"they differ in {differs} "):
            check_comparable([first, second])


def test_how_many_training_images_are_scored_is_no_matter(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    recipe = inference_recipe(metric=VOC, training_images=8)
    second = evaluation.run(recipe=write_recipe(tmp_path / "other.yaml", recipe))
    check_comparable([evaluation.run(), second])


def test_other_data_and_recipes_are_not_comparable(
    evaluation: Evaluation, repository: Path, tmp_path: Path
) -> None:
    model = evaluation.world / "run" / "model.safetensors"
    state, header = read_weights(model)
    for name, differs in (("data_digest", "training_data"), ("recipe_digest", "training_recipe")):
        save_backbone(tmp_path / "model.safetensors", state, {**header, name: "other"})
        other = evaluation.run(model=tmp_path / "model.safetensors")
        with pytest.raises(InputError, match=f"they differ in {differs} "):
            check_comparable([evaluation.run(), other])
    save_backbone(tmp_path / "model.safetensors", state, {**header, "seed": 9, "start_digest": "x"})
    check_comparable([evaluation.run(), evaluation.run(model=tmp_path / "model.safetensors")])


@pytest.mark.parametrize("place", ["detections", "training_detections"])
def test_detections_on_unknown_images_are_refused(
    evaluation: Evaluation, tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.DataFrame(
        [[999, 0, 0.5, 1, 1, 9, 9]], columns=["image_id", "class_id", "score", *BOX]
    )
    write_detections(tmp_path / "unknown.parquet", table, list(COLOURS))
    with pytest.raises(SystemExit) as ended:
        words = evaluation.words(**{place: tmp_path / "unknown.parquet"})
        call(evaluation.program, words, "__main__")
    message = capsys.readouterr().err
    assert ended.value.code == 2 and "Traceback" not in message
    assert "unknown.parquet: detection 0 (image_id=999" in message
    assert "the data set has no such image" in message


def test_detections_of_the_other_split_are_refused(evaluation: Evaluation) -> None:
    with pytest.raises(InputError, match="the data set has no such image"):
        evaluation.run(detections=evaluation.world / "training.parquet")


def test_a_run_without_its_files_is_refused(evaluation: Evaluation, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"fit\.json: not a readable fit\.json"):
        evaluation.run(fit=tmp_path / "fit.json")
    with pytest.raises(InputError, match=r"backbone\.safetensors: holds no detector"):
        evaluation.run(model=evaluation.world / "backbone.safetensors")
