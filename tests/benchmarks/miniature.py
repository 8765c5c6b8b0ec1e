"""Rendering the miniature world on one thread: images a second, JPEG and archives included."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import yaml

from detransfer.data.miniature.archives import write_archives
from detransfer.data.miniature.recipe import WorldRecipe
from detransfer.data.miniature.world import make_world

RECIPE = Path(__file__).parents[2] / "config/recipes/demo/world.yaml"


def main() -> None:
    recipe = WorldRecipe(**yaml.safe_load(RECIPE.read_text()))
    images = (
        recipe.imagenet_cls.classes * (recipe.imagenet_cls.train + recipe.imagenet_cls.val)
        + (recipe.coco.train + recipe.coco.val)
        + (recipe.voc.trainval2007 + recipe.voc.trainval2012 + recipe.voc.test2007)
        + (recipe.caltech.classes + 1) * recipe.caltech.images
    )
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.monotonic(), time.process_time()
        write_archives(make_world(recipe), Path(folder))
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    print(f"{images} images: {images / wall:.0f} a second, {images / cpu:.0f} a processor second")


if __name__ == "__main__":
    main()
