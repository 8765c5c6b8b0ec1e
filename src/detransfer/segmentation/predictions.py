"""predictions.zip: the predicted mask of every image, as a palette PNG named by its image id.

The masks have the size that the network sees; :func:`detransfer.data.masks.resize_labels` brings
them to another. Any viewer shows them in VOC's colours. One writer and one reader.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from detransfer.console import InputError
from detransfer.data.masks import encode_mask
from detransfer.files import atomic


def write_predictions(path: Path, masks: Iterable[tuple[int, np.ndarray]]) -> None:
    """Write the masks, uint8 (h, w), each with the id of its image, as they come."""
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for image_id, mask in masks:
            # Named by an object, a member has a fixed date, so that equal masks give equal bytes.
            archive.writestr(zipfile.ZipInfo(f"{image_id}.png"), encode_mask(mask))


class Predictions:
    """The masks of one file, read when they are asked for.

    Raises InputError for a file that is none, one that lacks an image of ``image_ids``, and one
    that has more: it belongs to another split or data set.
    """

    def __init__(self, path: Path, image_ids: Sequence[int], classes: int) -> None:
        self.path, self.classes = path, classes
        try:
            self.archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: not a readable file of predictions ({error})") from error
        found = {name.removesuffix(".png") for name in self.archive.namelist()}
        wanted = {str(image_id) for image_id in image_ids}
        for names, what in (
            (wanted - found, "there is no prediction for"),
            (found - wanted, "there are predictions for images that are not evaluated:"),
        ):
            if names:
                first = min(names)
                raise InputError(
                    f"{path}: {what} image {first} ({len(names)} in all); run scripts/segment.py "
                    "on the split that is evaluated"
                )

    def mask(self, image_id: int) -> np.ndarray:
        """Return the predicted mask of an image, uint8 (h, w).

        Raises InputError where it is damaged, or holds a number that is no class.
        """
        name = f"{image_id}.png"
        try:
            with Image.open(io.BytesIO(self.archive.read(name))) as image:
                mask = np.array(image)
        except (OSError, SyntaxError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{self.path}: {name}: not a readable mask ({error})") from error
        if mask.ndim != 2 or mask.dtype != np.uint8:
            raise InputError(f"{self.path}: {name}: is no palette image")
        if mask.max() >= self.classes:
            row, column = np.argwhere(mask >= self.classes)[0]
            raise InputError(
                f"{self.path}: {name}: pixel x={column}, y={row} is {mask[row, column]}, but there "
                f"are {self.classes} classes"
            )
        return mask
