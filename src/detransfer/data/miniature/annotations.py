"""The official annotation formats, written from rendered scenes.

Conventions that all sets share: the box is tight around the whole object inside the frame, parts
hidden by other objects included (``SceneObject.box``); masks and areas follow the same rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

import cv2
import numpy as np
from numpy.typing import NDArray

from detransfer.data.miniature.packing import matlab
from detransfer.data.miniature.scenes import Scene, SceneObject
from detransfer.data.miniature.world import ClassSpec

# Flags of VOC: cut by the frame; hidden in part; hard to see at all (too small, or mostly hidden).
TRUNCATED_ABOVE = 0.02
OCCLUDED_BELOW = 0.95
DIFFICULT_SHARE = 0.3
DIFFICULT_SIDE = 8  # pixels of the box's shorter side

_POLYGON_SCALE = 4  # contours are traced on a mask enlarged by this factor


def difficult(item: SceneObject) -> bool:
    """Tell whether VOC's evaluation should leave an object out."""
    x1, y1, x2, y2 = item.box
    return min(x2 - x1, y2 - y1) < DIFFICULT_SIDE or item.visible_share < DIFFICULT_SHARE


def voc_xml(
    year: int, filename: str, size: tuple[int, int], objects: Sequence[SceneObject],
    classes: Sequence[ClassSpec], segmented: bool = False,
) -> str:  # fmt: skip
    """Return one VOC annotation; boxes are 1-based and inclusive. ``size``: (height, width).

    ``segmented``: whether the image has masks. The occlusion flag exists since 2008: it is written
    for years after 2007.
    """
    parts = [
        f"<annotation>\n\t<folder>VOC{year}</folder>\n\t<filename>{escape(filename)}</filename>\n"
        f"\t<source>\n\t\t<database>The VOC{year} Database</database>\n"
        f"\t\t<annotation>PASCAL VOC{year}</annotation>\n\t\t<image>rendered</image>\n\t</source>\n"
        f"\t<size>\n\t\t<width>{size[1]}</width>\n\t\t<height>{size[0]}</height>\n"
        f"\t\t<depth>3</depth>\n\t</size>\n\t<segmented>{segmented:d}</segmented>\n"
    ]
    for item in objects:
        x1, y1, x2, y2 = item.box
        flags = {"truncated": item.truncated_share > TRUNCATED_ABOVE, "difficult": difficult(item)}
        if year > 2007:
            flags["occluded"] = item.visible_share < OCCLUDED_BELOW
        written = "".join(f"\t\t<{name}>{value:d}</{name}>\n" for name, value in flags.items())
        parts.append(
            f"\t<object>\n\t\t<name>{escape(classes[item.class_id].name)}</name>\n"
            f"\t\t<pose>Unspecified</pose>\n{written}\t\t<bndbox>\n"
            f"\t\t\t<xmin>{x1 + 1}</xmin>\n\t\t\t<ymin>{y1 + 1}</ymin>\n"
            f"\t\t\t<xmax>{x2}</xmax>\n\t\t\t<ymax>{y2}</ymax>\n\t\t</bndbox>\n\t</object>\n"
        )
    return "".join(parts) + "</annotation>\n"


def coco_categories(classes: Sequence[ClassSpec]) -> list[dict[str, Any]]:
    """Return COCO's category table; as in the official one, ids have gaps (no 4, 8, 12, ...)."""
    return [
        {
            "supercategory": spec.family,
            "id": label + 1 + label // 3,
            "name": spec.name.replace("_", " "),
        }
        for label, spec in enumerate(classes)
    ]


def coco_annotation(
    item: SceneObject, size: tuple[int, int], number: int, image_id: int, category_id: int
) -> dict[str, Any]:
    """Return one annotation: polygons, or uncompressed run lengths for a crowd."""
    x1, y1, x2, y2 = item.box
    return {
        "segmentation": _run_lengths(item.full_mask(*size)) if item.crowd else _polygons(item),
        "area": float(item.mask.sum()),
        "iscrowd": int(item.crowd),
        "image_id": image_id,
        "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
        "category_id": category_id,
        "id": number,
    }


