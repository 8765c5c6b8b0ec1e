"""The RoI blob against torchvision's operator, values and gradients."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import roi_align

from detransfer.detection.roi_blob import separable_roi_align


def random_boxes(count: int, size: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=generator, dtype=torch.float64) * size * 1.4
    corners -= 0.2 * size  # some reach outside the map
    low, high = corners.amin(1), corners.amax(1)
    return torch.cat([low, high], 1)


@pytest.mark.parametrize(("side", "height", "width"), [(7, 8, 8), (14, 5, 9), (1, 1, 3)])
def test_equals_torchvision(side: int, height: int, width: int) -> None:
    maps = torch.randn(3, 6, height, width, dtype=torch.float64, requires_grad=True)
    boxes = [random_boxes(k, 16 * width, seed) for seed, k in enumerate((5, 0, 9))]
    ours = separable_roi_align(maps, boxes, side, 16)
    theirs = roi_align(maps, boxes, side, 1 / 16, 2, aligned=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    weight = torch.randn_like(theirs)
    (gradient,) = torch.autograd.grad((ours * weight).sum(), maps, retain_graph=True)
    (expected,) = torch.autograd.grad((theirs * weight).sum(), maps)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-9)


def test_no_proposals_give_an_empty_blob() -> None:
    maps = torch.randn(1, 4, 6, 6)
    assert separable_roi_align(maps, [torch.empty(0, 4)], 7, 16).shape == (0, 4, 7, 7)
