"""Untrained networks: what they need before a part of them is held still, or looked at."""

from __future__ import annotations

import torch
from torch import nn

from detransfer.backbone import conv5
from detransfer.data.views import CentralViews

IMAGES, BATCH = 512, 64  # that the statistics rest on


@torch.no_grad()
def settle(
    backbone: nn.Module,
    views: CentralViews,
    device: torch.device,
    precision: str = "fp32",
) -> None:
    """Let an untrained network's blocks speak, with batch normalisation that fits some images.

    timm starts the last scale of a residual block at zero, for the training to lift: held still,
    the block would say nothing for ever. Without statistics activations vanish from layer to layer.
    No label is seen.
    """
    norms = [m for m in backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        if norm.affine and not norm.weight.any():
            nn.init.ones_(norm.weight)
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over the batches
    backbone.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    rows = range(0, len(views), max(1, len(views) // IMAGES))
    for start in range(0, len(rows), BATCH):
        images = torch.stack([views[row] for row in rows[start : start + BATCH]])
        if len(images) > 1:  # the deepest map of one image may be a single place
            conv5(backbone, images.to(device), precision)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
