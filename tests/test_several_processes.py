"""Several processes train and predict what one would. This file is also the program they run."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detransfer.backbone import build, hold_still
from detransfer.batches import Epoch
from detransfer.classification.evaluate import predict as predict_classes
from detransfer.classification.finetune import Classifier, labelled_images
from detransfer.console import run as run_program
from detransfer.data.index import read_index, write_index
from detransfer.data.views import CentralViews
from detransfer.detection import predict as detecting
from detransfer.detection.detector import Detector
from detransfer.detection.labels import LabelClassifier
from detransfer.detection.mining import propose
from detransfer.detection.train import chip_epochs
from detransfer.features.extract import BackboneFeatures, record
from detransfer.ranks import (
    first,
    join,
    world_size,
)
from detransfer.recipes.classification import ClassificationRecipe, FeatureRecipe
from detransfer.recipes.detection import DetectionRecipe, NegativeRecipe
from detransfer.recipes.segmentation import SegmentationRecipe
from detransfer.recipes.training import TrainingRecipe
from detransfer.segmentation import predict as segmenting
from detransfer.segmentation.deeplab import Segmenter
from detransfer.segmentation.images import masked_images
from detransfer.segmentation.predict import predict as predict_masks
from detransfer.training import Run, train
from tests.detection.rectangles import TINY, detection_recipe, inference_recipe, write_rectangles
from tests.launch import launch
from tests.scripts import test_train_classifier as colours
from tests.scripts import test_train_segmenter as blocks
from tests.segmentation.scenes import write_scenes

STEPS, BATCH, SEED = 20, 8, 4
TRAINING = {
    "epochs": 1,
    "batch_size": BATCH,
    "optimizer": "sgd",
    "learning_rate": 0.002,
    "weight_decay": 0.001,
    "warmup_steps": 3,
    "schedule": "cosine",
    "clip_norm": 5.0,
    "log_every": 7,
    "checkpoint_minutes": 1e-6,
    # In the other layout torch's own statistics on a processor are wrong in the sixth digit.
    "channels_last": False,
}
RFCN = {
    "kind": "rfcn3000",
    "superclasses": 2,
    "projection": 8,
    "roi_size": 3,
    "hidden": 8,
    "class_rois_per_chip": 3,
}
Case = tuple[nn.Module, Epoch, TrainingRecipe]


def backbone(recipe: Any, classes: int = 0) -> nn.Module:
    torch.manual_seed(SEED)
    model = build(TINY, classes, recipe.output_stride, recipe.deformable_groups)
    hold_still(model, recipe)
    return model


def detection(world: Path, head: dict[str, Any] | None = None, **training: Any) -> Case:
    content = detection_recipe(training={**TRAINING, **training}).model_dump(mode="json")
    recipe = DetectionRecipe.model_validate({**content, "head": head or content["head"]})
    index = read_index(world / "rectangles" / "index").split("train")
    network = backbone(recipe.backbone)
    detector = Detector(network, 3, recipe)
    if head:
        detector.head.group([0, 1, 0])  # type: ignore[union-attr, operator]
    return detector, chip_epochs(index, recipe.chips, network, SEED), recipe.training


def labels(world: Path) -> Case:
    recipe = detection_recipe(training=TRAINING)
    index = read_index(world / "rectangles" / "index").split("train")
    network = backbone(recipe.backbone)
    chips = chip_epochs(index, recipe.chips, network, SEED)
    return LabelClassifier(network, 3, recipe), chips, recipe.training


def classification(world: Path, batch_norm: str = "trained", **training: Any) -> Case:
    content = {**colours.RECIPE, "training": {**TRAINING, **training}}
    # At stride 32 Conv5 is one cell, and statistics over 8 numbers blow rounding up.
    content["backbone"] = {"output_stride": 16, "batch_norm": batch_norm}
    recipe = ClassificationRecipe.model_validate(content)
    images = labelled_images(read_index(world / "colours" / "index").split("train"), recipe.images)
    model = Classifier(backbone(recipe.backbone, 3), recipe)
    return model, lambda epoch: replace(images, randomness=(SEED, epoch)), recipe.training


def segmentation(world: Path) -> Case:
    recipe = SegmentationRecipe.model_validate({**blocks.RECIPE, "training": TRAINING})
    index = read_index(world / "blocks" / "index").split("train")
    images = masked_images(index, recipe.images, mirrored=True)
    return Segmenter(backbone(recipe.backbone), 4, recipe), lambda epoch: images, recipe.training


# Eight images a step; in micro-batches of 4 (of 2) each of two processes holds one (two) of them,
# and of one micro-batch of 8 a half.
CASES: dict[str, Callable[[Path], Case]] = {
    "faster rcnn": detection,
    "faster rcnn, micro-batches": lambda world: detection(world, micro_batch=2),
    "rfcn3000": lambda world: detection(world, RFCN),
    "labels": labels,
    "classification": classification,
    "classification, micro-batches": lambda world: classification(world, micro_batch=2),
    "classification, frozen": lambda world: classification(world, "frozen"),
    "classification, halves of micro-batches": lambda world: classification(world, micro_batch=4),
    "segmentation": segmentation,
}


@dataclass(frozen=True)
class Trained:
    """What a training came to."""

    weights: dict[str, Tensor]
    losses: dict[str, float]


def train_case(world: Path, name: str, state: Path, steps: int = STEPS) -> Trained:
    model, examples, recipe = CASES[name](world)
    epoch = math.ceil(len(examples(0)) / BATCH)  # type: ignore[arg-type]
    recipe = recipe.model_copy(update={"epochs": steps / epoch})
    fit = train(model, examples, recipe, Run(state, SEED, torch.device("cpu")))
    assert (fit.steps, fit.world_size) == (steps, world_size())
    return Trained(dict(model.state_dict()), fit.losses)


def write_world(folder: Path) -> Path:
    write_rectangles(folder / "rectangles")
    colours.write_world(folder / "colours")
    write_index(folder / "blocks" / "index", write_scenes(folder / "blocks" / "scenes", 8, 5))
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def by_two(world: Path) -> Path:
    """What two processes made of every case."""
    output = world / "by_two"
    launch(2, __file__, world, output)
    return output


def read(path: Path) -> Trained:
    content = torch.load(path, weights_only=True)
    return Trained(content["weights"], content["losses"])


def assert_equal(one: Trained, other: Trained, tolerance: float = 1e-5) -> None:
    for name, value in one.weights.items():
        difference = (value.double() - other.weights[name].double()).abs().max()
        size = max(1.0, float(value.abs().max()))
        assert difference <= tolerance * size, f"{name} differs by {difference} at {size}"
    assert one.losses == pytest.approx(other.losses, abs=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one(world: Path, by_two: Path, tmp_path: Path, name: str) -> None:
    alone = train_case(world, name, tmp_path / "state")
    assert_equal(alone, read(by_two / f"{name}.pt"))
    start = CASES[name](world)[0].state_dict()
    moved = [(value - alone.weights[n]).abs().max() for n, value in start.items()]
    assert max(moved) > 1e-3, "nothing was learnt, so nothing was compared"


# Predictions


def predict_all(world: Path) -> dict[str, np.ndarray]:
    """Predict with an untrained network of every task, a few images at a time."""
    cpu, found = torch.device("cpu"), {}
    rectangles = read_index(world / "rectangles" / "index")
    detector, *_ = detection(world)
    assert isinstance(detector, Detector)
    scales = detector.recipe.chips.scales
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detecting, "CHUNK", 3)
        patch.setattr(segmenting, "BATCH", 3)
        recipe = inference_recipe(score_threshold=0.0, per_image=6)
        found["detections"] = detecting.predict(detector, rectangles, recipe, cpu, 0).to_numpy()
        network = Detector(backbone(detector.recipe.backbone), None, detector.recipe)
        some = NegativeRecipe(rpn_epochs=1, proposals=9, per_image=1, minimum_proposals=(1, 1))
        found["proposals"] = propose(network, rectangles, scales, some, cpu, 0).to_numpy()
        segmenter, *_ = segmentation(world)
        assert isinstance(segmenter, Segmenter)
        images = masked_images(read_index(world / "blocks" / "index"), segmenter.recipe.images)
        masks = [(np.array([row]), mask) for row, mask, _ in predict_masks(segmenter, images, cpu)]
        found["masks"] = np.concatenate([part.ravel() for pair in masks for part in pair])
    classifier, *_ = classification(world)
    assert isinstance(classifier, Classifier)
    index = read_index(world / "colours" / "index")
    classified = labelled_images(index, classifier.recipe.images)
    answers = predict_classes(classifier, classified, cpu, batch_size=7)
    found |= {"classes": answers[0], "probabilities": answers[1]}
    view = FeatureRecipe(
        task="features", size=32, resize=36, output_stride=16, batch_size=5, checkpoint_seconds=1
    )
    state = world / f"features by {world_size()}"
    network = BackboneFeatures(classifier.backbone, "fp32")
    writer = record(network, CentralViews(index, view.size, view.resize), view, state, cpu)
    if first():
        writer.mark()
        found["features"] = np.load(state / "conv5.npy")
    return found


@pytest.mark.slow
def test_two_processes_predict_what_one_does(world: Path, by_two: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = predict_all(world)
    torch.set_num_threads(threads)
    shared = np.load(by_two / "predictions.npz")
    assert sorted(shared) == sorted(alone)
    for name, values in alone.items():
        assert len(values) > 10 and np.array_equal(shared[name], values), name


def main(world: Path, output: Path) -> None:
    torch.set_num_threads(1)
    join()
    train_cases(world, output)
    predicted = predict_all(world)
    if first():
        np.savez(output / "predictions.npz", **predicted)


def train_cases(world: Path, output: Path) -> None:
    for name in CASES:
        found = train_case(world, name, output / f"state {name}")
        if first():
            torch.save({"weights": found.weights, "losses": found.losses}, output / f"{name}.pt")


if __name__ == "__main__":
    run_program(lambda: main(Path(sys.argv[1]), Path(sys.argv[2])))
