"""Groups of test images by their size, and by the size and number of their objects."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from detransfer.data.index import Index

SHARES = [0.0, 0.25, 0.5, 0.75, np.inf]
COUNTS = [1, 2, 3, 5, np.inf]
QUARTERS = [0.25, 0.5, 0.75]


@dataclass(frozen=True)
class Group:
    """The images whose trait lies from low (included) to high (not): a truth value for each."""

    by: str
    low: float
    high: float
    inside: np.ndarray


def traits(index: Index) -> dict[str, np.ndarray]:
    """Return, for each image of an index, what it is grouped by; NaN where it is not known.

    ``image_size``: square root of the area, pixels; ``object_share``: the largest object's, square
    root of its share of the image's area; ``objects``: how many there are, not counting difficult
    ones, crowds and groups. The last two only where the index has objects.
    """
    area = index.images["width"].to_numpy(float) * index.images["height"].to_numpy(float)
    found = {"image_size": np.sqrt(area)}
    index = index.in_order()
    objects = index.objects[~index.objects[["difficult", "crowd", "group_of"]].any(axis=1)]
    if not len(objects):
        return found
    size = (objects["x2"] - objects["x1"]) * (objects["y2"] - objects["y1"])
    of_image = size.groupby(objects["image_id"]).agg(["max", "size"])
    of_image = of_image.reindex(index.images["image_id"])
    found["object_share"] = np.sqrt(of_image["max"].to_numpy() / area)
    found["objects"] = of_image["size"].to_numpy()
    return found


def groups(index: Index) -> Iterator[Group]:
    """Yield the groups of an index's images: by image size in quarters, by object share, by count.

    Groups without an image are yielded too.
    """
    for by, values in traits(index).items():
        borders = _borders(by, values)
        place = np.digitize(values, borders[1:-1])
        for number, (low, high) in enumerate(itertools.pairwise(borders)):
            yield Group(by, low, high, (place == number) & ~np.isnan(values))


def _borders(name: str, values: np.ndarray) -> list[float]:
    """Return the borders of the groups, the last of them infinite."""
    if name == "image_size":
        return [0.0, *np.unique(np.ceil(np.quantile(values, QUARTERS))), np.inf]
    return SHARES if name == "object_share" else COUNTS
