"""Activation maps (Figure 8): Conv5 averaged over channels, and how well it covers the objects.

The map is scaled so that its least value is 0 and its largest 255, and resized to the image (the
paper's caption of Figure 8). On images with masks two numbers say what it covers: the share of its
mass inside the objects, and the IoU of the objects with the region above the best threshold.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from detransfer.data.masks import VOID

TOP = 255.0


def activation_maps(conv5: Tensor) -> Tensor:
    """Return the maps (n, h, w), from 0 to 255, of Conv5 (n, c, h, w).

    A map that is the same everywhere prefers no place: it is 255 everywhere.
    """
    maps = conv5.float().mean(1)
    low, high = (edge(maps, (1, 2), keepdim=True) for edge in (torch.amin, torch.amax))
    flat = high <= low
    return torch.where(flat, TOP, TOP * (maps - low) / torch.where(flat, 1.0, high - low))


def enlarge(maps: np.ndarray, size: int) -> np.ndarray:
    """Return maps (n, h, w) float32 at the size of the view (n, size, size), bilinearly."""
    given = torch.from_numpy(np.array(maps, np.float32))[:, None]
    return F.interpolate(given, (size, size), mode="bilinear", align_corners=False)[:, 0].numpy()


def central_mask(mask: np.ndarray, size: int, resize: int) -> np.ndarray:
    """Return the labels (size, size) of a mask (h, w) uint8 in the central view of its image."""
    resized = transforms.resize(
        torch.from_numpy(mask)[None], [resize], interpolation=InterpolationMode.NEAREST_EXACT
    )
    return transforms.center_crop(resized, [size, size])[0].numpy()


def inside_share(activation: np.ndarray, labels: np.ndarray) -> float:
    """Return which share of a map's mass lies on the objects of a mask, void left out.

    Both (h, w). NaN where the mask has no object, and where no mass lies on labelled pixels.
    """
    labelled = labels != VOID
    mass = float(activation[labelled].sum(dtype=np.float64))
    if mass <= 0 or not (labelled & (labels > 0)).any():
        return np.nan
    return float(activation[labelled & (labels > 0)].sum(dtype=np.float64)) / mass


def best_iou(activation: np.ndarray, labels: np.ndarray) -> float:
    """Return the largest IoU, over all thresholds, of ``activation >= threshold`` with the objects.

    Both (h, w), void left out. NaN where the mask has no object.
    """
    labelled = labels != VOID
    values, inside = activation[labelled], labels[labelled] > 0
    if not inside.any():
        return np.nan
    order = np.argsort(-values, kind="stable")
    values, inside = values[order], inside[order]
    hits, chosen = np.cumsum(inside), np.arange(1, len(values) + 1)
    border = np.append(values[1:] < values[:-1], True)  # equal values pass a threshold together
    return float((hits / (hits[-1] + chosen - hits))[border].max())


def area_share(labels: np.ndarray) -> float:
    """Return the share of the labelled pixels that are objects: what a flat map scores in both."""
    labelled = labels != VOID
    return float((labels[labelled] > 0).mean()) if labelled.any() else np.nan
