"""Flowers: fine-grained classes that differ in petals, colour and centre, seen from any side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detransfer.data.miniature.objects import fill
from detransfer.data.miniature.scenes import MARGIN, Scene, finish, generator, image_size
from detransfer.data.miniature.shapes import Polygon, disc, smooth, spiked
from detransfer.data.miniature.textures import background, rgb
from detransfer.data.miniature.world import World


@dataclass(frozen=True)
class Flower:
    """One class. ``petal``: name of an outline; ``rows``: rings of petals, the outer one first.

    ``hue`` (0..1) and ``pale`` (0 vivid .. 1 white) are the centres of broad distributions that
    overlap between classes; ``centre``: name of what the petals stand around.
    """

    name: str
    petals: int
    petal: str
    rows: int
    hue: float
    pale: float
    centre: str


FLOWERS = (
    Flower("starflower", 5, "pointed", 1, 0.14, 0.2, "disc"),
    Flower("dog rose", 5, "notched", 1, 0.93, 0.6, "disc"),
    Flower("daisy", 13, "slender", 1, 0.15, 0.95, "disc"),
    Flower("black-eyed sunray", 13, "slender", 1, 0.13, 0.1, "eye"),
    Flower("tulip lily", 6, "pointed", 1, 0.02, 0.2, "stamens"),
    Flower("trumpet daffodil", 6, "round", 1, 0.15, 0.4, "trumpet"),
    Flower("poppy", 4, "round", 1, 0.01, 0.1, "eye"),
    Flower("pinwheel dahlia", 8, "pointed", 3, 0.85, 0.3, "disc"),
    Flower("bluebell star", 5, "slender", 1, 0.66, 0.3, "stamens"),
    Flower("camellia", 8, "round", 3, 0.95, 0.5, "stamens"),
)
# Right halves of petals as (distance from the centre, half width), for a petal of length 1.
_PETALS = {
    "round": ((0.1, 0.12), (0.5, 0.42), (0.85, 0.44), (1.0, 0.2)),
    "pointed": ((0.1, 0.1), (0.45, 0.34), (0.75, 0.26), (1.06, 0.0)),
    "notched": ((0.1, 0.1), (0.5, 0.4), (0.95, 0.44), (1.02, 0.2), (0.78, 0.0)),
    "slender": ((0.1, 0.06), (0.6, 0.16), (0.9, 0.15), (1.02, 0.04)),
}
_SHADES = 3  # nested outlines that make a petal's run from its base to its tip


def render_flower(world: World, flower: Flower, stream: int, index: int) -> Scene:
    """Render one flower in full before leaves; image size, background and scale tell no class."""
    height, width = image_size(world, stream, index, classification=True)
    rng = generator(world, stream, index, 1)
    # Leaves and ground are the same kind of clutter for every class.
    ground = background(generator(world, stream, index, 2), height, width, (4, 12), world.unit)
    longest = min(height, width) - 2 * MARGIN - 4
    radius = float(longest * rng.uniform(0.3, 0.5))
    room = np.array([width, height]) - 2 * (radius + MARGIN + 2)
    centre = radius + MARGIN + 2 + rng.uniform(0, 1, 2) * room
    canvas = np.clip(ground, 0, 255).astype(np.uint8)
    cover = np.zeros((height, width), np.uint8)
    for polygon, colour in _draw(rng, flower):
        placed = polygon * radius + centre
        fill(canvas, placed, colour)
        fill(cover, placed, (255, 0, 0))
    share = cover[..., None] * np.float32(world.recipe.contrast / 255)
    light = np.float32(rng.uniform(0.88, 1.1))
    return finish(world, ground, ground + share * (canvas * light - ground), stream, index)


def _draw(
    rng: np.random.Generator, flower: Flower
) -> list[tuple[Polygon, tuple[float, float, float]]]:
    """Return the polygons of a flower of radius 1 with their colours, in drawing order."""
    hue = flower.hue + rng.normal(0, 0.05)
    pale = np.clip(flower.pale + rng.normal(0, 0.15), 0, 1)
    tip = rgb(hue, 0.9 - 0.85 * pale, rng.uniform(0.8, 1.0))
    base = rgb(hue + rng.normal(0, 0.04), 0.95 - 0.6 * pale, rng.uniform(0.45, 0.7))
    outline = _petal(flower.petal, rng.uniform(0.85, 1.15))
    start, tilt = rng.uniform(0, 2 * np.pi), _tilt(rng)
    layers = []
    for row in range(flower.rows):
        size = 1 - 0.27 * row
        for k in rng.permutation(flower.petals):
            angle = start + 2 * np.pi * (k + 0.5 * row) / flower.petals + rng.normal(0, 0.05)
            length = size * (1 + rng.uniform(-0.07, 0.0))
            tone = rng.uniform(0.86, 1.0) * (1 - 0.08 * row)
            for step in range(_SHADES):
                shrink = 1 - 0.3 * step
                mixed = tone * (tip + (base - tip) * step / (_SHADES - 1))
                turned = _turn(outline * length * (shrink, 0.93 * shrink), angle)
                layers.append((turned, mixed))
            rim = _turn(np.array([(0.15, -0.015), (0.8, 0.0), (0.15, 0.015)]) * length, angle)
            layers.append((rim, 0.75 * tone * base))
    layers += _centre(rng, flower.centre)
    longest = 1.08
    return [
        (polygon @ tilt / longest, (float(c[0]), float(c[1]), float(c[2]))) for polygon, c in layers
    ]


def _petal(name: str, stretch: float) -> Polygon:
    half = np.array(_PETALS[name], float) * (1, stretch)
    closed = np.concatenate([half, (half * (1, -1))[::-1]])
    return smooth(closed, 1 if name in ("pointed", "notched") else 2)


def _turn(polygon: Polygon, angle: float) -> Polygon:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.asarray(polygon @ np.array([[cos, sin], [-sin, cos]]))


def _tilt(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the matrix that shows a flat flower from the side: one axis gets shorter."""
    turn, short = rng.uniform(0, np.pi), rng.uniform(0.6, 1.0)
    axes = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return np.asarray(axes.T @ np.diag([1.0, short]) @ axes)


