"""Render a miniature world into the official archives of the data sets.

The folder it writes is a mirror: `fetch` reads it through a file: address, as it reads the real
archives over the network. The bytes of an archive do not depend on which others are rendered.
With --contact-sheet it also draws a page of samples.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from detransfer.console import run
from detransfer.data.masks import voc_palette
from detransfer.data.miniature.archives import ARCHIVES, write_archives
from detransfer.data.miniature.flowers import FLOWERS, render_flower
from detransfer.data.miniature.imagenet import det_class, render_loc
from detransfer.data.miniature.openimages import render
from detransfer.data.miniature.packing import Stream
from detransfer.data.miniature.places import PLACES, render_place
from detransfer.data.miniature.recipe import WorldRecipe
from detransfer.data.miniature.scenes import Scene, render_classification, render_scene
from detransfer.data.miniature.textures import Bytes
from detransfer.data.miniature.voc import class_mask, void
from detransfer.data.miniature.world import ClassSpec, World, make_world
from detransfer.files import atomic
from detransfer.strict import load_file

COLUMNS, ROWS = 8, 4
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
    parser.add_argument(
        "--archives", nargs="+", metavar="NAME", default=ARCHIVES,
        help=f"archives to render (default: all): {', '.join(ARCHIVES)}",
    )  # fmt: skip
    parser.add_argument("--contact-sheet", type=Path, help="also draw samples into this PNG")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    world = make_world(load_file(arguments.recipe, WorldRecipe))
    if arguments.contact_sheet:
        draw_contact_sheet(world, arguments.contact_sheet)
    write_archives(world, arguments.output, arguments.archives)


def draw_contact_sheet(world: World, path: Path) -> None:
    """Draw scenes with boxes and masks, then named images of the classes of every set."""
    bands = []
    for title, images in (
        ("detection target: boxes are tight around the whole object", _scenes(world)),
        ("segmentation target: what is seen, with void borders (in white)", _masks(world)),
        ("source with a hierarchy: groups, and objects on posters", _open_images(world)),
        (
            "source with many classes: large objects of one synset, named by their class in DET",
            _synsets(world),
        ),
        ("sources", _samples(world, world.imagenet_cls, Stream.IMAGENET_TRAIN)),
        ("detection target", _samples(world, world.voc, Stream.IMAGENET_VAL)),
        ("classification target", _samples(world, world.caltech, Stream.CALTECH)),
        ("scenes", _places(world)),
        ("flowers", _flowers(world)),
    ):
        bands += [_title(world, title), *_rows(world, images)]
    sheet = np.concatenate(bands)
    encoded = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1]
    with atomic(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def _scenes(world: World) -> list[Bytes]:
    return [
        _boxes(render_scene(world, world.voc, Stream.VOC_TRAINVAL_2007, FIRST_SAMPLE + i))
        for i in range(COLUMNS * ROWS)
    ]


def _masks(world: World) -> list[Bytes]:
    """Return pairs: an image and its mask in VOC's colours, void in white."""
    pairs = []
    for i in range(COLUMNS // 2):
        scene = render_scene(world, world.voc, Stream.VOC_TRAINVAL_2012, FIRST_SAMPLE + i)
        mask = np.where(void(scene, world.unit), 255, class_mask(scene))
        pairs += [scene.image, voc_palette()[mask]]
    return pairs


def _open_images(world: World) -> list[Bytes]:
    """Return groups and depictions, the boxes of which are the first ones drawn."""
    found: dict[str, list[Bytes]] = {"group": [], "poster": []}
    recipe = world.recipe.openimages
    if recipe.group_share and recipe.depiction_share:
        index = FIRST_SAMPLE
        while min(map(len, found.values())) < COLUMNS // 2:
            scene = render(world, "train", index)
            first = scene.objects[0]
            if first.crowd or first.depiction:
                found["group" if first.crowd else "poster"].append(_boxes(scene))
            index += 1
    return [image for images in found.values() for image in images[: COLUMNS // 2]]


def _synsets(world: World) -> list[Bytes]:
    tiles = []
    for i, spec in enumerate(world.imagenet_loc[-COLUMNS:]):
        image = _boxes(render_loc(world, spec, FIRST_SAMPLE + i))
        tiles.append(_named(world, image, det_class(spec)))
    return tiles


def _places(world: World) -> list[Bytes]:
    chosen = list(PLACES)[: world.recipe.sun397.classes]
    return [
        _named(
            world,
            render_place(world, name, Stream.SUN, FIRST_SAMPLE + i).image,
            name.split("/")[1],
        )
        for i, name in enumerate(chosen * 2)
    ]


def _flowers(world: World) -> list[Bytes]:
    chosen = FLOWERS[: world.recipe.flowers102.classes]
    return [
        _named(world, render_flower(world, kind, Stream.FLOWERS, FIRST_SAMPLE + i).image, kind.name)
        for i, kind in enumerate(chosen * 2)
    ]


def _samples(world: World, classes: Sequence[ClassSpec], stream: Stream) -> list[Bytes]:
    return [
        _named(world, render_classification(world, spec, stream, FIRST_SAMPLE + i).image, spec.name)
        for i, spec in enumerate(classes)
    ]


def _named(world: World, image: Bytes, name: str) -> Bytes:
    tile = _tile(world, image, caption=True)
    _write(tile, name.replace("_", " "), world.recipe.image_size + 12, 0.36)
    return tile


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
    if not tiles:
        return []
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
