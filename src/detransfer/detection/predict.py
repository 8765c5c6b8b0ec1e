"""Inference at several scales: detect at each, keep what suits the scale, suppress together.

Follows the authors' inference (``lib/inference.py``): a scale's detections are kept by their size
in the original image, those of all scales are put together, and each class suppresses itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as transform

from detransfer.backbone import build, mean_colour, read_weights
from detransfer.console import InputError
from detransfer.data.decoding import decode
from detransfer.data.index import BOX, Index
from detransfer.detection.chip_recipe import chip_scale
from detransfer.detection.detections import DETECTION_TYPES, empty_detections
from detransfer.detection.detector import Detector
from detransfer.detection.limits import CHUNK, GRID, check_memory, check_scales
from detransfer.detection.suppression import soft_nms
from detransfer.ranks import in_turn, own
from detransfer.recipes.detection import DetectionRecipe, ScaleRecipe
from detransfer.recipes.evaluation import InferenceRecipe
from detransfer.strict import validate
from detransfer.training_run import architecture_of


@dataclass(frozen=True)
class View:
    """One image at one scale: its row in the index, the resized height and width."""

    row: int
    scale: int
    size: tuple[int, int]

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width after padding, multiples of GRID."""
        height, width = (math.ceil(side / GRID) * GRID for side in self.size)
        return height, width


def load_detector(path: Path, architecture: Path | None = None) -> tuple[Detector, list[str]]:
    """Rebuild a detector from its model file; return it with the names of its classes.

    ``architecture`` is the file that defines its backbone, where timm does not. Raises InputError
    when the file is not a detector of this project or does not fit its header.
    """
    state, header = read_weights(path)
    recipe = validate(DetectionRecipe, header.get("recipe", {}), f"{path}: recipe in the header")
    network, choice = recipe.backbone, architecture_of(header, path, architecture)
    backbone = build(choice, 0, network.output_stride, network.deformable_groups)
    detector = Detector(backbone, len(header["classes"]), recipe)
    try:
        detector.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(
            f"{path}: its parameters are not those of its header, so it is damaged or of another "
            f"version; train it again ({error})"
        ) from error
    return detector, header["classes"]


def predict(
    detector: Detector, index: Index, recipe: InferenceRecipe, device: torch.device, workers: int
) -> pd.DataFrame:
    """Return the detections of every image of the index, by image and falling score.

    Several processes share the chunks of images; each gets the table that one alone would make.
    Raises InputError, before the first image, where :func:`check_scales` or :func:`check_memory`
    does.
    """
    check_scales(index, recipe.scales)
    check_memory(index, recipe, detector, device)
    detector.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    detector.prepare_inference(recipe)

    def in_chunk(rows: range) -> pd.DataFrame:
        found: dict[int, list[Tensor]] = {row: [] for row in rows}
        chosen = views(index, rows, recipe.scales)
        for view, result in run_views(detector, index, chosen, recipe.batch_size, device, workers):
            boxes = result["boxes"]
            kept = in_valid_range(boxes, recipe.scales[view.scale])
            columns = [boxes, result["scores"][:, None], result["labels"][:, None].to(boxes.dtype)]
            found[view.row].append(torch.cat(columns, 1)[kept])
        tables = [empty_detections()]
        for row, scales in found.items():
            image_id = index.images["image_id"].iloc[row]
            tables.append(_table(int(image_id), suppress(torch.cat(scales), recipe)))
        return pd.concat(tables, ignore_index=True)

    parts = chunks(index)
    tables = in_turn(map(in_chunk, own(parts)), len(parts))
    every = pd.concat([empty_detections(), *tables], ignore_index=True)
    return every.astype(DETECTION_TYPES)


def chunks(index: Index) -> list[range]:
    """Return the rows of an index's images in parts that are held in memory at once."""
    size = len(index.images)
    return [range(start, min(start + CHUNK, size)) for start in range(0, size, CHUNK)]


