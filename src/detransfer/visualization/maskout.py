"""Mask-out maps (Figure 9): what a classifier says when a blank square hides a part of the image.

The square, of the mean colour, is centred at each position of a grid over the view (the paper's
section 4.4: 60 x 60 pixels of 224). Its numbers: the mean drop of the true class's probability, and
the share of positions at which it falls below half of what it is without a square.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from detransfer.backbone import conv5, mean_colour

HALF = 0.5


@torch.inference_mode()
def masked_features(
    network: nn.Module, view: Tensor, squares: Tensor, batch: int, precision: str
) -> Tensor:
    """Return the average-pooled Conv5 (p, c) float32 of a view with each square hidden.

    ``view`` uint8 (3, s, s) and ``squares`` bool (p, s, s), both on the network's device.
    """
    blank = mean_colour(network).to(view.device).view(1, 3, 1, 1)
    pooled = []
    for part in squares.tensor_split(math.ceil(len(squares) / batch)):
        masked = torch.where(part[:, None], blank, view[None])
        masked = masked.contiguous(memory_format=torch.channels_last)
        pooled.append(conv5(network, masked, precision).mean((2, 3)))
    return torch.cat(pooled)


def probabilities(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return what a linear probe says of features (n, d): probabilities (n, classes)."""
    return torch.softmax(torch.addmm(bias, features, weight), 1)


def mean_drop(maps: np.ndarray, unmasked: np.ndarray) -> np.ndarray:
    """Return by how much the probability falls on average, (n,), of maps (n, g, g)."""
    drop: np.ndarray = unmasked - maps.mean((1, 2), dtype=np.float64)
    return drop


def fragile_share(maps: np.ndarray, unmasked: np.ndarray) -> np.ndarray:
    """Return the share of positions with less than half of the unmasked probability, (n,)."""
    fragile: np.ndarray = (maps < HALF * unmasked[:, None, None]).mean((1, 2))
    return fragile
