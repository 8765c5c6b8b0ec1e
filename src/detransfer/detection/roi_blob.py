"""The RoI blob: RoIAlign with 2 x 2 bilinear samples a bin (He et al., "Mask R-CNN", 2017).

On a GPU it is torchvision's operator. On a processor, where the backward pass of that operator goes
value by value, the same sampling is two matrix products: the weight of a cell in a bin is that of
its row times that of its column.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

SAMPLES = 2  # a side of a bin


class RoiBlob(nn.Module):
    """The blobs (k, c, side, side) of all RoIs on maps (n, c, h, w), in the order of the images."""

    def __init__(self, side: int, stride: int) -> None:
        super().__init__()
        self.side, self.stride = side, stride

    def forward(self, maps: Tensor, proposals: list[Tensor]) -> Tensor:
        if maps.device.type == "cpu":
            return separable_roi_align(maps, proposals, self.side, self.stride)
        scale = 1 / self.stride
        blob: Tensor = roi_align(maps, proposals, self.side, scale, SAMPLES, aligned=True)
        return blob


def separable_roi_align(maps: Tensor, proposals: list[Tensor], side: int, stride: int) -> Tensor:
    """Return what torchvision's ``roi_align`` does (aligned, 2 samples), differentiable in maps.

    ``maps`` (n, c, h, w), ``proposals`` n tensors (k_i, 4) in pixels of the image.
    """
    channels, height, width = maps.shape[1:]
    blobs = []
    for features, boxes in zip(maps.permute(0, 2, 3, 1), proposals, strict=True):
        at = boxes / stride - 0.5
        rows = _weights(at[:, 1], at[:, 3], side, height)
        columns = _weights(at[:, 0], at[:, 2], side, width)
        # (k side, h) @ (h, w c), then for each RoI (side, w) @ (w, c) at each of its rows.
        lines = (rows.flatten(0, 1) @ features.flatten(1)).view(len(boxes), side, width, channels)
        blobs.append(columns[:, None] @ lines)
    return torch.cat(blobs).permute(0, 3, 1, 2)


def _weights(start: Tensor, end: Tensor, side: int, extent: int) -> Tensor:
    """Return how much each cell of one axis counts in each bin (k, side, extent)."""
    cells, weights = _samples(start, end, side, extent)
    result = weights.new_zeros(len(start), side, extent)
    return result.scatter_add_(2, cells, weights)


def _samples(start: Tensor, end: Tensor, side: int, extent: int) -> tuple[Tensor, Tensor]:
    """Return the cells and weights (k, side, 2 * SAMPLES) that one axis of each bin reads.

    A sample beyond the map by more than a cell counts nothing; nearer ones are moved inside.
    """
    steps = torch.arange(side * SAMPLES, dtype=start.dtype, device=start.device)
    at = start[:, None] + (steps + 0.5) * ((end - start) / (side * SAMPLES))[:, None]
    inside = ((at >= -1) & (at <= extent)).to(start.dtype) / SAMPLES
    at = at.clamp(0, extent - 1)
    low = at.floor().long().clamp(max=max(extent - 2, 0))
    share = at - low
    cells = torch.stack([low, (low + 1).clamp(max=extent - 1)], -1)
    weights = torch.stack([(1 - share) * inside, share * inside], -1)
    shape = (len(start), side, 2 * SAMPLES)
    return cells.reshape(shape), weights.reshape(shape)
