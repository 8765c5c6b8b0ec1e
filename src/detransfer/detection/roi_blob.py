"""The RoI blob: RoIAlign with 2 x 2 bilinear samples a bin (He et al., "Mask R-CNN", 2017).

On a GPU it is torchvision's operator. On a processor the same sampling is a weighted gather of
feature vectors, because the backward pass of torchvision's operator runs on one thread there, one
value after the other.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import roi_align

SAMPLES = 2  # a side of a bin


class RoiBlob(nn.Module):
    """The blobs (k, c, side, side) of all RoIs on maps (n, c, h, w), in the order of the images."""

    def __init__(self, side: int, stride: int) -> None:
        super().__init__()
        self.side, self.stride = side, stride

    def forward(self, maps: Tensor, proposals: list[Tensor]) -> Tensor:
        if maps.device.type == "cpu":
            return gather_roi_align(maps, proposals, self.side, self.stride)
        scale = 1 / self.stride
        blob: Tensor = roi_align(maps, proposals, self.side, scale, SAMPLES, aligned=True)
        return blob


def gather_roi_align(maps: Tensor, proposals: list[Tensor], side: int, stride: int) -> Tensor:
    """Return what torchvision's ``roi_align`` does (aligned, 2 samples), differentiable in maps.

    ``maps`` (n, c, h, w), ``proposals`` n tensors (k_i, 4) in pixels of the image.
    """
    n, channels, height, width = maps.shape
    image = torch.cat([boxes.new_full((len(boxes),), i) for i, boxes in enumerate(proposals)])
    boxes = torch.cat(proposals) / stride - 0.5
    columns, column_weights = _samples(boxes[:, 0], boxes[:, 2], side, width)
    rows, row_weights = _samples(boxes[:, 1], boxes[:, 3], side, height)
    # (k, side, side, 2 * SAMPLES, 2 * SAMPLES): every row of a bin with every column of it.
    place = rows[:, :, None, :, None] * width + columns[:, None, :, None, :]
    place = place + (image.long() * height * width).view(-1, 1, 1, 1, 1)
    weight = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
    vectors = maps.permute(0, 2, 3, 1).reshape(n * height * width, channels)
    taps = (2 * SAMPLES) ** 2
    bins = functional.embedding_bag(
        place.reshape(-1, taps), vectors, per_sample_weights=weight.reshape(-1, taps), mode="sum"
    )
    return bins.view(len(boxes), side, side, channels).permute(0, 3, 1, 2)


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
