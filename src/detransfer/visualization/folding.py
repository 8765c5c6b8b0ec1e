"""A frozen backbone made ready for many forward passes: its normalisation folded away."""

from __future__ import annotations

import copy
import logging
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops import DeformConv2d

log = logging.getLogger(__name__)
Convolution: TypeAlias = nn.Conv2d | DeformConv2d
TOLERANCE = 1e-3  # of the largest value: what folding may change by rounding
SMALLEST = 64  # pixels of the image that the folding is tried on


@torch.no_grad()
def fold(backbone: nn.Module) -> nn.Module:
    """Return a copy of a backbone, in evaluation mode, with batch normalisation folded.

    Every one that reads a convolution becomes a part of its weights. Which one reads which is seen
    in a forward pass, so that any timm model will do. Where the copy does not say the same as the
    original, nothing is folded.
    """
    folded: Any = copy.deepcopy(backbone).eval()
    original: Any = copy.deepcopy(folded)
    device = next(backbone.parameters()).device
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, SMALLEST, SMALLEST, generator=generator).to(device)
    expected = original.forward_features(images)
    pairs = _followers(folded, images)
    names = {module: name for name, module in folded.named_modules()}
    for convolution, norm in pairs:
        _fold_pair(convolution, norm)
        parent, _, name = names[norm].rpartition(".")
        setattr(folded.get_submodule(parent), name, _rest(norm))
    difference = (folded.forward_features(images) - expected).abs().max()
    if not difference <= TOLERANCE * expected.abs().max():
        log.warning("this backbone's normalisation cannot be folded; it runs as it is, slower")
        return cast(nn.Module, original)
    return cast(nn.Module, folded)


def _followers(model: Any, images: Tensor) -> list[tuple[Convolution, _BatchNorm]]:
    """Return each convolution with the normalisation that reads its output, both run once."""
    runs: list[nn.Module] = []
    made: dict[
        int, tuple[Convolution, Tensor]
    ] = {}  # tensors are kept, so that no id is used twice
    pairs: list[tuple[Convolution, _BatchNorm]] = []

    def watch(module: nn.Module, given: tuple[Tensor, ...], found: Tensor) -> None:
        runs.append(module)
        if isinstance(module, Convolution):
            made[id(found)] = (module, found)
        elif id(given[0]) in made:
            assert isinstance(module, _BatchNorm)
            pairs.append((made[id(given[0])][0], module))

    watched = [m for m in model.modules() if isinstance(m, Convolution | _BatchNorm)]
    handles = [module.register_forward_hook(watch) for module in watched]
    model.forward_features(images)
    for handle in handles:
        handle.remove()
    return [pair for pair in pairs if all(runs.count(module) == 1 for module in pair)]


def _fold_pair(convolution: Convolution, norm: _BatchNorm) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    weight, bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    convolution.weight, convolution.bias = weight, bias


def _rest(norm: Any) -> nn.Module:
    """Return what a normalisation does besides: timm's have an activation of their own."""
    parts = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if part]
    return nn.Sequential(*parts) if parts else nn.Identity()