def in_valid_range(boxes: Tensor, scale: ScaleRecipe) -> Tensor:
    """Return which boxes (m, 4), in original pixels, have lowest < sqrt(area) <= highest.

    As in the authors' inference (``lib/inference.py``); in training it is the other border that
    belongs to a range (:func:`detransfer.detection.rpn.in_range`).
    """
    low, high = scale.valid_range
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp(min=0).sqrt()
    return (side > low) & (side <= (math.inf if high is None else high))


def suppress(found: Tensor, recipe: InferenceRecipe) -> Tensor:
    """Suppress within each class and keep the best of an image; (m, 6) box, score, class."""
    values = found.numpy()
    rows, scores = soft_nms(
        values[:, :4],
        values[:, 4],
        values[:, 5],
        recipe.soft_nms_sigma,
        recipe.score_threshold,
        recipe.per_image,
    )
    kept = found[torch.from_numpy(rows)]
    kept[:, 4] = torch.from_numpy(scores)
    return kept


def views(index: Index, rows: range, scales: tuple[ScaleRecipe, ...]) -> list[View]:
    """Return every image of ``rows`` at every scale, in the order of the images."""
    result = []
    for row in rows:
        width, height = (int(index.images[side].iloc[row]) for side in ("width", "height"))
        for number, scale in enumerate(scales):
            factor = chip_scale(scale).resize_factor(width, height)
            size = (max(1, round(height * factor)), max(1, round(width * factor)))
            result.append(View(row, number, size))
    return result


def batches(chosen: list[View], size: int) -> list[list[View]]:
    """Group views by padded shape into batches of at most ``size``."""
    groups: dict[tuple[int, int], list[View]] = {}
    for view in chosen:
        groups.setdefault(view.padded, []).append(view)
    return [group[i : i + size] for group in groups.values() for i in range(0, len(group), size)]


class _Batches(Dataset[tuple[Tensor, list[View]]]):
    """Padded uint8 images of the batches (n, 3, h, w), with their views."""

    def __init__(self, index: Index, grouped: list[list[View]], pad: Tensor) -> None:
        self.index, self.grouped, self.pad = index, grouped, pad

    def __len__(self) -> int:
        return len(self.grouped)

    def __getitem__(self, number: int) -> tuple[Tensor, list[View]]:
        group = self.grouped[number]
        images = self.pad.view(1, 3, 1, 1).repeat(len(group), 1, *group[0].padded)
        for canvas, view in zip(images, group, strict=True):
            path = self.index.root / str(self.index.images["path"].iloc[view.row])
            height, width = view.size
            canvas[:, :height, :width] = transform.resize(decode(path), [height, width])
        return images, group


@torch.inference_mode()
def run_views(
    detector: Detector,
    index: Index,
    chosen: list[View],
    batch_size: int,
    device: torch.device,
    workers: int,
) -> Iterator[tuple[View, dict[str, Tensor]]]:
    """Yield each view with what the detector found in it, on the CPU.

    ``boxes`` (m, 4) are in pixels of the original image, ``scores`` (m,) float32; and ``labels``
    where the detector has a head. The detector is on the device and in evaluation mode.
    """
    data = _Batches(index, batches(chosen, batch_size), mean_colour(detector.backbone))
    for images, group in DataLoader(data, batch_size=None, num_workers=workers):
        results = detector(images.to(device), sizes=[view.size for view in group])
        for view, result in zip(group, results, strict=True):
            width, height = (index.images[side].iloc[view.row] for side in ("width", "height"))
            back = torch.tensor([width / view.size[1], height / view.size[0]] * 2).float()
            found = {name: value.cpu() for name, value in result.items()}
            found["boxes"] = found["boxes"].float() * back
            yield view, found


def _table(image_id: int, found: Tensor) -> pd.DataFrame:
    values = found.numpy()
    return pd.DataFrame(
        {
            "image_id": np.full(len(values), image_id, np.int32),
            "class_id": values[:, 5].astype(np.int32),
            "score": values[:, 4],
            **{name: values[:, i] for i, name in enumerate(BOX)},
        }
    )
