"""One class an image: as its data set says, or as its objects do where they agree."""

from __future__ import annotations

import numpy as np

from detransfer.data.index import Index


def image_classes(index: Index) -> np.ndarray:
    """Return the class (n,) int64 of each image of the index; -1 for an image without one.

    Where the images have no class of their own, it is that of their objects: an image has one if
    all that count (not difficult, crowd or group) are of one class. So an image classifier can be
    asked about images of which the size and number of objects are known.
    """
    if "class_id" in index.images:
        return index.images["class_id"].to_numpy(np.int64)
    index = index.in_order()
    objects, offsets = index.objects, index.offsets
    counted = ~objects[["difficult", "crowd", "group_of"]].to_numpy().any(1)
    image = np.repeat(np.arange(len(index.images)), np.diff(offsets))[counted]
    class_ids = objects["class_id"].to_numpy(np.int64)[counted]
    lowest = np.full(len(index.images), np.iinfo(np.int64).max)
    highest = np.full(len(index.images), -1)
    np.minimum.at(lowest, image, class_ids)
    np.maximum.at(highest, image, class_ids)
    return np.where(lowest == highest, highest, -1)
