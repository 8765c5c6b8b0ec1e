"""The paper's own recipes on its own network, with chips of an eighth of their size."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Subset

from detransfer.backbone import build, mean_colour
from detransfer.data.index import BOX, FLAGS, Index
from detransfer.detection.chip_recipe import chip_plan
from detransfer.detection.detector import Detector
from detransfer.detection.proposals import Proposals
from detransfer.detection.train import ChipDataset, scenes
from detransfer.recipes.detection import ChipRecipe, DetectionRecipe, ScaleRecipe
from detransfer.strict import load_file
from detransfer.study import BackboneChoice
from detransfer.training import Run, train
from detransfer.untrained import wake
from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "config/recipes/paper"
PATHS = sorted(path for path in FOLDER.glob("*.yaml") if "\nchips:" in path.read_text())
SHARE = 8  # of which chips, objects and images are one part
WIDTH, HEIGHT = 96, 72
SIDES = (6, 14, 40)  # of objects: for the fine, the middle and the coarse scale


def smaller(scale: ScaleRecipe) -> ScaleRecipe:
    short, long = (side and side // SHARE for side in (scale.short, scale.long))
    low, high = scale.valid_range
    changes = {"short": short, "long": long, "valid_range": (low / SHARE, high and high / SHARE)}
    return scale.model_copy(update=changes)


def shrunk(recipe: DetectionRecipe) -> DetectionRecipe:
    """Return the recipe with smaller chips, fewer of them and fewer RoIs, else as it is."""
    chips: ChipRecipe = recipe.chips.model_copy(
        update={
            "size": recipe.chips.size // SHARE,
            "stride": (7, 7),
            "minimum_side": 2,
            "scales": tuple(smaller(scale) for scale in recipe.chips.scales),
        }
    )
    training = {"epochs": 1, "batch_size": 4, "micro_batch": 2, "compile": False}
    training["step_epochs"] = (0.5,)  # between the two steps
    changes = {
        "training": recipe.training.model_copy(update=training),
        "chips": chips,
        "rpn": recipe.rpn.model_copy(update={"train_proposals": 12}),
        "head": recipe.head.model_copy(update={"rois_per_chip": 12}),
    }
    return recipe.model_copy(update=changes)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Three noisy images with an object for each scale, and one without any."""
    folder = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng(0)
    objects = []
    for number in range(4):
        pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        for class_id, side in enumerate(SIDES if number < 3 else ()):
            x, y = 2 + 20 * class_id, 4 + 10 * number
            objects.append((number, class_id, x, y, x + side, y + side, *[False] * len(FLAGS)))
    images = pd.DataFrame({"image_id": range(4), "width": WIDTH, "height": HEIGHT})
    images = images.assign(path=[f"{number}.png" for number in range(4)], split="train")
    table = pd.DataFrame(objects, columns=["image_id", "class_id", *BOX, *FLAGS])
    classes = pd.DataFrame(
        {"class_id": range(3), "name": list("abc"), "source_id": "", "superclass": ""}
    )
    return Index(images, table, classes, folder)


def proposals() -> Proposals:
    """Return many boxes in each of the four images, small enough for every scale."""
    rng = np.random.default_rng(1)
    corner = rng.uniform(0, (WIDTH - 20, HEIGHT - 20), (4 * 400, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(4, 18, (4 * 400, 1))], axis=1)
    return Proposals(np.arange(4), 400 * np.arange(5), boxes.astype(np.float32))


def eight_chips(index: Index, recipe: ChipRecipe, backbone: nn.Module) -> Subset[Any]:
    """Return chips of every scale the recipe has, and of background where it wants that."""
    mined = proposals() if recipe.negatives else None
    images = scenes(index, background=mined is not None)
    chips = ChipDataset(images, chip_plan(recipe), mean_colour(backbone), 0, 0, mined)
    kinds: dict[tuple[int, bool], list[int]] = {}
    for number, scale in enumerate(chips.table.scales):
        kind = int(scale), bool(len(chips.table.learned(number)))
        kinds.setdefault(kind, []).append(number)
    assert {scale for scale, positive in kinds if positive} == set(range(len(recipe.scales)))
    assert any(not positive for _, positive in kinds) == (recipe.negatives is not None)
    first = [numbers[0] for numbers in kinds.values()]
    rest = [number for numbers in kinds.values() for number in numbers[1:]]
    return Subset(chips, [*first, *rest][:8])


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    model = build(BackboneChoice(name="resnet101"), 0, 16, deformable_groups=4)
    wake(model)
    return model


def distinct() -> dict[DetectionRecipe, str]:
    """Return the paper's detectors by what is left of their recipes: some differ in length only."""
    trained = {shrunk(load_file(path, DetectionRecipe)): path.stem for path in PATHS}
    assert len(PATHS) == 5 and len(trained) == 3
    return trained


@pytest.mark.parametrize("recipe", distinct(), ids=distinct().get)
def test_it_trains_two_steps(
    recipe: DetectionRecipe,
    index: Index,
    resnet: nn.Module,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("detransfer.training.write_checkpoint", lambda *_: None)  # half a gigabyte
    assert (recipe.backbone.output_stride, recipe.backbone.deformable_groups) == (16, 4)
    torch.manual_seed(1)
    detector = Detector(copy.deepcopy(resnet), 3, recipe)
    chips = eight_chips(index, recipe.chips, detector.backbone)
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    fit = train(detector, lambda _: chips, recipe.training, Run(tmp_path, 0, torch.device("cpu")))
    assert fit.steps == 2 and all(math.isfinite(loss) for loss in fit.losses.values())
    assert len(fit.losses) == (6 if recipe.head.kind == "rfcn3000" else 5)
    moved = {name for name, v in detector.state_dict().items() if not torch.equal(v, before[name])}
    frozen = tuple(f"backbone.{prefix}." for prefix in recipe.backbone.freeze)
    still = {name for name in before if frozen and name.startswith(frozen)}
    assert bool(still) == bool(recipe.backbone.freeze) and not moved & still
    assert not {n for n in before.keys() - moved - still if not n.endswith("superclass")}
