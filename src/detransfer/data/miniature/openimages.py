"""The archives of Open Images V4: images, boxes, verified labels and the hierarchy of classes.

The leaves of the hierarchy are the classes of the world; above them stand their bodies and their
families. All of them are boxable classes; the leaves alone are those of the 2018 challenge. An
object too small to tell its leaf is boxed under the next ancestor, as annotators do.
"""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from detransfer.data.miniature.annotations import OCCLUDED_BELOW, TRUNCATED_ABOVE
from detransfer.data.miniature.packing import Stream, add, jpeg, open_tgz, words
from detransfer.data.miniature.scenes import Scene, SceneObject, render_scene
from detransfer.data.miniature.world import World

SPLITS = {
    "train": Stream.OPENIMAGES_TRAIN,
    "validation": Stream.OPENIMAGES_VALIDATION,
    "test": Stream.OPENIMAGES_TEST,
}
DIGITS = "0123456789abcdef"
# The training images come in 16 archives, by the first digit of their id.
PARTS = {
    "train": tuple(f"train_{digit}.tar.gz" for digit in DIGITS),
    "validation": ("validation.tar.gz",),
    "test": ("test.tar.gz",),
}
HIERARCHY = "bbox_labels_600_hierarchy.json"
BOXABLE, CHALLENGE = "class-descriptions-boxable.csv", "challenge-2018-class-descriptions-500.csv"
ROOT = "/m/0bl9f"  # the official root, "Entity", which is no class itself
ARCHIVES = (
    BOXABLE,
    CHALLENGE,
    HIERARCHY,
    *(f"{split}-annotations-bbox.csv" for split in SPLITS),
    *(f"{split}-annotations-human-imagelabels-boxable.csv" for split in SPLITS),
    *(name for names in PARTS.values() for name in names),
)
COARSE_SIDE = 12  # pixels of a 128-pixel image: smaller objects are boxed under their ancestor
_NEGATIVES = 3  # classes verified to be absent from an image, at most
_BOX_COLUMNS = ("ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,"
                "IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside")  # fmt: skip


@dataclass
class _Lines:
    """The lines of a split's two tables, without their heads."""

    boxes: list[str]
    labels: list[str]


def write_openimages(world: World, folder: Path) -> None:
    """Write the archives of the three splits and the tables of classes."""
    mids = label_names(world)
    leaves = {spec.name for spec in world.openimages}
    for name, chosen in ((BOXABLE, list(mids)), (CHALLENGE, [n for n in mids if n in leaves])):
        rows = sorted(f"{mids[key]},{description(key)}\n" for key in chosen)
        (folder / name).write_text("".join(rows))
    (folder / HIERARCHY).write_text(json.dumps(hierarchy(world)) + "\n")
    for split in SPLITS:
        lines = _write_images(world, folder, split, mids)
        for name, head, rows in (
            (f"{split}-annotations-bbox.csv", _BOX_COLUMNS, lines.boxes),
            (f"{split}-annotations-human-imagelabels-boxable.csv",
             "ImageID,Source,LabelName,Confidence", lines.labels),
        ):  # fmt: skip
            (folder / name).write_text("\n".join([head, *rows, ""]))


def image_ids(world: World, split: str) -> list[str]:
    """Return the ids of a split in order of its scenes."""
    count = getattr(world.recipe.openimages, split)
    return words(world, SPLITS[split], count, 16, DIGITS)


def render(world: World, split: str, index: int) -> Scene:
    """Render one image of a split."""
    recipe = world.recipe.openimages
    shares = recipe.group_share, recipe.depiction_share
    return render_scene(world, world.openimages, SPLITS[split], index, *shares)


