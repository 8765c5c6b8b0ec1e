"""The archives of COCO 2017."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from detransfer.data.miniature.annotations import coco_annotation, coco_categories
from detransfer.data.miniature.packing import Stream, jpeg, numbers, zip_add
from detransfer.data.miniature.scenes import render_scene
from detransfer.data.miniature.world import World

ARCHIVES = ("annotations_trainval2017.zip", "train2017.zip", "val2017.zip")


def write_coco(world: World, folder: Path) -> None:
    """Write both sets of images and their annotations into ``folder``."""
    recipe = world.recipe.coco
    total = recipe.train + recipe.val
    image_ids = numbers(world, Stream.COCO_TRAIN, total, 8 * total)
    contents = {
        "train2017": _write_split(
            world, folder, "train2017", Stream.COCO_TRAIN, image_ids[: recipe.train]
        ),
        "val2017": _write_split(
            world, folder, "val2017", Stream.COCO_VAL, image_ids[recipe.train :]
        ),
    }
    with zipfile.ZipFile(folder / "annotations_trainval2017.zip", "w") as archive:
        for split, content in contents.items():
            text = json.dumps(content, separators=(",", ":")).encode()
            zip_add(archive, f"annotations/instances_{split}.json", text, squeeze=True)


def _write_split(
    world: World, folder: Path, split: str, stream: Stream, ids: list[int]
) -> dict[str, Any]:
    """Write the images of a split; return the content of its annotation file."""
    categories = coco_categories(world.coco)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    with zipfile.ZipFile(folder / f"{split}.zip", "w") as archive:
        for index, image_id in sorted(enumerate(ids), key=lambda pair: pair[1]):
            scene = render_scene(world, world.coco, stream, index, world.recipe.coco.crowd_share)
            size = scene.instances.shape[0], scene.instances.shape[1]
            name = f"{image_id:012d}.jpg"
            zip_add(archive, f"{split}/{name}", jpeg(world, scene))
            images.append({"license": 1, "file_name": name, "coco_url": "", "height": size[0],
                           "width": size[1], "date_captured": "2012-01-01 00:00:00",
                           "flickr_url": "", "id": image_id})  # fmt: skip
            for item in scene.objects:
                # Official ids are unique over both splits and begin at 1.
                number = 2 * len(annotations) + 1 + (split == "val2017")
                category = categories[item.class_id]["id"]
                annotations.append(coco_annotation(item, size, number, image_id, category))
    return {
        "info": {"description": "miniature world", "version": "1.0", "year": 2017},
        "licenses": [{"id": 1, "name": "rendered, free to use", "url": ""}],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
