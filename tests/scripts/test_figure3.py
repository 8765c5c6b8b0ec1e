from __future__ import annotations

import runpy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from detransfer.console import InputError
from detransfer.data.index import Index, write_index
from detransfer.data.masks import VOID, read_mask
from detransfer.report.metrics import Metric, RunMetrics, RunName, write_metrics
from detransfer.segmentation.by_distance import CELL_TYPES, Confusion, write_confusion
from detransfer.segmentation.confusion import confusion
from detransfer.segmentation.predictions import write_predictions
from detransfer.segmentation.trimap import confusion_by_distance
from tests.segmentation.scenes import CLASSES, write_scenes

IMAGES = 9
# How much of each image's objects a run finds, in percent: by image, for either run.
FOUND = {"cls": [50] * IMAGES, "coco": [95, 10, 55, 60, 90, 50, 40, 85, 52]}


@pytest.fixture(scope="module")
def program(repository: Path) -> dict[str, Any]:
    return runpy.run_path(str(repository / "scripts" / "figure3.py"))


class World:
    """Two runs that find a part of each object, from the left of the image on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = write_scenes(folder / "scenes", 1, IMAGES).split("test")
        write_index(folder / "index", self.index)
        self.scores = {name: self.write_run(name, found) for name, found in FOUND.items()}

    def write_run(self, name: str, found: list[int]) -> list[float]:
        """Write a run's files; return the mean IoU of each image, in percent, by definition."""
        masks, cells, scores = {}, [], []
        images = self.index.images
        for image_id, path, percent in zip(images["image_id"], images["mask"], found, strict=True):
            truth = read_mask(self.index.root / path, 3)
            filled = np.where(truth == VOID, 0, truth)
            objects = np.argwhere(filled > 0)
            objects = objects[np.argsort(objects[:, 1], kind="stable")]
            lost = objects[round(len(objects) * percent / 100) :]
            filled[lost[:, 0], lost[:, 1]] = 0
            masks[image_id] = filled
            counts = confusion_by_distance(truth, filled, 4)
            places = np.nonzero(counts)
            distance, *labels = places
            ids = np.full(len(distance), image_id)
            cells.append(np.stack([ids, distance + 1, *labels, counts[places]], 1))
            scores.append(self.iou(confusion(truth, filled, 4)))
        folder = self.folder / name
        write_predictions(folder / "predictions.zip", masks.items())
        table = pd.DataFrame(np.concatenate(cells), columns=list(CELL_TYPES))
        kept = Confusion(images["image_id"].to_numpy(np.int32), CLASSES, table)
        write_confusion(folder / "confusion.parquet", kept)
        run_name = RunName("segmentation", "blocks", "scenes", name, 0)
        metrics = (Metric("mIoU", 50.0, "%", IMAGES),)
        write_metrics(
            folder / "metrics.json", RunMetrics(run_name, metrics, {}, {"recipe": "r"}, {})
        )
        return scores

    @staticmethod
    def iou(matrix: np.ndarray) -> float:
        values = [
            100 * matrix[c, c] / (matrix[c].sum() + matrix[:, c].sum() - matrix[c, c])
            for c in range(len(matrix))
            if matrix[c].sum()
        ]
        return float(np.mean(values))

    def start(
        self, program: dict[str, Any], monkeypatch: pytest.MonkeyPatch, folder: Path, index: Path
    ) -> pd.DataFrame:
        files = {kind: folder / f"figure3.{kind}" for kind in ("csv", "pdf", "png")}
        pair = ["--pair", str(self.folder / "coco"), str(self.folder / "cls"), str(index), "test"]
        options = [f"--{kind}={path}" for kind, path in files.items()]
        monkeypatch.setattr(sys, "argv", ["figure3.py", *pair, *options])
        program["main"]()
        return pd.read_csv(files["csv"])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("runs"))


