from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from detransfer.backbone import build, mean_colour, save_backbone
from detransfer.batches import Example
from detransfer.console import InputError
from detransfer.data.index import BOX, Index
from detransfer.detection.average_precision import average_precision, match, mean_over_classes
from detransfer.detection.chip_recipe import chip_plan
from detransfer.detection.detections import DETECTION_TYPES
from detransfer.detection.detector import Detector
from detransfer.detection.limits import LARGEST_SIDE, check_scales
from detransfer.detection.predict import (
    GRID,
    batches,
    in_valid_range,
    load_detector,
    predict,
    suppress,
    views,
)
from detransfer.detection.train import ChipDataset, scenes
from detransfer.recipes.detection import ScaleRecipe
from detransfer.recipes.evaluation import InferenceRecipe
from detransfer.study import BackboneChoice
from detransfer.training import Run, train
from tests.detection.rectangles import (
    COLOURS,
    TINY,
    detection_recipe,
    inference_recipe,
    write_rectangles,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return write_rectangles(tmp_path_factory.mktemp("rectangles") / "world")


class ByColour(nn.Module):
    """Stands for a detector: finds pixels of each class's colour, and scores by the view's size.

    A box that covers the view says what view it saw.
    """

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.recipe = build(TINY), detection_recipe()
        self.shapes: list[tuple[int, ...]] = []

    def prepare_inference(self, recipe: InferenceRecipe) -> None:
        self.eval()

    def forward(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> list[dict[str, Tensor]]:
        self.shapes.append(tuple(images.shape))
        assert images.dtype == torch.uint8 and torch.is_inference_mode_enabled()
        return [self.one(image, *size) for image, size in zip(images, sizes, strict=True)]

    def one(self, image: Tensor, height: int, width: int) -> dict[str, Tensor]:
        pad = mean_colour(self.backbone).view(3, 1, 1)
        assert (image[:, height:] == pad).all() and (image[:, :, width:] == pad).all()
        boxes, labels = [], []
        for label, colour in enumerate(COLOURS.values()):
            far = (image.int() - torch.tensor(colour).view(3, 1, 1)).abs().amax(0)
            ys, xs = torch.nonzero(far < 40, as_tuple=True)
            if len(xs) > 20:
                corners = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
                boxes.append([float(v) for v in corners])
                labels.append(label)
        return {
            "boxes": torch.tensor(boxes).reshape(-1, 4),
            "scores": torch.full((len(boxes),), max(height, width) / 1000),
            "labels": torch.tensor(labels, dtype=torch.int64),
        }


def at_scales(*scales: dict[str, Any], **changes: Any) -> InferenceRecipe:
    return inference_recipe(scales=list(scales), **changes)


@pytest.mark.parametrize(
    "scale", [{"factor": 1.25}, {"long": 64}, {"factor": 2.0}, {"short": 70, "long": 80}]
)
def test_boxes_come_back_in_original_pixels(index: Index, scale: dict[str, Any]) -> None:
    detector: Any = ByColour()
    found = predict(detector, index, at_scales(scale), CPU, 0)
    objects = index.objects[~index.objects["difficult"]]
    both = objects.merge(found, on=["image_id", "class_id"], suffixes=("", "_found"))
    assert len(both) == len(objects) == len(found)
    apart = both[BOX].to_numpy() - both[[f"{name}_found" for name in BOX]].to_numpy()
    assert np.abs(apart).max() < 2.1  # a pixel of the view, blurred by the resize
    assert np.abs(apart.mean(0)).max() < 0.6
    assert found.dtypes.astype(str).to_dict() == DETECTION_TYPES
    assert found["image_id"].is_monotonic_increasing
    assert not (found["image_id"] == 12).any()  # it shows nothing, so it has no row


class WholeView(ByColour):
    """Finds one object as large as the view."""

    def one(self, image: Tensor, height: int, width: int) -> dict[str, Tensor]:
        boxes, score = torch.tensor([[0.0, 0.0, width, height]]), torch.tensor([0.5])
        return {"boxes": boxes, "scores": score, "labels": torch.tensor([2])}


def test_each_axis_is_scaled_back_by_what_it_was_resized_by(index: Index, tmp_path: Path) -> None:
    """Rounding to whole pixels makes the two factors differ: 300 / 64 and 10 / 2 here."""
    Image.new("RGB", (300, 10)).save(tmp_path / "flat.png")
    images = index.images.head(1).assign(path="flat.png", width=300, height=10)
    flat = Index(images, index.objects.head(0), index.classes, tmp_path)
    found = predict(cast(Detector, WholeView()), flat, at_scales({"long": 64}), CPU, 0)
    assert found[BOX].to_numpy().tolist() == [[0, 0, 300, 10]]


def test_an_image_that_a_scale_makes_too_large_is_named_before_the_first(index: Index) -> None:
    width, name = int(index.images["width"].max()), index.images["path"].iloc[7]
    images = index.images.assign(width=width, height=width)
    images.loc[7, "height"] = 2 * width
    detector: Any = ByColour()
    factor = LARGEST_SIDE / (2 * width)
    scales = at_scales({"factor": 1.0}, {"factor": factor + 0.01})
    pattern = rf"{name}: {width} x {2 * width} pixels .* at scales\[1\], more than 8000; give that"
    with pytest.raises(InputError, match=pattern):
        predict(detector, replace(index, images=images), scales, CPU, 0)
    assert not detector.shapes
    check_scales(index, at_scales({"factor": factor}).scales)


def test_images_are_resized_by_the_rule_and_padded_to_the_grid(index: Index) -> None:
    detector: Any = ByColour()
    recipe = at_scales({"factor": 1.25}, {"long": 64}, batch_size=3)
    found = predict(detector, index, recipe, CPU, 0)
    width, height = (int(index.images[side].iloc[0]) for side in ("width", "height"))
    finest = found[found["image_id"] == 0]["score"].max()
    assert finest == pytest.approx(round(width * 1.25) / 1000)
    assert all(h % GRID == 0 and w % GRID == 0 and n <= 3 for n, _, h, w in detector.shapes)
    assert {shape[2:] for shape in detector.shapes} <= {(64, 64), (64, 32), (96, 128), (128, 128)}
    chosen = views(index, range(13), recipe.scales)
    assert [(view.row, view.scale) for view in chosen] == [
        (r, s) for r in range(13) for s in (0, 1)
    ]
    assert chosen[0].size == (round(height * 1.25), round(width * 1.25))
    assert chosen[1].size == (round(height * 64 / width), 64)
    grouped = batches(chosen, 3)
    assert sorted((v.row, v.scale) for g in grouped for v in g) == [
        (v.row, v.scale) for v in chosen
    ]
    assert all(len({view.padded for view in group}) == 1 for group in grouped)


def test_a_scale_keeps_the_sizes_it_is_good_for(index: Index) -> None:
    """By the size in original pixels; 0.4 is far from the edges of what a view moves."""
    recipe = at_scales(
        {"factor": 1.5, "valid_range": [0, 28.4]},
        {"long": 64, "valid_range": [28.4, None]},
    )
    detector: Any = ByColour()
    found = predict(detector, index, recipe, CPU, 0)
    size = np.sqrt((found["x2"] - found["x1"]) * (found["y2"] - found["y1"]))
    coarse = np.isclose(found["score"], 0.064)
    assert coarse.any() and (~coarse).any()
    assert (size[coarse] > 28.4).all() and (size[~coarse] <= 28.4).all()


def test_a_valid_range_excludes_its_lower_end_and_includes_its_upper() -> None:
    boxes = torch.tensor([[0, 0, 5, 5], [0, 0, 10, 10], [3, 3, 23, 23], [0, 0, 21, 21.0]])
    scale = ScaleRecipe(factor=1.0, valid_range=(10, 20))
    assert in_valid_range(boxes, scale).tolist() == [False, False, True, False]
    low, high = (ScaleRecipe(factor=1.0, valid_range=r) for r in ((0, 10), (20, None)))
    assert in_valid_range(boxes, low).tolist() == [True, True, False, False]
    assert in_valid_range(boxes, high).tolist() == [False, False, False, True]


def slow_soft_nms(found: list[list[float]], sigma: float, floor: float) -> list[tuple[float, ...]]:
    """Soft-NMS from its definition, class by class: boxes, decayed score, class, by score."""
    kept: list[tuple[float, ...]] = []
    for class_id in sorted({row[5] for row in found}):
        waiting = [list(row) for row in found if row[5] == class_id]
        while waiting:
            best = max(waiting, key=lambda row: row[4])
            waiting.remove(best)
            if best[4] < floor:
                break
            kept.append(tuple(best))
            for row in waiting:
                w = min(row[2], best[2]) - max(row[0], best[0])
                h = min(row[3], best[3]) - max(row[1], best[1])
                both = max(w, 0) * max(h, 0)
                total = sum((r[2] - r[0]) * (r[3] - r[1]) for r in (row, best))
                row[4] *= math.exp(-((both / (total - both)) ** 2) / sigma)
    return sorted(kept, key=lambda row: -row[4])


@pytest.mark.parametrize("count", [0, 1, 60, 400])
@pytest.mark.parametrize("sigma", [0.1, 0.55])
def test_each_class_suppresses_itself_softly(count: int, sigma: float) -> None:
    draw = torch.rand(count, 6, generator=torch.Generator().manual_seed(count))
    corner = draw[:, :2] * 60
    boxes = torch.cat([corner, corner + 10 + draw[:, 2:4] * 20], 1)
    found = torch.cat([boxes, draw[:, 4:5], (draw[:, 5:] * 3).floor()], 1)
    wanted = slow_soft_nms(found.tolist(), sigma, 0.05)
    recipe = inference_recipe(soft_nms_sigma=sigma, score_threshold=0.05, per_image=10**6)
    given = suppress(found, recipe).tolist()
    assert len(given) == len(wanted)
    assert np.allclose(np.reshape(given, (-1, 6)), np.reshape(wanted, (-1, 6)), atol=1e-6)
    if count > 1:
        assert {row[4] for row in given} - set(found[:, 4].tolist())  # scores did fall
    best = suppress(found, recipe.model_copy(update={"per_image": 7})).tolist()
    assert best == given[:7]


def test_equal_scores_go_to_the_earlier_row() -> None:
    boxes = torch.tensor([[0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 10, 10], [80, 0, 90, 9.0]])
    found = torch.cat([boxes, torch.full((4, 1), 0.5), torch.tensor([[1.0], [0], [1], [0]])], 1)
    given = suppress(found, inference_recipe(soft_nms_sigma=0.5, score_threshold=0.1))
    assert given[:3, :4].tolist() == boxes[[0, 1, 3]].tolist()
    assert given[:, 4].tolist() == pytest.approx([0.5] * 3)  # the copy fell to 0.5 exp(-2)
    kept = suppress(found, inference_recipe(soft_nms_sigma=0.5, score_threshold=0.05))
    assert kept[3].tolist() == pytest.approx([0, 0, 10, 10, 0.5 * math.exp(-2), 1])


def test_scales_are_put_together_before_suppression(index: Index) -> None:
    twice = at_scales({"factor": 1.25}, {"factor": 2.0}, soft_nms_sigma=0.1)
    apart = at_scales({"factor": 1.25}, {"factor": 2.0}, soft_nms_sigma=1e9)
    detector: Any = ByColour()
    count = int((~index.objects["difficult"]).sum())
    found = predict(detector, index, twice, CPU, 0)
    assert len(found) == count
    width = index.images.set_index("image_id").loc[found["image_id"], "width"].to_numpy()
    assert np.allclose(found["score"], width * 2 / 1000)
    both = predict(detector, index, apart, CPU, 0)
    assert len(both) == 2 * count
    falling = both.groupby("image_id")["score"].apply(lambda s: s.is_monotonic_decreasing)
    assert falling.all()


def test_an_image_keeps_its_best_only(index: Index) -> None:
    detector: Any = ByColour()
    recipe = at_scales({"factor": 1.25}, {"factor": 2.0}, soft_nms_sigma=0.1, per_image=2)
    counts = predict(detector, index, recipe, CPU, 0)["image_id"].value_counts()
    wanted = index.objects[~index.objects["difficult"]]["image_id"].value_counts().clip(upper=2)
    assert counts.sort_index().tolist() == wanted.sort_index().tolist()


def test_chunks_change_nothing(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    detector: Any = ByColour()
    whole = predict(detector, index, inference_recipe(), CPU, 0)
    monkeypatch.setattr("detransfer.detection.predict.CHUNK", 5)
    pd.testing.assert_frame_equal(predict(detector, index, inference_recipe(), CPU, 0), whole)


def test_nothing_found_is_an_empty_table(index: Index) -> None:
    detector: Any = ByColour()
    empty = Index(index.images.tail(1), index.objects.head(0), index.classes, index.root)
    found = predict(detector, empty, inference_recipe(), CPU, 0)
    assert found.empty and found.dtypes.astype(str).to_dict() == DETECTION_TYPES


# A real detector, trained on eight images

WIDER = BackboneChoice(name="resnet10t", arguments={"channels": [8, 16, 32, 64], "stem_width": 8})


@pytest.fixture(scope="module")
def trained(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Detector:
    recipe = detection_recipe(
        training={"epochs": 60, "learning_rate": 0.006, "log_every": 50}, head={"roi_size": 7}
    )
    torch.manual_seed(0)
    backbone = build(WIDER, 0, 16)
    images, pad = scenes(index.split("train")), mean_colour(backbone)
    assert len(images) == 8
    detector = Detector(backbone, 3, recipe)

    def epoch(number: int) -> Dataset[Example]:
        return ChipDataset(images, chip_plan(recipe.chips), pad, 0, number)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run = Run(tmp_path_factory.mktemp("state"), 0, CPU)
    train(detector, epoch, recipe.training, run)
    torch.set_num_threads(threads)
    return detector


@pytest.mark.slow
def test_a_tiny_detector_learns_eight_images_by_heart(trained: Detector, index: Index) -> None:
    part = index.split("train")
    found = predict(trained, part, inference_recipe(), CPU, 0)
    result = average_precision(match(part.objects, found, 3), (0.5,))
    assert mean_over_classes(result.ap10)[0] > 0.8
    moved = found.assign(**{name: found[name] + 25 for name in BOX})
    assert mean_over_classes(average_precision(match(part.objects, moved, 3), (0.5,)).ap10)[0] < 0.2


@pytest.mark.slow
def test_batches_and_other_images_change_nothing(trained: Detector, index: Index) -> None:
    whole = predict(trained, index, inference_recipe(batch_size=4), CPU, 0)
    assert whole["image_id"].nunique() > 8
    strong = whole[whole["score"] > 0.05].reset_index(drop=True)
    others = [predict(trained, index, inference_recipe(batch_size=n), CPU, 0) for n in (1, 9)]
    alone = []
    for row in range(len(index.images)):
        one = replace(index, images=index.images.iloc[[row]].reset_index(drop=True))
        alone.append(predict(trained, one, inference_recipe(), CPU, 0))
    others.append(pd.concat(alone))
    for found in others:
        found = found[found["score"] > 0.05].reset_index(drop=True)
        assert found[["image_id", "class_id"]].equals(strong[["image_id", "class_id"]])
        assert np.allclose(found[["score", *BOX]], strong[["score", *BOX]], atol=1e-4, rtol=1e-5)


def write_model(path: Path, detector: Detector, **changes: Any) -> Path:
    header = {
        "architecture": TINY.model_dump(mode="json"),
        "recipe": detector.recipe.model_dump(mode="json"),
        "classes": list(COLOURS),
        "task": "detection",
    }
    save_backbone(path, detector.state_dict(), {**header, **changes})
    return path


def untrained() -> Detector:
    torch.manual_seed(3)
    return Detector(build(TINY, 0, 16), 3, detection_recipe())


def test_a_detector_is_rebuilt_from_its_file_alone(tmp_path: Path, index: Index) -> None:
    detector = untrained()
    again, classes = load_detector(write_model(tmp_path / "model.safetensors", detector))
    assert classes == list(COLOURS) and again.recipe == detector.recipe
    recipe = inference_recipe(score_threshold=0.0)
    part = index.split("test")
    pd.testing.assert_frame_equal(
        predict(again, part, recipe, CPU, 0), predict(detector, part, recipe, CPU, 0)
    )


def test_files_that_are_no_detector_are_refused(tmp_path: Path) -> None:
    detector = untrained()
    other = write_model(tmp_path / "other.safetensors", detector, classes=["red"])
    with pytest.raises(InputError, match=r"other\.safetensors: its parameters are not those"):
        load_detector(other)
    backbone = tmp_path / "backbone.safetensors"
    save_backbone(backbone, detector.backbone.state_dict(), {"architecture": {"name": "resnet18"}})
    with pytest.raises(InputError, match=r"backbone\.safetensors: .*recipe"):
        load_detector(backbone)
    wrong = write_model(tmp_path / "wrong.safetensors", detector, recipe={"task": "classification"})
    with pytest.raises(InputError, match=r"wrong\.safetensors: recipe in the header"):
        load_detector(wrong)
