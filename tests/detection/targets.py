"""Chips and boxes for the tests of the detector's parts."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

ANY = (0.0, math.inf)


def target(
    boxes: list[Any] | Tensor,
    labels: list[int] | None = None,
    valid: list[bool] | None = None,
    valid_range: tuple[float, float] = ANY,
    size: tuple[int, int] = (64, 64),
    key: int = 0,
    classes: list[int] | None = None,
) -> dict[str, Any]:
    corners = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = labels if labels is not None else [1] * len(corners)
    return {
        "boxes": corners,
        "labels": torch.tensor(labels).long(),
        "classes": torch.tensor(classes if classes is not None else labels).long(),
        "valid": torch.tensor(valid if valid is not None else [True] * len(corners)).bool(),
        "valid_range": torch.tensor(valid_range),
        "size": size,
        "key": key,
    }


def random_boxes(count: int, seed: int, extent: float = 64.0, beyond: float = 0.0) -> Tensor:
    draw = torch.rand(count, 4, generator=torch.Generator().manual_seed(seed))
    corner = draw[:, :2] * extent * 0.8 - beyond
    return torch.cat([corner, corner + 4 + draw[:, 2:] * (extent * 0.5 + 2 * beyond)], 1)


def iou(a: Tensor, b: Tensor) -> float:
    sides = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0)
    both = float(sides.prod())
    return both / (float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()) - both)