def _polygons(item: SceneObject) -> list[list[float]]:
    """Return the outer contours of a mask as [x, y, x, y, ...] in pixels of the image."""
    # Contours run through pixel centres: on the enlarged mask that is 1/8 pixel off the edge.
    large = item.mask.repeat(_POLYGON_SCALE, 0).repeat(_POLYGON_SCALE, 1).astype(np.uint8)
    contours, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    found = [(c[:, 0] + 0.5) / _POLYGON_SCALE + item.box[:2] for c in contours if len(c) >= 3]
    return [np.round(polygon, 2).ravel().tolist() for polygon in found]


def _run_lengths(mask: NDArray[np.bool_]) -> dict[str, list[int]]:
    """Return COCO's run lengths: down the columns, starting with the zeros."""
    flat = mask.ravel(order="F")
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    return {"counts": [0, *counts] if flat[0] else counts, "size": list(mask.shape)}


def imagenet_meta(classes: Sequence[ClassSpec], wnids: Sequence[str], train: int) -> bytes:
    """Return ``meta.mat`` of the ILSVRC 2012 development kit.

    The leaves come first, ids 1..n in label order; then one internal node a family, then the root.
    ``wnids``: n for the leaves, then the internal ones. ``train``: training images a class.
    """
    families = sorted({spec.family for spec in classes})
    first = len(classes) + 1
    members = [[i + 1 for i, c in enumerate(classes) if c.family == f] for f in families]
    children = [
        *([] for _ in classes),
        *members,
        list(range(first, first + len(families))),
    ]
    names = [*(spec.name.replace("_", " ") for spec in classes), *families, "entity"]
    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children",
              "wordnet_height", "num_train_images")  # fmt: skip
    synsets = np.zeros((len(names), 1), dtype=[(field, object) for field in fields])
    for row, (name, below) in enumerate(zip(names, children, strict=True)):
        height = 0 if not below else 2 if row == len(names) - 1 else 1
        images = 0 if below else train
        numbers = np.array([below], dtype=float) if below else np.zeros((0, 0))
        synsets[row, 0] = (float(row + 1), wnids[row], name, f"a rendered {name}",
                           float(len(below)), numbers, float(height), float(images))  # fmt: skip
    return matlab({"synsets": synsets})


def imagenet_meta_det(classes: Sequence[tuple[str, str]]) -> bytes:
    """Return ``meta_det.mat`` of the ILSVRC 2014 development kit: 1 x n structs, ids from 1.

    ``classes``: WNID and name of each.
    """
    fields = ("ILSVRC2014_DET_ID", "WNID", "name", "description")
    synsets = np.zeros((1, len(classes)), dtype=[(field, object) for field in fields])
    for row, (wnid, name) in enumerate(classes):
        synsets[0, row] = (float(row + 1), wnid, name, f"a rendered {name}")
    return matlab({"synsets": synsets})


def imagenet_xml(
    folder: str, filename: str, scene: Scene, names: Sequence[str], database: str = "ImageNet"
) -> str:
    """Return one annotation of ImageNet; boxes count from 0 and are inclusive.

    ``filename`` has no ending, as in the official files; ``names``: WNID of each class id.
    """
    height, width = scene.instances.shape
    parts = [
        f"<annotation>\n\t<folder>{folder}</folder>\n\t<filename>{escape(filename)}</filename>\n"
        f"\t<source>\n\t\t<database>{database}</database>\n\t</source>\n"
        f"\t<size>\n\t\t<width>{width}</width>\n\t\t<height>{height}</height>\n"
        "\t\t<depth>3</depth>\n\t</size>\n\t<segmented>0</segmented>\n"
    ]
    for item in scene.objects:
        x1, y1, x2, y2 = item.box
        parts.append(
            f"\t<object>\n\t\t<name>{names[item.class_id]}</name>\n"
            "\t\t<pose>Unspecified</pose>\n"
            f"\t\t<truncated>{item.truncated_share > TRUNCATED_ABOVE:d}</truncated>\n"
            f"\t\t<difficult>{difficult(item):d}</difficult>\n\t\t<bndbox>\n"
            f"\t\t\t<xmin>{x1}</xmin>\n\t\t\t<ymin>{y1}</ymin>\n"
            f"\t\t\t<xmax>{x2 - 1}</xmax>\n\t\t\t<ymax>{y2 - 1}</ymax>\n"
            "\t\t</bndbox>\n\t</object>\n"
        )
    return "".join(parts) + "</annotation>\n"