def label_names(world: World) -> dict[str, str]:
    """Return the label (``/m/...``) of each class: leaves, then bodies and families."""
    names = [spec.name for spec in world.openimages]
    names += [above for spec in world.openimages for above in spec.ancestors]
    names = list(dict.fromkeys(names))
    letters = string.digits + string.ascii_lowercase + "_"
    codes = words(world, Stream.OPENIMAGES_TRAIN, len(names), 5, letters)
    # Official labels of six characters begin with a digit 0 or 1; the root has five.
    return {name: f"/m/0{code}" for name, code in zip(names, codes, strict=True)}


def description(name: str) -> str:
    """Return what the tables call a class: the first letter large, as the official ones have it."""
    return name.replace("_", " ").capitalize()


def annotated_class(world: World, item: SceneObject) -> str:
    """Return the name of the class that an object is boxed under."""
    spec = world.openimages[item.class_id]
    x1, y1, x2, y2 = item.box
    small = min(x2 - x1, y2 - y1) < COARSE_SIDE * world.unit
    return spec.ancestors[0] if small else spec.name


def hierarchy(world: World) -> dict[str, Any]:
    """Return the tree of classes under the root."""
    mids = label_names(world)
    below: dict[str, dict[str, None]] = {}
    for spec in world.openimages:
        chain = (spec.name, *spec.ancestors, "")
        for child, parent in pairwise(chain):
            below.setdefault(parent, {})[child] = None

    def node(name: str) -> dict[str, Any]:
        own: dict[str, Any] = {"LabelName": mids[name] if name else ROOT}
        children = [node(child) for child in below.get(name, {})]
        return own | ({"Subcategory": children} if children else {})

    return node("")


def _write_images(world: World, folder: Path, split: str, mids: dict[str, str]) -> _Lines:
    """Write the images of a split, in order of id; return the lines of its tables."""
    lines = _Lines([], [])
    ids = image_ids(world, split)
    for part in PARTS[split]:
        first = part[len("train_")] if split == "train" else ""
        chosen = [(name, index) for index, name in enumerate(ids) if name.startswith(first)]
        with open_tgz(folder / part) as archive:
            for image_id, index in sorted(chosen):
                scene = render(world, split, index)
                place = part.removesuffix(".tar.gz")
                add(archive, f"{place}/{image_id}.jpg", jpeg(world, scene))
                _describe(world, split, index, image_id, scene, mids, lines)
    return lines


def _describe(
    world: World,
    split: str,
    index: int,
    image_id: str,
    scene: Scene,
    mids: dict[str, str],
    lines: _Lines,
) -> None:
    """Append one image's boxes and its labels verified as present or absent."""
    height, width = scene.instances.shape
    present: dict[str, None] = {}
    for item in scene.objects:
        name = annotated_class(world, item)
        present[name] = None
        x1, y1, x2, y2 = item.box
        corners = ",".join(f"{v:.9g}" for v in (x1 / width, x2 / width, y1 / height, y2 / height))
        flags = (item.visible_share < OCCLUDED_BELOW, item.truncated_share > TRUNCATED_ABOVE,
                 item.crowd, item.depiction, False)  # fmt: skip
        written = ",".join(f"{flag:d}" for flag in flags)
        lines.boxes.append(f"{image_id},xclick,{mids[name]},1,{corners},{written}")
    for name, value in ((n, k) for k, n in _verified(world, split, index, scene, list(present))):
        lines.labels.append(f"{image_id},verification,{mids[name]},{value}")


def _verified(
    world: World, split: str, index: int, scene: Scene, present: Sequence[str]
) -> list[tuple[int, str]]:
    """Return (1, class) for what is boxed and (0, class) for a few leaves that are not there."""
    shown = {item.class_id for item in scene.objects}
    absent = [spec.name for k, spec in enumerate(world.openimages) if k not in shown]
    rng = np.random.default_rng((world.recipe.seed, Stream.NAMES, SPLITS[split], index))
    count = int(rng.integers(1, _NEGATIVES + 1))
    return [(1, name) for name in present] + [(0, n) for n in rng.permutation(absent)[:count]]