def _centre(rng: np.random.Generator, name: str) -> list[tuple[Polygon, NDArray[np.float64]]]:
    """Return what the petals stand around: a disc, a dark eye, stamens or a trumpet."""
    yellow = rgb(rng.uniform(0.1, 0.16), rng.uniform(0.7, 0.95), rng.uniform(0.8, 1.0))
    dark = rgb(rng.uniform(0, 1), rng.uniform(0.2, 0.5), rng.uniform(0.08, 0.2))
    green = rgb(rng.uniform(0.2, 0.3), 0.6, rng.uniform(0.4, 0.65))
    size = rng.uniform(0.9, 1.1)
    if name == "disc":
        return [(disc(0, 0, 0.24 * size), yellow), (disc(0, 0, 0.13 * size), 0.8 * yellow)]
    if name == "eye":
        return [(disc(0, 0, 0.3 * size), dark), (disc(0, 0, 0.1 * size), 0.5 * dark + 40)]
    if name == "trumpet":
        rim = spiked(0, 0, 0.42 * size, 0.36 * size, 9)
        return [(rim, 0.95 * yellow), (disc(0, 0, 0.27 * size), 0.62 * yellow)]
    layers = [(disc(0, 0, 0.1 * size), green)]
    for k in range(6):
        angle = 2 * np.pi * k / 6 + rng.normal(0, 0.1)
        thread = np.array([(0.05, -0.022), (0.36, -0.022), (0.36, 0.022), (0.05, 0.022)]) * size
        anther = _turn(disc(0.38 * size, 0, 0.06 * size, 0.045 * size, 8), angle)
        layers += [(_turn(thread, angle), 0.5 * yellow + 110), (anther, dark)]
    return layers
