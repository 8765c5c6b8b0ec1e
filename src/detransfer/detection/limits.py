"""What inference can hold: sizes of images and batches, known before the first one is run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detransfer.console import InputError
from detransfer.data.index import Index, read_index
from detransfer.detection.chip_recipe import chip_scale
from detransfer.detection.detector import Detector
from detransfer.device_faults import name_of
from detransfer.recipes.detection import ScaleRecipe
from detransfer.recipes.evaluation import InferenceRecipe
from detransfer.strict import load_file
from detransfer.training import Run

LARGEST_SIDE = 8_000  # pixels of a resized image; of that square a ResNet's first map takes 4 GB
GRID = 32  # inference pads images to multiples of it, so that many share a shape
CHUNK = 256  # images that inference works on together: only among these are batches formed


def check_scales(index: Index, scales: tuple[ScaleRecipe, ...]) -> None:
    """Raise InputError for an image that a scale would enlarge beyond what memory holds."""
    if index.images.empty:
        return
    sizes = index.images[["width", "height"]].to_numpy()
    for number, scale in enumerate(scales):
        sides = sizes.max(1) * chip_scale(scale).resize_factors(sizes)
        row = int(sides.argmax())
        if sides[row] > LARGEST_SIDE:
            raise InputError(
                f"{index.root / index.images['path'].iloc[row]}: {sizes[row, 0]} x {sizes[row, 1]} "
                f"pixels become {sides[row]:.0f} at scales[{number}], more than {LARGEST_SIDE}; "
                "give that scale as a short and a long side"
            )


def check_inference(recipe: Path | None, folder: Path, detector: Detector, run: Run) -> None:
    """Refuse before a training what would end the inference after it.

    ``recipe`` is that of the inference, where one follows, and ``folder`` that of the index. Raises
    InputError where :func:`check_scales` or :func:`check_memory` does.
    """
    if recipe is not None:
        index, inference = read_index(folder), load_file(recipe, InferenceRecipe)
        check_scales(index, inference.scales)
        check_memory(index, inference, detector, run.device)


def check_memory(
    index: Index, recipe: InferenceRecipe, detector: Detector, device: torch.device
) -> None:
    """Raise InputError for a batch of images that needs more memory than the device has in all.

    Counted are the images in float32 and the backbone's first map, which are there at one moment. A
    detector needs several times as much, so nothing is refused that would run.
    """
    if index.images.empty:
        return
    sizes, memory = index.images[["width", "height"]].to_numpy(), memory_of(device)
    for number, scale in enumerate(recipe.scales):
        resized = np.round(sizes * chip_scale(scale).resize_factors(sizes)[:, None])
        padded = np.ceil(np.maximum(resized, 1) / GRID).astype(np.int64) * GRID
        together = np.minimum(_of_one_shape(padded), recipe.batch_size)
        needed = together * padded.prod(1) * _bytes_a_pixel(detector)
        row = int(needed.argmax())
        if needed[row] > memory:
            width, height = padded[row]
            raise InputError(
                f"{index.root / index.images['path'].iloc[row]}: {sizes[row, 0]} x {sizes[row, 1]} "
                f"pixels become {width} x {height} at scales[{number}]; {together[row]} at once "
                f"need at least {needed[row] / 2**30:.1f} GiB, and {name_of(device)} has "
                f"{memory / 2**30:.1f}; lower batch_size of the inference, or give that scale as a "
                "short and a long side"
            )


def _of_one_shape(padded: np.ndarray) -> np.ndarray:
    """Return for each width and height (n, 2) how many of its chunk are the same (n,)."""
    most = int(padded.max()) + 1
    shapes = (np.arange(len(padded)) // CHUNK * most + padded[:, 0]) * most + padded[:, 1]
    _, inverse, counts = np.unique(shapes, return_inverse=True, return_counts=True)
    return np.asarray(counts[inverse])


def _bytes_a_pixel(detector: Detector) -> float:
    """Return what a pixel of an image takes in float32, and in the backbone's first map."""
    network: Any = detector.backbone
    first = network.feature_info[0]
    element = 2 if detector.recipe.training.precision == "bf16" else 4
    return 3 * 4 + first["num_chs"] / first["reduction"] ** 2 * element


def memory_of(device: torch.device) -> int:
    """Return the bytes of memory that a GPU, or else the machine, has in all."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
