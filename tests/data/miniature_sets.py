"""The miniature data sets for tests: rendered, extracted and read as the workflow does it."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from detransfer.data.catalog import load_catalog
from detransfer.data.extract import Part, extract
from detransfer.data.formats import READERS
from detransfer.data.index import Index, check_tables
from detransfer.data.miniature.archives import write_archives
from detransfer.data.miniature.packing import jpeg
from detransfer.data.miniature.recipe import WorldRecipe
from detransfer.data.miniature.scenes import Scene
from detransfer.data.miniature.world import World, make_world

RECIPE: dict[str, Any] = {
    "openimages": {"classes": 14, "train": 60, "validation": 9, "test": 5, "group_share": 0.25,
                   "depiction_share": 0.25},
    "imagenet_loc": {"classes": 14, "images": 6},
    "imagenet_det": {"val": 60},
    "voc": {"classes": 5, "trainval2012": 16, "sbd": 9},
    "sun397": {"classes": 4, "train": 4, "test": 3},
    "flowers102": {"classes": 4, "train": 2, "val": 3, "test": 4},
}  # fmt: skip


def small_world() -> World:
    return make_world(WorldRecipe.model_validate(RECIPE))


def render_and_extract(world: World, name: str, folder: Path) -> None:
    """Make ``folder/<name>`` as the workflow does, from archives in ``folder/mirror``."""
    known = load_catalog().archives
    archives = load_catalog().datasets[name].archives
    write_archives(world, folder / "mirror", archives)
    parts = [Part(folder / "mirror" / archive, known[archive].extract_to) for archive in archives]
    extract(parts, folder / name)


def read(data: Path, name: str, **options: Any) -> Index:
    known = load_catalog().datasets[name]
    module = importlib.import_module(READERS[known.reader])
    index = module.read(data / name, module.Options(**{**known.options, **options}))
    check_tables(index.images, index.objects, index.classes)
    return index


def by_bytes(world: World, scenes: Iterable[Scene]) -> dict[bytes, Scene]:
    return {jpeg(world, scene): scene for scene in scenes}
