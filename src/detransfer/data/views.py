"""How an image is seen at test time, by a classifier and by what records its features."""

from __future__ import annotations

from torch import Tensor
from torchvision.transforms.v2 import functional as transforms


def central_view(image: Tensor, size: int, resize: int) -> Tensor:
    """Return the centre (3, size, size) of a uint8 image whose shorter side is made ``resize``."""
    resized = transforms.resize(image, [resize], antialias=True)
    return transforms.center_crop(resized, [size, size])