def test_images_are_chosen_by_rule(
    program: dict[str, Any], world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = world.start(program, monkeypatch, tmp_path, world.folder / "index")
    gains = np.array(world.scores["coco"]) - np.array(world.scores["cls"])
    ids = world.index.images["image_id"].to_numpy()
    assert table["chosen_as"].tolist() == (["largest gain"] * 3 + ["largest loss"] + ["random"] * 2)
    assert table["image_id"].tolist()[:3] == ids[np.argsort(-gains)[:3]].tolist()
    assert table["image_id"].iloc[3] == ids[gains.argmin()]
    assert table["image_id"].is_unique and (table["candidates"] == IMAGES).all()
    row = table.iloc[0]
    assert row["gain"] == pytest.approx(gains.max(), rel=1e-4)
    assert row["iou"] - row["baseline_iou"] == pytest.approx(row["gain"], abs=1e-3)
    assert (row["target"], row["run"], row["baseline"], row["seed"]) == ("blocks", "coco", "cls", 0)
    again = world.start(program, monkeypatch, tmp_path, world.folder / "index")
    pd.testing.assert_frame_equal(table, again)


def test_equal_runs_give_equal_files(
    program: dict[str, Any], world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        world.start(program, monkeypatch, tmp_path / name, world.folder / "index")
    for kind in ("csv", "pdf", "png"):
        first, second = (tmp_path / name / f"figure3.{kind}" for name in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()
    with Image.open(tmp_path / "a" / "figure3.png") as image:
        assert abs(image.width / 300 - 6.8) < 0.02  # inches: a page
        assert np.array(image.convert("L")).std() > 5


def example(program: dict[str, Any]) -> Any:
    """Two by three pixels: both right, only the run, only the baseline / neither, void, neither."""
    truth = np.array([[1, 1, 1], [1, VOID, 0]], np.uint8)
    baseline = np.array([[1, 0, 1], [2, 1, 2]], np.uint8)
    own = np.array([[1, 1, 0], [0, 1, 1]], np.uint8)
    return program["Example"](np.zeros((2, 3, 3)), truth, baseline, own)


def test_the_difference_says_who_is_right(program: dict[str, Any]) -> None:
    drawn = program["difference"](example(program))
    wanted = [["LIGHT", "ONLY_RUN", "ONLY_BASELINE"], ["DARK", "WHITE", "DARK"]]
    for place in np.ndindex(2, 3):
        assert tuple(drawn[place]) == program[wanted[place[0]][place[1]]]


def test_frequent_classes_have_colours_of_their_own(program: dict[str, Any]) -> None:
    colours = program["class_colours"]([example(program)])
    assert list(colours) == [1, 2]  # neither background nor void; the most frequent first
    of_difference = {program[name] for name in ("ONLY_RUN", "ONLY_BASELINE", "DARK", "LIGHT")}
    assert not set(colours.values()) & of_difference and len(set(colours.values())) == 2
    masks = np.arange(1, 21, dtype=np.uint8).reshape(4, 5)
    many = program["class_colours"]([program["Example"](np.zeros((4, 5, 3)), masks, masks, masks)])
    assert len(many) == 20 and list(many.values()).count(program["DARK"]) == 20 - 7


def test_masks_are_painted_over_the_image(program: dict[str, Any]) -> None:
    image = np.full((1, 3, 3), 0.5)
    mask = np.array([[0, 1, VOID]], np.uint8)
    drawn = program["painted"](image, mask, {1: (1.0, 0.0, 0.0)})
    assert tuple(drawn[0, 2]) == (1, 1, 1)
    assert len(set(drawn[0, 0])) == 1 and drawn[0, 1, 0] > 0.8 > 0.2 > drawn[0, 1, 1]


def test_runs_on_other_images_are_refused(
    program: dict[str, Any], world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = world.index.images
    fewer: Index = replace(world.index, images=images.head(5))
    write_index(tmp_path / "index", fewer)
    with pytest.raises(InputError, match="was evaluated on other images than the index has"):
        world.start(program, monkeypatch, tmp_path, tmp_path / "index")
