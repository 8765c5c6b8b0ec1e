"""Segmentation masks: one class number a pixel.

Two official forms: the palette PNGs of PASCAL VOC, whose palette index is the class, and the MATLAB
files of the Semantic Boundaries Dataset (``GTcls.Segmentation``; Hariharan et al., ICCV 2011).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from detransfer.console import InputError
from detransfer.data.matfile import read_mat

VOID = 255  # pixels that count neither for nor against: borders and what is hard to tell
VOC_CLASSES = 20


def read_mask(path: Path, classes: int = VOC_CLASSES) -> np.ndarray:
    """Return the (height, width) uint8 mask: 0 background, 1 to ``classes``, 255 void.

    A path that ends in ``.mat`` is read as a file of the Semantic Boundaries Dataset, any other as
    an image. Raises InputError, naming the file, when it is missing or damaged, when it is a colour
    image (its colours would have to be guessed back into classes) and for another number.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such mask; is the archive whole?")
    mask = _read_mat(path) if path.suffix == ".mat" else _read_image(path)
    unknown = (mask < 0) | ((mask > classes) & (mask != VOID))
    if unknown.any():
        row, column = np.argwhere(unknown)[0]
        raise InputError(
            f"{path}: pixel x={column}, y={row} is {mask[row, column]}, which is neither a class "
            f"(0 to {classes}) nor void ({VOID})"
        )
    return mask.astype(np.uint8)


def _read_image(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L"):
                raise InputError(
                    f"{path}: is an image of mode {image.mode}, but a mask is a palette or grey "
                    "image of class numbers with 8 bits a pixel"
                )
            return np.array(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: not a readable mask ({error})") from error


def _read_mat(path: Path) -> np.ndarray:
    try:
        mask = read_mat(path, "GTcls")[0]["Segmentation"]
    except (LookupError, TypeError) as error:
        raise InputError(f"{path}: not a mask of SBD (it lacks {error})") from error
    if not isinstance(mask, np.ndarray) or mask.ndim != 2 or not mask.size:
        raise InputError(f"{path}: GTcls.Segmentation is not a mask")
    if mask.dtype.kind not in "iu":
        raise InputError(f"{path}: GTcls.Segmentation is not a mask ({mask.dtype})")
    return mask
