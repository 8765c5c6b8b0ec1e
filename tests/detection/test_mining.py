"""Proposals for negative chips: of all scales, suppressed together, and the program around them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torchvision.ops import box_iou

from detransfer import training
from detransfer.backbone import build
from detransfer.console import InputError
from detransfer.data.index import BOX, Index, read_index
from detransfer.detection.detector import Detector
from detransfer.detection.mining import SAME, propose
from detransfer.detection.predict import run_views, views
from detransfer.detection.proposals import PROPOSAL_TYPES, read_proposals
from detransfer.recipes.detection import NegativeRecipe
from tests.detection.rectangles import (
    TINY,
    call,
    detection_recipe,
    inference_recipe,
    training_words,
    write_recipe,
    write_rectangles,
    write_start,
)

CPU = torch.device("cpu")
NEGATIVES = {"rpn_epochs": 0.5, "proposals": 20, "per_image": 1, "minimum_proposals": [1, 1]}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rectangles") / "world"
    write_rectangles(folder)
    write_start(folder / "backbone.safetensors")
    recipe = detection_recipe(chips={"negatives": NEGATIVES})
    write_recipe(folder / "recipe.yaml", recipe)
    return folder


@pytest.fixture(scope="module")
def index(world: Path) -> Index:
    return read_index(world / "index").split("train")


def test_scales_are_put_together_and_suppressed_once_more(index: Index) -> None:
    recipe = detection_recipe()
    torch.manual_seed(0)
    network = Detector(build(TINY, 0, 16), None, recipe)
    negatives = NegativeRecipe.model_validate(NEGATIVES)
    found = propose(network, index, recipe.chips.scales, negatives, CPU, 0)
    assert found.dtypes.astype(str).to_dict() == PROPOSAL_TYPES
    assert set(found["image_id"]) == set(index.images["image_id"])  # the empty one as well
    chosen = views(index, range(len(index.images)), recipe.chips.scales)
    with torch.inference_mode():
        parts = list(run_views(network, index, chosen, 1, CPU, 0))
    for row, image in index.images.iterrows():
        own = found[found["image_id"] == image["image_id"]]
        assert own["score"].is_monotonic_decreasing
        boxes = torch.tensor(own[BOX].to_numpy())
        overlaps = box_iou(boxes, boxes).fill_diagonal_(0)
        assert float(overlaps.max()) <= SAME
        both = [part for view, part in parts if view.row == row]
        assert len(both) == 2 and all(len(part["boxes"]) <= 20 for part in both)
        rows = torch.cat([torch.cat([p["boxes"], p["scores"][:, None]], 1) for p in both])
        expected: list[torch.Tensor] = []
        for candidate in rows[rows[:, 4].argsort(descending=True, stable=True)]:
            if all(float(box_iou(candidate[None, :4], k[None, :4])) <= SAME for k in expected):
                expected.append(candidate)
        given = torch.tensor(own[[*BOX, "score"]].to_numpy())
        assert torch.allclose(given, torch.stack(expected), atol=1e-4)
        limits = torch.tensor([image["width"], image["height"]] * 2, dtype=torch.float32)
        assert (boxes >= 0).all() and (boxes <= limits + 1e-3).all()


def test_the_program_writes_proposals_that_a_training_takes(
    repository: Path, world: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, recipe = world / "backbone.safetensors", world / "recipe.yaml"
    words = training_words(world, "mined", start, recipe)
    call(repository / "scripts/mine_proposals.py", words)
    path = world / "mined" / "proposals.parquet"
    proposals = read_proposals(path, index.digest())
    assert len(proposals.ids) == len(index.images) and len(proposals.boxes) > 50
    (checkpoint,) = world.glob("state_mined/*/*.pt")
    first = path.read_bytes()
    path.unlink()
    with monkeypatch.context() as patch:  # written again from the last checkpoint
        patch.setattr(training, "_step", None)
        call(repository / "scripts/mine_proposals.py", words)
    assert path.read_bytes() == first
    checkpoint.unlink()
    call(repository / "scripts/mine_proposals.py", words)
    assert path.read_bytes() == first
    trained = training_words(world, "run", start, recipe)
    call(repository / "scripts/train_detector.py", [*trained, f"--proposals={path}"])
    assert (world / "run" / "model.safetensors").is_file()
    with pytest.raises(InputError, match=r"chips\.negatives and --proposals go together"):
        call(repository / "scripts/train_detector.py", trained)


def test_a_recipe_without_negatives_has_nothing_to_mine(
    repository: Path, world: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path / "plain.yaml", detection_recipe())
    words: list[Any] = training_words(world, "none", world / "backbone.safetensors", recipe)
    with pytest.raises(InputError, match=r"has no chips\.negatives, so nothing is to be mined"):
        call(repository / "scripts/mine_proposals.py", words)


def test_scales_of_the_inference_are_refused_before_the_mining(
    repository: Path, world: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path / "evaluate.yaml", inference_recipe(scales=[{"factor": 4000}]))
    start = world / "backbone.safetensors"
    words = training_words(world, "refused", start, world / "recipe.yaml")
    with pytest.raises(InputError, match=r"at scales\[0\], more than 8000; give that scale as a"):
        call(repository / "scripts/mine_proposals.py", [*words, f"--inference={recipe}"])
    assert not (world / "refused").exists() and not [*world.glob("state_refused/*/*.pt")]


def test_proposals_are_finite_numbers(index: Index) -> None:
    recipe = detection_recipe()
    network = Detector(build(TINY, 0, 16), None, recipe)
    found: pd.DataFrame = propose(
        network, index, recipe.chips.scales, NegativeRecipe(proposals=5), CPU, 0
    )
    assert np.isfinite(found[[*BOX, "score"]].to_numpy()).all()
    assert found.groupby("image_id").size().max() <= 10
