"""Matched classification: which classes a chip shows, and the loss on them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from detransfer.backbone import build, conv5, read_weights
from detransfer.data.index import read_index
from detransfer.detection.labels import PRIOR, LabelClassifier, presence
from detransfer.detection.rpn import IGNORED
from tests.detection.rectangles import (
    COLOURS,
    TINY,
    call,
    detection_recipe,
    training_words,
    write_recipe,
    write_rectangles,
    write_start,
)
from tests.detection.targets import target

BOX = [8, 8, 30, 30]


def test_a_class_is_present_absent_or_unknown() -> None:
    chips = [
        # class 1 valid and invalid: present; class 3 invalid alone: unknown; class 2 absent
        target([BOX] * 3, [1, 1, 3], [True, False, False]),
        # class 3 difficult alone: unknown; class 2 difficult and valid: present
        target([BOX] * 3, [IGNORED, IGNORED, 2], [False, True, True], classes=[3, 2, 2]),
        target([]),
    ]
    present, known = presence(chips, 3)
    assert present.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert known.tolist() == [[1, 1, 0], [1, 1, 0], [1, 1, 1]]


def test_the_loss_is_cross_entropy_summed_over_known_classes() -> None:
    torch.manual_seed(0)
    model = LabelClassifier(build(TINY, 0, 16), 3, detection_recipe()).eval()
    torch.nn.init.normal_(model.classifier.weight)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    chips = [target([BOX] * 2, [1, 3], [True, False]), target([BOX], [2])]
    with torch.no_grad():
        loss = float(model(images, chips)["loss_labels"])
        pooled = conv5(model.backbone, images).mean((2, 3))
        rows = (pooled @ model.classifier.weight.T + model.classifier.bias).tolist()
    total = 0.0
    for row, truth in zip(rows, ([1, 0, None], [0, 1, 0]), strict=True):
        for logit, present in zip(row, truth, strict=True):
            if present is not None:
                share = 1 / (1 + math.exp(-logit))
                total -= math.log(share if present else 1 - share)
    assert loss == pytest.approx(total / 2, rel=1e-5)


def test_every_class_begins_unlikely() -> None:
    model = LabelClassifier(build(TINY, 0, 16), 50, detection_recipe())
    assert torch.sigmoid(model.classifier.bias).tolist() == pytest.approx([PRIOR] * 50)


def test_the_program_trains_on_the_chips_of_a_detector(repository: Path, tmp_path: Path) -> None:
    """The same number of steps, and the losses fall; the model can be exported."""
    folder = tmp_path / "world"
    write_rectangles(folder)
    start = write_start(folder / "backbone.safetensors")
    recipe = detection_recipe(training={"epochs": 12, "learning_rate": 0.01, "log_every": 2})
    path = write_recipe(folder / "recipe.yaml", recipe)
    for program, output in (("train_labels", "labels"), ("train_detector", "detector")):
        call(repository / f"scripts/{program}.py", training_words(folder, output, start, path))
    state, header = read_weights(folder / "labels" / "model.safetensors")
    assert (header["task"], header["classes"]) == ("labels", list(COLOURS))
    assert header["data_digest"] == read_index(folder / "index").split("train").digest()
    assert {name.split(".")[0] for name in state} == {"backbone", "classifier"}
    logs = [
        next(folder.glob(f"state_{name}/*/log.csv")).read_text().splitlines()
        for name in ("labels", "detector")
    ]
    steps = [[line.split(",")[:2] for line in log[1:]] for log in logs]
    assert steps[0] == steps[1]
    column = logs[0][0].split(",").index("loss_labels")
    losses = [float(line.split(",")[column]) for line in logs[0][1:]]
    assert losses[-1] < 0.7 * losses[0]
