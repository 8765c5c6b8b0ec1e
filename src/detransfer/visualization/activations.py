"""Activation maps (Figure 8): Conv5 averaged over channels.

The map is scaled so that its least value is 0 and its largest 255, and resized to the image (the
paper's caption of Figure 8).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from detransfer.visualization.coverage import TOP


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
