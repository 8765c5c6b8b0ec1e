"""Deformable convolution without modulation (Dai et al., "Deformable Convolutional Networks").

A plain convolution of the last stage becomes a deformable one that starts as an exact copy: its
weights keep their names, and the offsets, which a new child ``offset`` predicts, start at zero.

On a GPU the sampling is torchvision's operator. On a processor it is a weighted gather of feature
vectors, because the backward pass of torchvision's operator goes value by value there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import DeformConv2d, deform_conv2d

from detransfer.console import InputError

OFFSET = ".offset."  # in the names of the parameters that a plain network does not have


class DeformableConv(DeformConv2d):
    """A copy of ``plain`` whose taps move by learnt offsets, shared within ``groups`` of channels.

    The offsets come from a convolution of the same kernel, stride, padding and dilation, as in
    SNIPER (``resnet_mx_101_e2e.py``), with zero weights and biases at the start.
    """

    def __init__(self, plain: nn.Conv2d, groups: int) -> None:
        super().__init__(
            plain.in_channels,
            plain.out_channels,
            plain.kernel_size,
            plain.stride,
            plain.padding,
            plain.dilation,
            plain.groups,
            plain.bias is not None,
        )
        self.weight, self.bias = plain.weight, plain.bias
        height, width = plain.kernel_size
        self.offset = nn.Conv2d(
            plain.in_channels,
            2 * groups * height * width,
            plain.kernel_size,  # type: ignore[arg-type]
            plain.stride,  # type: ignore[arg-type]
            plain.padding,  # type: ignore[arg-type]
            plain.dilation,  # type: ignore[arg-type]
        )
        nn.init.zeros_(self.offset.weight)
        assert self.offset.bias is not None
        nn.init.zeros_(self.offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, c, h, w) as the plain convolution would, at moved taps."""
        offset = self.offset(x)  # bfloat16 would round places far from the corner
        offset = offset.to(torch.promote_types(offset.dtype, torch.float32))
        if x.device.type == "cpu" and self.groups == 1:
            return self._gather(x, offset)
        moved: Tensor = deform_conv2d(  # in float32, to which it casts on GPUs but not here
            x.to(offset.dtype),
            offset,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
        )
        return moved.to(x.dtype)

    def _gather(self, x: Tensor, offset: Tensor) -> Tensor:
        """Do what ``deform_conv2d`` does: gather the taps' vectors, then one matrix product."""
        n, channels, height, width = x.shape
        down, right = self._taps(offset)  # (n, h, w, groups, taps)
        groups, taps = down.shape[3:]
        rows, row_weights = _neighbours(down, height)
        columns, column_weights = _neighbours(right, width)
        place = rows[..., :, None] * width + columns[..., None, :]
        image = torch.arange(n, device=x.device).view(n, 1, 1, 1, 1, 1, 1) * height * width
        group = torch.arange(groups, device=x.device).view(1, 1, 1, groups, 1, 1, 1)
        place = (place + image) * groups + group
        weight = (row_weights[..., :, None] * column_weights[..., None, :]).to(x.dtype)
        vectors = x.permute(0, 2, 3, 1).reshape(n * height * width * groups, channels // groups)
        sampled = functional.embedding_bag(
            place.reshape(-1, 4), vectors, per_sample_weights=weight.reshape(-1, 4), mode="sum"
        )
        kernel = self.weight.view(self.out_channels, groups, channels // groups, taps)
        result = functional.linear(
            sampled.view(*down.shape[:3], channels * taps),
            kernel.transpose(2, 3).reshape(self.out_channels, channels * taps),
            self.bias,
        )
        return result.permute(0, 3, 1, 2)

    def _taps(self, offset: Tensor) -> tuple[Tensor, Tensor]:
        """Return where each tap reads, in cells: rows and columns, both (n, h, w, groups, taps)."""
        n, _, height, width = offset.shape
        moved = offset.view(n, -1, self.weight[0, 0].numel(), 2, height, width)
        moved = moved.permute(3, 0, 4, 5, 1, 2)  # (2, n, h, w, groups, taps)
        down, right = (
            torch.arange(extent, device=offset.device, dtype=offset.dtype) * stride - padding
            for extent, stride, padding in zip(
                (height, width), self.stride, self.padding, strict=True
            )
        )
        kernel = self.weight.shape[2:]
        ky, kx = torch.meshgrid(
            *(
                torch.arange(k, device=offset.device) * d
                for k, d in zip(kernel, self.dilation, strict=True)
            ),
            indexing="ij",
        )
        return (
            moved[0] + down.view(1, height, 1, 1, 1) + ky.reshape(-1),
            moved[1] + right.view(1, 1, width, 1, 1) + kx.reshape(-1),
        )


def _neighbours(at: Tensor, extent: int) -> tuple[Tensor, Tensor]:
    """Return the two cells beside each position and their weights, (..., 2); zero outside."""
    low = at.detach().floor()
    share = at - low
    cells = torch.stack([low, low + 1], -1)
    inside = (cells >= 0) & (cells < extent)
    weights = torch.stack([1 - share, share], -1) * inside
    return cells.clamp(0, extent - 1).long(), weights


def deform(model: nn.Module, groups: int) -> None:
    """Make the 3x3 convolutions of a timm model's last stage deformable, in place.

    Raises InputError for a model whose last stage has none, and for a number of groups that does
    not divide its channels.
    """
    stage = _last_stage(model)
    places = list(_spatial(model.get_submodule(stage)))
    if not places:
        raise InputError(
            f"backbone.deformable_groups: {stage} of this backbone has no 3x3 convolution to "
            "deform; give 0"
        )
    for parent, name, plain in places:
        if plain.in_channels % groups:
            raise InputError(
                f"backbone.deformable_groups: {groups} does not divide the {plain.in_channels} "
                f"channels of {stage}"
            )
        setattr(parent, name, DeformableConv(plain, groups))


def without_offsets(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the parameters that the plain network has too."""
    return {name: value for name, value in state.items() if OFFSET not in name}


def _last_stage(model: nn.Module) -> str:
    network: Any = model
    return str(network.feature_info[-1]["module"])


def _spatial(stage: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Conv2d]]:
    """Yield each ordinary 3x3 convolution below ``stage`` with its parent and its name there."""
    for parent in stage.modules():
        for name, child in parent.named_children():
            if type(child) is nn.Conv2d and child.kernel_size == (3, 3):
                yield parent, name, child
