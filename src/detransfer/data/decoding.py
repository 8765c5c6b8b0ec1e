"""Image files to tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_image, read_file

from detransfer.console import InputError
from detransfer.data.images import image_size

GIF = b"GIF8"
DEEP = 257  # of 16 bits a channel, one of 8


def decode(path: Path) -> torch.Tensor:
    """Return the image as RGB: uint8 of shape (3, height, width), EXIF orientation ignored.

    Grey, palette, CMYK and transparent images become RGB (transparency is dropped). What
    torchvision does not decode goes through Pillow. Raises InputError for a file that is missing,
    empty, truncated or not an image, and for one of 32 bits a channel.
    """
    try:
        content = read_file(str(path))
        if bytes(content[: len(GIF)]) == GIF:  # torchvision would decode all frames of an animation
            return _decode_with_pillow(path)
        image = decode_image(content, mode=ImageReadMode.RGB)
    except RuntimeError:
        return _decode_with_pillow(path)
    if image.dtype == torch.uint16:  # PNG with 16 bits a channel
        image = (image.to(torch.int32) // DEEP).to(torch.uint8)
    return image


def _decode_with_pillow(path: Path) -> torch.Tensor:
    image_size(path)  # its messages tell a missing file from an empty one
    try:
        with Image.open(path) as opened:
            image: Image.Image = opened
            if image.mode in ("I", "F"):  # Pillow would cut them off at 255
                raise InputError(f"{path}: values of 32 bits; save it with 8 or 16 a channel")
            if image.mode.startswith("I;16"):
                image = Image.fromarray((np.array(image) // DEEP).astype(np.uint8))
            pixels = np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: the image is damaged or truncated ({error})") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
