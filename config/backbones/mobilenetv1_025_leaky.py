"""A backbone that timm does not have: MobileNetV1 at a quarter of its width, with LeakyReLU.

The worked example of a user's own backbone. A study names the function and this file::

    backbone:
      name: mobilenetv1_025_leaky
      file: config/backbones/mobilenetv1_025_leaky.py

The function takes what ``timm.create_model`` hands on (``num_classes``, ``output_stride``,
``features_only``, ...) and returns a model with ``forward_features``, ``forward_head`` and
``pretrained_cfg``, whose ``mean`` and ``std`` normalise the input and whose ``classifier`` names
the layer that a backbone file leaves out.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import register_model
from timm.models.efficientnet import _gen_mobilenet_v1
from torch import nn


@register_model
def mobilenetv1_025_leaky(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Return MobileNetV1 0.25 with LeakyReLU(0.1), for RGB with ImageNet's mean and deviation.

    Raises ValueError for ``pretrained``: timm has no weights of this network.
    """
    if pretrained:
        raise ValueError("timm has no weights of mobilenetv1_025_leaky; import them from a file")
    overlay = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
    overlay |= arguments.pop("pretrained_cfg_overlay", None) or {}
    model: nn.Module = _gen_mobilenet_v1(
        "mobilenetv1_100",
        0.25,
        act_layer=partial(nn.LeakyReLU, negative_slope=0.1),
        pretrained_cfg_overlay=overlay,
        **arguments,
    )
    return model
