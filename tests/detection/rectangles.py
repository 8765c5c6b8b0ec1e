"""A tiny data set of coloured rectangles, and recipes of a detector that is as tiny."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from detransfer.backbone import build, save_backbone
from detransfer.data.index import BOX, FLAGS, Index, read_index, write_index
from detransfer.recipes.detection import DetectionRecipe
from detransfer.recipes.evaluation import InferenceRecipe
from detransfer.strict import Strict
from detransfer.study import BackboneChoice

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (40, 60, 230)}
# Equal widths in the last two stages would make timm leave out a layer at stride 16.
TINY = BackboneChoice(name="resnet10t", arguments={"channels": [8, 8, 16, 32], "stem_width": 8})


def write_rectangles(folder: Path, training: int = 8, test: int = 4) -> Index:
    """Write images with one to three rectangles each as an index in ``folder / "index"``.

    The first training image has a difficult rectangle as well; one more has no object at all.
    """
    rng = np.random.default_rng(0)
    images, objects = [], []
    (folder / "images").mkdir(parents=True)
    for number in range(training + test + 1):
        width, height = int(rng.integers(80, 97)), int(rng.integers(64, 81))
        pixels = np.clip(rng.normal(110, 12, (height, width, 3)), 0, 255).astype(np.uint8)
        boxes = [] if number == training + test else places(rng, width, height, 1 + number % 3)
        for order, (x1, y1, x2, y2) in enumerate(boxes):
            class_id = (number + order) % len(COLOURS)
            pixels[y1:y2, x1:x2] = list(COLOURS.values())[class_id]
            objects.append((number, class_id, x1, y1, x2, y2, *[False] * len(FLAGS)))
        path = f"{number}.png"
        Image.fromarray(pixels).save(folder / "images" / path)
        split = "test" if training <= number < training + test else "train"
        images.append((number, path, width, height, split))
    table = pd.DataFrame(objects, columns=["image_id", "class_id", *BOX, *FLAGS])
    extra = table[table["image_id"] == 0].iloc[[0]]
    table = pd.concat([table, extra.assign(x1=0, y1=0, x2=14, y2=12, difficult=True)])
    classes = pd.DataFrame(
        {"class_id": range(3), "name": list(COLOURS), "source_id": "", "superclass": ""}
    )
    columns = ["image_id", "path", "width", "height", "split"]
    rows = pd.DataFrame(images, columns=columns)
    write_index(folder / "index", Index(rows, table, classes, folder / "images"))
    return read_index(folder / "index")


def places(rng: np.random.Generator, width: int, height: int, count: int) -> list[list[int]]:
    """Return so many boxes, sides 16 to 40, at least 3 pixels apart and clear of the corner."""
    found: list[list[int]] = []
    while len(found) < count:
        w, h = (int(side) for side in rng.integers(16, 41, 2))
        x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
        others = [*found, [0, 0, 14, 12]]
        if all(
            x > b[2] + 2 or b[0] > x + w + 2 or y > b[3] + 2 or b[1] > y + h + 2 for b in others
        ):
            found.append([x, y, x + w, y + h])
    return found


def write_start(path: Path, choice: BackboneChoice = TINY) -> Path:
    """Write an untrained backbone to start from."""
    torch.manual_seed(0)
    header = {"architecture": choice.model_dump(mode="json"), "pretraining": "scratch"}
    save_backbone(path, build(choice).state_dict(), header)
    return path


def detection_recipe(features: str = "conv5", **changes: dict[str, Any]) -> DetectionRecipe:
    """Return the recipe of a detector with two scales; ``changes`` replace keys of its parts."""
    parts: dict[str, dict[str, Any]] = {
        "training": {
            "epochs": 1,
            "batch_size": 8,
            "optimizer": "adamw",
            "learning_rate": 0.004,
            "weight_decay": 0.0,
            "schedule": "cosine",
            "clip_norm": 10.0,
            "log_every": 4,
            "channels_last": False,
        },
        "backbone": {"output_stride": 16, "batch_norm": "trained"},
        "chips": {
            "size": 64,
            "stride": [8, 12],
            "minimum_side": 4,
            "scales": [
                {"factor": 1.25, "valid_range": [0, 30]},
                {"long": 64, "valid_range": [24, None]},
            ],
        },
        "rpn": {
            "channels": 16,
            "anchor_sizes": [14, 22, 34],
            "batch_per_chip": 32,
            "border": 8,
            "train_proposals": 32,
        },
        "head": {
            "kind": "faster_rcnn",
            "conv_proj": 16,
            "roi_size": 4,
            "hidden": 48,
            "rois_per_chip": 24,
        },
    }
    merged = {name: {**part, **changes.get(name, {})} for name, part in parts.items()}
    return DetectionRecipe.model_validate({"task": "detection", "features": features, **merged})


def inference_recipe(**changes: Any) -> InferenceRecipe:
    """Return a recipe of inference at the two scales of :func:`detection_recipe`."""
    values: dict[str, Any] = {
        "task": "detection",
        "scales": [
            {"factor": 1.25, "valid_range": [0, 32]},
            {"long": 64, "valid_range": [22, None]},
        ],
        "batch_size": 4,
        "proposals_before": 300,
        "proposals": 40,
        "score_threshold": 0.01,
        "soft_nms_sigma": 0.5,
        "per_image": 20,
        "metric": {"kind": "voc", "ious": [0.3, 0.5, 0.7], "convention": "AP07"},
    }
    return InferenceRecipe.model_validate({**values, **changes})


def write_recipe(path: Path, recipe: Strict) -> Path:
    """Write a recipe as the YAML file that programs read."""
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    return path


def training_words(
    folder: Path, output: str, start: Path, recipe: Path, seed: int = 0
) -> list[str]:
    """Return the command line of train_detector.py over the rectangles in ``folder``."""
    options = {
        "index": folder / "index",
        "splits": "train",
        "start": start,
        "recipe": recipe,
        "seed": seed,
        "state": folder / f"state_{output}",
        "output": folder / output,
    }
    return [f"--{name}={value}" for name, value in options.items()]


def call(script: Path, words: list[str], name: str = "program") -> None:
    """Run a program's ``main`` here, on the processor; ``__main__`` as its name runs it whole."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(sys, "argv", [script.name, *words])
        loaded = runpy.run_path(str(script), run_name=name)
        if name != "__main__":
            loaded["main"]()
