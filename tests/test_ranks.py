"""Several processes train and predict what one would. This file is also the program they run."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detransfer.backbone import build, hold_still
from detransfer.batches import Epoch
from detransfer.classification.finetune import Classifier, labelled_images
from detransfer.console import run as run_program
from detransfer.data.index import read_index, write_index
from detransfer.detection.detector import Detector
from detransfer.detection.labels import LabelClassifier
from detransfer.detection.train import chip_epochs
from detransfer.ranks import first, join
from detransfer.recipes import (
    ClassificationRecipe,
    DetectionRecipe,
    SegmentationRecipe,
    TrainingRecipe,
)
from detransfer.segmentation.deeplab import Segmenter
from detransfer.segmentation.images import masked_images
from detransfer.training import Run, train
from tests.detection.rectangles import TINY, detection_recipe, write_rectangles
from tests.scripts import test_train_classifier as colours
from tests.scripts import test_train_segmenter as blocks
from tests.segmentation.scenes import write_scenes

STEPS, BATCH, SEED = 20, 8, 4
TRAINING = {
    "epochs": 1,
    "batch_size": BATCH,
    "optimizer": "sgd",
    "learning_rate": 0.02,
    "weight_decay": 0.001,
    "warmup_steps": 3,
    "schedule": "cosine",
    "clip_norm": 5.0,
    "log_every": 7,
    "checkpoint_minutes": 1e-6,
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
    content["backbone"] = {"output_stride": 32, "batch_norm": batch_norm}
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
    assert fit.steps == steps
    return Trained(dict(model.state_dict()), fit.losses)


def write_world(folder: Path) -> Path:
    write_rectangles(folder / "rectangles")
    colours.write_world(folder / "colours")
    write_index(folder / "blocks" / "index", write_scenes(folder / "blocks" / "scenes", 8, 5))
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


def launch(repository: Path, processes: int, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program in so many processes on the CPU, as a rule would."""
    lease = [sys.executable, str(repository / "scripts" / "with_gpus.py"), "--gpus", "0"]
    path = os.pathsep.join([str(repository / "src"), str(repository)])
    done = subprocess.run(
        [*lease, "--processes", str(processes), "--", sys.executable, *words],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done


@pytest.fixture(scope="module")
def by_two(repository: Path, world: Path) -> Path:
    """What two processes made of every case."""
    output = world / "by_two"
    done = launch(repository, 2, __file__, str(world), str(output), *CASES)
    assert done.returncode == 0, done.stderr
    return output


def read(path: Path) -> Trained:
    content = torch.load(path, weights_only=True)
    return Trained(content["weights"], content["losses"])


def assert_equal(one: Trained, other: Trained, tolerance: float = 1e-5) -> None:
    for name, value in one.weights.items():
        difference = (value.double() - other.weights[name].double()).abs().max()
        assert difference <= tolerance, f"{name} differs by {difference}"
    assert one.losses == pytest.approx(other.losses, abs=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one(world: Path, by_two: Path, tmp_path: Path, name: str) -> None:
    alone = train_case(world, name, tmp_path / "state")
    assert_equal(alone, read(by_two / f"{name}.pt"))
    start = CASES[name](world)[0].state_dict()
    moved = [(value - alone.weights[n]).abs().max() for n, value in start.items()]
    assert max(moved) > 1e-3, "nothing was learnt, so nothing was compared"


def main(world: Path, output: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    join()
    for name in names:
        found = train_case(world, name, output / f"state {name}")
        if first():
            torch.save({"weights": found.weights, "losses": found.losses}, output / f"{name}.pt")


if __name__ == "__main__":
    run_program(lambda: main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
