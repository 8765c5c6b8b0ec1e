"""Untrained networks: what they need before a part of them is held still, or looked at."""

from __future__ import annotations

import torch
from torch import nn

from detransfer.backbone import conv5
from detransfer.data.views import CentralViews

IMAGES, BATCH = 512, 64  # that the statistics rest on


def wake(backbone: nn.Module) -> None:
    """Let all residual blocks of an untrained network speak.

    timm starts the last scale of a block at zero, for the training to lift. Where scales are held
    still, such a block would say nothing for ever, and its convolutions would learn nothing.
    """
    for norm in _norms(backbone):
        if norm.affine and not norm.weight.any():
            nn.init.ones_(norm.weight)


@torch.no_grad()
def estimate_statistics(
    backbone: nn.Module, views: CentralViews, device: torch.device, precision: str = "fp32"
) -> None:
    """Give an untrained network's batch normalisation the statistics of some of the images.

    Without them activations grow or vanish from layer to layer. No label is seen.
    """
    norms = _norms(backbone)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
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


def _norms(backbone: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [m for m in backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
