"""Render a miniature world into the official archives of the data sets.

The folder it writes is a mirror: `fetch` reads it through a file: address, as it reads the real
archives over the network. With --contact-sheet it also draws a page of samples.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from detransfer.console import run
from detransfer.data.miniature.archives import Stream, write_archives
from detransfer.data.miniature.scenes import Scene, render_classification, render_scene
from detransfer.data.miniature.textures import Bytes
from detransfer.data.miniature.world import ClassSpec, World, WorldRecipe, make_world
from detransfer.files import atomic
from detransfer.study import load_recipe_file

COLUMNS, ROWS = 8, 6
GAP = 6  # pixels between tiles
# Samples are taken beyond the indices that any archive uses: the sheet shows no image of a set.
FIRST_SAMPLE = 10_000_000
COLOURS = ((255, 214, 0), (0, 229, 255), (255, 64, 129), (118, 255, 3), (255, 145, 0),
           (179, 136, 255), (255, 255, 255), (0, 0, 0))  # fmt: skip


def main() -> None:
    """Read the recipe, write the archives and, where asked, the contact sheet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", type=Path, required=True, help="the world's recipe, YAML")
    parser.add_argument("--output", type=Path, required=True, help="folder for the archives")
    parser.add_argument("--contact-sheet", type=Path, help="also draw samples into this PNG")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    world = make_world(load_recipe_file(arguments.recipe, WorldRecipe))
    if arguments.contact_sheet:
        draw_contact_sheet(world, arguments.contact_sheet)
    write_archives(world, arguments.output)


def draw_contact_sheet(world: World, path: Path) -> None:
    """Draw scenes with their boxes, then one named image for each class of every set."""
    scenes = [
        _boxes(render_scene(world, world.voc, Stream.VOC_TRAINVAL_2007, FIRST_SAMPLE + i))
        for i in range(COLUMNS * ROWS)
    ]
    bands = [_title(world, "detection target: boxes are tight around the whole object"),
             *_rows(world, scenes)]  # fmt: skip
    for title, stream, classes in (
        ("sources", Stream.IMAGENET_TRAIN, world.imagenet_cls),
        ("detection target", Stream.IMAGENET_VAL, world.voc),
        ("classification target", Stream.CALTECH, world.caltech),
    ):
        bands += [_title(world, title), *_rows(world, _samples(world, classes, stream))]
    sheet = np.concatenate(bands)
    encoded = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1]
    with atomic(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def _samples(world: World, classes: Sequence[ClassSpec], stream: Stream) -> list[Bytes]:
    tiles = []
    for i, spec in enumerate(classes):
        scene = render_classification(world, spec, stream, FIRST_SAMPLE + i)
        tile = _tile(world, scene.image, caption=True)
        _write(tile, spec.name.replace("_", " "), world.recipe.image_size + 12, 0.36)
        tiles.append(tile)
    return tiles


def _boxes(scene: Scene) -> Bytes:
    image = scene.image.copy()
    for item in scene.objects:
        x1, y1, x2, y2 = item.box
        cv2.rectangle(image, (x1, y1), (x2 - 1, y2 - 1), COLOURS[item.class_id % len(COLOURS)], 1)
    return image


def _tile(world: World, image: Bytes, caption: bool = False) -> Bytes:
    side = world.recipe.image_size
    tile = np.full((side + GAP + 12 * caption, side + GAP, 3), 255, np.uint8)
    top, left = (side - image.shape[0]) // 2, (side - image.shape[1]) // 2
    tile[top : top + image.shape[0], left : left + image.shape[1]] = image
    return tile


def _rows(world: World, images: Sequence[Bytes]) -> list[Bytes]:
    side = world.recipe.image_size
    tiles = [i if i.shape[0] > side else _tile(world, i) for i in images]
    blank = np.full_like(tiles[0], 255)
    tiles += [blank] * (-len(tiles) % COLUMNS)
    return [np.concatenate(tiles[i : i + COLUMNS], 1) for i in range(0, len(tiles), COLUMNS)]


def _title(world: World, text: str) -> Bytes:
    band = np.full((26, COLUMNS * (world.recipe.image_size + GAP), 3), 255, np.uint8)
    _write(band, text, 18, 0.5)
    return band


def _write(image: Bytes, text: str, baseline: int, size: float) -> None:
    cv2.putText(image, text, (3, baseline), cv2.FONT_HERSHEY_SIMPLEX, size, (40,) * 3, 1,
                cv2.LINE_AA)  # fmt: skip


if __name__ == "__main__":
    run(main)
