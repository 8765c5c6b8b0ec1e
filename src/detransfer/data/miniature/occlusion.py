"""Occlusion levels of VOC2007's test objects, in the form of Hoiem, Chodpathumwan and Dai (2012).

``gt_ved_<class>.txt`` for every class, one line for each of its objects that is not difficult, and
``VOC2007_records_test.mat`` with the objects that the lines speak of. The official lines also give
the visible parts and sides, which a rendered object does not have, and two detectors' scores,
which are 0 here.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from detransfer.data.miniature.annotations import TRUNCATED_ABOVE, difficult
from detransfer.data.miniature.packing import matlab, zip_add
from detransfer.data.miniature.scenes import SceneObject
from detransfer.data.miniature.voc import test_scenes_2007
from detransfer.data.miniature.world import World

OCCLUSION = ("detectionAnalysis_eccv12_v2.zip",)
HEADER = "det\tconf\tocc\tsize\tratio(w/h)\n"
LIMITS = (0.01, 0.1, 0.5)  # hidden shares at which the levels low, medium and high begin


def write_occlusion(world: World, folder: Path) -> None:
    """Write the levels of every class, and the records."""
    records = []
    lines: dict[str, list[str]] = {spec.name: [] for spec in world.voc}
    for image_id, scene in test_scenes_2007(world):
        names = [world.voc[item.class_id].name for item in scene.objects]
        records.append(_record(image_id, scene.instances.shape, names, scene.objects))
        for name, item in zip(names, scene.objects, strict=True):
            if not difficult(item):
                lines[name].append(_line(item))
    with zipfile.ZipFile(folder / OCCLUSION[0], "w") as archive:
        root = "detectionAnalysis_eccv12/annotations"
        for name, labels in lines.items():
            text = HEADER + "".join(labels)
            zip_add(archive, f"{root}/gt_ved_{name}.txt", text.encode(), squeeze=True)
        content = matlab({"rec": _structs(records)}, compress=True)
        zip_add(archive, f"{root}/VOC2007_records_test.mat", content)


def occlusion_level(item: SceneObject) -> int:
    """Return 0 to 3: the object is hidden not at all, by 1-10, 10-50 or 50-100 percent."""
    return int(np.searchsorted(LIMITS, 1 - item.visible_share, side="right"))


def _line(item: SceneObject) -> str:
    x1, y1, x2, y2 = item.box
    width, height = x2 - x1, y2 - y1
    return f"0\t0\t{occlusion_level(item)}\t{width * height}\t{width / height:.3f}\n"


def _record(
    image_id: str, size: tuple[int, ...], names: list[str], items: tuple[SceneObject, ...]
) -> dict[str, Any]:
    """Return one image as VOC's development kit reads it; boxes are 1-based and inclusive."""
    objects = [
        {
            "class": name,
            "truncated": float(item.truncated_share > TRUNCATED_ABOVE),
            "difficult": float(difficult(item)),
            "bbox": np.array([item.box[0] + 1, item.box[1] + 1, *item.box[2:]], float),
        }
        for name, item in zip(names, items, strict=True)
    ]
    height, width = size
    return {
        "folder": "VOC2007",
        "filename": f"{image_id}.jpg",
        "size": {"width": float(width), "height": float(height), "depth": 3.0},
        "objects": _structs(objects),
    }


def _structs(rows: list[dict[str, Any]]) -> np.ndarray:
    """Return rows of equal keys as MATLAB's 1 x n struct array."""
    structs = np.zeros((1, len(rows)), [(name, object) for name in (rows[0] if rows else ())])
    for place, row in enumerate(rows):
        structs[0, place] = tuple(row.values())
    return structs
