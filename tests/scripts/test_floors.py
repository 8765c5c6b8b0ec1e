"""Answers without a network: the truth reaches 100, the others what one works out by hand."""

from __future__ import annotations

import argparse
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from detransfer.data.index import BOX, OBJECT_TYPES, Index
from detransfer.data.masks import VOID
from detransfer.recipes.detection import ScaleRecipe


@pytest.fixture(scope="module")
def program(repository: Path) -> dict[str, Any]:
    return runpy.run_path(str(repository / "scripts" / "floors.py"), run_name="program")


def index(boxes: list[tuple[int, int, list[float]]], images: int = 4) -> Index:
    """Return images of 100 x 80 pixels with (image, class, box) objects of two classes."""
    table = pd.DataFrame(
        {"image_id": range(images), "path": "a", "width": 100, "height": 80, "split": "test"}
    )
    flags = {name: False for name, kind in OBJECT_TYPES.items() if kind == "bool"}
    objects = pd.DataFrame([box for _, _, box in boxes], columns=BOX).assign(
        image_id=[image for image, _, _ in boxes], class_id=[c for _, c, _ in boxes], **flags
    )
    classes = pd.DataFrame({"class_id": [0, 1], "name": ["a", "b"]})
    classes = classes.assign(source_id="", superclass="")
    return Index(table, objects.astype(OBJECT_TYPES), classes, Path())


CENTRAL = [30.0, 20.0, 70.0, 60.0]
CORNER = [0.0, 0.0, 20.0, 20.0]


def values(program: dict[str, Any], test: Index, detections: pd.DataFrame) -> list[float]:
    return list(program["voc_map"](test, detections).values())


def test_the_mean_box_finds_what_lies_where_it_does(program: dict[str, Any]) -> None:
    central = index([(image, 0, CENTRAL) for image in range(4)])
    guess = program["centred_boxes"](central, central)
    assert len(guess) == 4 and (guess["score"] == 1).all()
    np.testing.assert_allclose(guess[BOX].to_numpy(), [CENTRAL] * 4)
    assert values(program, central, guess) == [100, 100, 100]
    corners = index([(image, 0, CORNER) for image in range(4)])
    assert values(program, corners, program["centred_boxes"](central, corners)) == [0, 0, 0]


def test_the_truth_is_right_and_that_of_other_images_is_not(program: dict[str, Any]) -> None:
    some = index([(0, 0, CENTRAL), (1, 1, CORNER), (2, 0, CORNER), (3, 1, CENTRAL)])
    truth = some.objects.assign(score=1.0)
    assert values(program, some, truth) == [100, 100, 100]
    others = program["other_images"](some, truth)
    assert values(program, some, others) == [0, 0, 0]
    assert sorted(others["image_id"]) == [0, 1, 2, 3]


def test_objects_in_the_range_of_some_scale(program: dict[str, Any]) -> None:
    some = index([(0, 0, CENTRAL), (1, 1, CORNER)])  # of sizes 40 and 20
    small = ScaleRecipe(factor=1.0, valid_range=(0, 30))
    large = ScaleRecipe(factor=1.0, valid_range=(35, None))
    assert program["reachable"](some, (small,)) == 0.5
    assert program["reachable"](some, (small, large)) == 1.0


def test_a_disc_of_a_share_of_the_image(program: dict[str, Any]) -> None:
    mask = program["disc"](np.zeros((80, 100), np.uint8), 0.2, 3)
    assert (mask == 3).mean() == pytest.approx(0.2, abs=0.003)
    assert mask[40, 50] == 3 and mask[0, 0] == 0
    assert (mask == mask[::-1]).all() and (mask == mask[:, ::-1]).all()


def test_void_is_answered_by_background(program: dict[str, Any]) -> None:
    known = program["known"](np.array([[VOID, 2], [0, VOID]], np.uint8))
    assert known.tolist() == [[0, 2], [0, 0]]


def test_the_true_mask_covers_the_objects_and_another_does_not(program: dict[str, Any]) -> None:
    truth = np.zeros((10, 10), np.uint8)
    truth[2:6, 2:6], truth[0] = 3, VOID
    assert program["cover"](program["known"](truth), truth) == (1, 1)
    moved = np.roll(truth, 2, axis=1)  # half of the 16 pixels are right, of 24 in both
    assert program["cover"](np.where(moved == 3, 3, 0), truth) == (0.5, 8 / 24)
    assert np.isnan(program["cover"](truth, np.zeros_like(truth))).all()


def test_no_object_of_the_truth_is_missed(program: dict[str, Any]) -> None:
    some = index([(0, 0, CENTRAL), (1, 1, CORNER), (2, 0, CORNER), (3, 1, CENTRAL)])
    some.objects.loc[0, "difficult"] = True  # which counts for nothing
    truth = some.objects.assign(score=1.0)
    assert program["missed_share"](some, truth) == 0
    assert program["missed_share"](some, truth.iloc[:2]) == pytest.approx(200 / 3)


RECIPES = {"voc": "voc_detection", "coco": "coco_detection"}


@pytest.mark.parametrize(
    ("metric", "names", "floors"),
    [("voc", ["COCO's AP@0.5", "COCO's AP@0.75", "mAP@0.5", "mAP@0.7", "mAP@0.9"], 6),
     ("coco", ["COCO's AP@0.5", "COCO's AP@0.75"], 4)],
)  # fmt: skip
def test_a_detector_is_held_against_answers_by_its_own_metric(
    program: dict[str, Any], repository: Path, metric: str, names: list[str], floors: int
) -> None:
    some = index([(0, 0, CENTRAL), (1, 1, CORNER), (2, 0, CENTRAL), (3, 1, CENTRAL)])
    some.objects.loc[len(some.objects)] = {**some.objects.loc[0], "crowd": True, "image_id": 3}
    recipes = repository / "config" / "recipes" / "demo"
    arguments = argparse.Namespace(
        target="t",
        evaluate=recipes / f"evaluate_{RECIPES[metric]}.yaml",
        finetune=recipes / f"finetune_{RECIPES[metric]}.yaml",
    )
    rows = pd.DataFrame(program["detection"](some, some, arguments))
    oracle = rows[rows["control"] == "oracle"]
    missed = ["missed share of objects"] if metric == "voc" else []
    assert oracle["quantity"].tolist() == names + missed and (oracle["holds"] == "yes").all()
    beside = rows[rows["control"] == "floors"]
    assert len(beside) == floors and (beside["value"] < 100).all()
    own = "mAP@0.5 of a" if metric == "voc" else "COCO's AP@0.5 of a mean"
    assert beside["quantity"].iloc[0].startswith(own)


def test_an_oracle_that_errs_fails(program: dict[str, Any]) -> None:
    assert program["oracle"]("voc", "mAP", 100.0)["holds"] == "yes"
    assert program["oracle"]("voc", "mAP", 99.999)["holds"] == "no"
