"""Sizes of image files, read from their headers.

The orientation that a camera noted in EXIF is ignored here and in
:mod:`detransfer.data.decoding`: the boxes of all data sets refer to the pixels as stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from detransfer.console import InputError

THREADS = 8  # headers wait for the disk, not for the processor
BATCH = 4096  # files in flight, so that a million of them need no million of futures


def image_size(path: Path) -> tuple[int, int]:
    """Return (width, height) in stored pixels, without decoding the image.

    Raises InputError when the file is missing, empty or not an image. Damage behind the header
    shows only when the image is decoded.
    """
    try:
        with Image.open(path) as image:
            return image.size
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such image; is the archive whole?") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: {_fault(path, error)}") from error


def image_sizes(root: Path, paths: Sequence[str]) -> np.ndarray:
    """Return the (n, 2) int32 array of width and height of ``root / path`` for every path.

    Raises InputError as :func:`image_size`, for the first path that is wrong.
    """
    sizes = np.empty((len(paths), 2), np.int32)
    progress = tqdm(total=len(paths), desc="image headers", unit=" images", disable=None)
    with progress, ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(paths), BATCH):
            batch = [root / path for path in paths[start : start + BATCH]]
            for row, size in enumerate(pool.map(image_size, batch), start):
                sizes[row] = size
            progress.update(len(batch))
    return sizes


def _fault(path: Path, error: Exception) -> str:
    if path.is_file() and path.stat().st_size == 0:
        return "the file is empty"
    return f"not a readable image ({error})"
