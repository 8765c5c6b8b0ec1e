"""Places: classes that are a composition of a whole image and no object at its centre.

Each is a layout (what lies where), families of textures and typical clutter. Colours, light and
the position of the horizon vary more within a class than between classes, so that a class is told
by its composition. The border of the image is part of that composition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from detransfer.data.miniature.objects import fill
from detransfer.data.miniature.scenes import Scene, finish, generator, image_size
from detransfer.data.miniature.shapes import disc
from detransfer.data.miniature.textures import Bytes, ramp, rgb, sample
from detransfer.data.miniature.world import World

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class _Sheet:
    """What a place is painted on. Coordinates are shares of the frame: x, y in 0..1."""

    rng: np.random.Generator
    canvas: Bytes
    unit: float

    @property
    def size(self) -> NDArray[np.float64]:
        """Width and height in pixels."""
        return np.array([self.canvas.shape[1], self.canvas.shape[0]], float)

    def colour(
        self, hue: float, saturation: float, value: float, spread: float = 0.05
    ) -> NDArray[np.float64]:
        """Return a colour around the one given."""
        rng = self.rng
        saturation = np.clip(saturation * rng.uniform(0.6, 1.3), 0, 1)
        return rgb(
            hue + rng.normal(0, spread), saturation, np.clip(value + rng.normal(0, 0.07), 0, 1)
        )

    def area(
        self, points: Points, colour: NDArray[np.float64], texture: str, scale: float, swing: float
    ) -> None:
        """Fill a polygon with a texture around a colour; ``swing``: its strength, 0..1."""
        height, width = self.canvas.shape[:2]
        light = np.clip(colour * (1 + swing), 0, 255)
        steps = ramp(colour * (1 - swing), light)
        window = sample(self.rng, texture, height, width, scale / self.unit)
        mask = np.zeros((height, width), np.uint8)
        fill(mask, np.array(points) * self.size, (255, 0, 0))
        cv2.copyTo(np.asarray(cv2.applyColorMap(window, steps)), mask, self.canvas)

    def shape(self, points: Points | NDArray[np.float64], colour: NDArray[np.float64]) -> None:
        """Fill a polygon with one colour."""
        tone = (float(colour[0]), float(colour[1]), float(colour[2]))
        fill(self.canvas, np.array(points) * self.size, tone)

    def spot(self, x: float, y: float, radius: float, colour: NDArray[np.float64]) -> None:
        """Fill a disc; its radius is a share of the frame's height."""
        self.shape(disc(x, y, radius * self.size[1] / self.size[0], radius), colour)

    def sky(self, low: float) -> None:
        """Fill the part above ``low`` (and a little more) with a clear or cloudy sky."""
        colour = self.colour(self.rng.choice([0.55, 0.58, 0.08]), 0.35, 0.85)
        self.area(_box(0, 0, 1, low + 0.02), colour, "clouds", 0.9, self.rng.uniform(0.03, 0.18))


def _box(x1: float, y1: float, x2: float, y2: float) -> Points:
    return [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]


def _ridge(rng: np.random.Generator, level: float, height: float, corners: int) -> Points:
    """Return the area below a jagged line around ``level``."""
    x = np.linspace(-0.05, 1.05, corners)
    y = level - height * rng.uniform(0, 1, corners) * np.where(np.arange(corners) % 2, 1.0, 0.35)
    return [*zip(x.tolist(), y.tolist(), strict=True), (1.05, 1.05), (-0.05, 1.05)]


def _wave(rng: np.random.Generator, level: float, height: float) -> Points:
    """Return the area below a long wave around ``level``."""
    x = np.linspace(-0.02, 1.02, 25)
    y = level + height * np.sin(2 * np.pi * (x * rng.uniform(0.5, 1.1) + rng.uniform(0, 1)))
    return [*zip(x.tolist(), y.tolist(), strict=True), (1.02, 1.05), (-0.02, 1.05)]


def _abbey(sheet: _Sheet) -> None:
    """A nave: a row of arched windows in a stone wall above a stone floor."""
    rng = sheet.rng
    wall = sheet.colour(rng.choice([0.08, 0.1, 0.6]), 0.2, 0.6)
    sheet.area(_box(0, 0, 1, 1), wall, "bricks", 1.6, 0.12)
    floor = rng.uniform(0.72, 0.86)
    sheet.area(_box(0, floor, 1, 1), 0.75 * wall, "stone", 1.2, 0.2)
    count, glass = int(rng.integers(3, 6)), sheet.colour(rng.uniform(0, 1), 0.5, 0.75)
    top, bottom, phase = rng.uniform(0.1, 0.25), floor - rng.uniform(0.08, 0.2), rng.uniform(0, 1)
    for k in range(-1, count + 1):
        x, half = (k + phase + 0.5) / count, 0.26 / count
        arch = [(x + half * np.cos(a), top + half * (1 - np.sin(a)) * 1.3)
                for a in np.linspace(np.pi, 0, 9)]  # fmt: skip
        sheet.shape([*arch, (x + half, bottom), (x - half, bottom)], glass * rng.uniform(0.8, 1.1))
        pillar = 0.5 / count
        sheet.shape(_box(x + pillar - 0.02, 0, x + pillar + 0.02, floor), 0.7 * wall)


def _apartments(sheet: _Sheet) -> None:
    """Tall blocks with a grid of windows before a sky."""
    rng = sheet.rng
    sheet.sky(1.0)
    x = rng.uniform(-0.2, 0.0)
    while x < 1:
        width, top = rng.uniform(0.25, 0.45), rng.uniform(0.05, 0.4)
        wall = sheet.colour(rng.choice([0.02, 0.09, 0.58]), 0.3, 0.6)
        sheet.area(_box(x, top, x + width, 1), wall, "stone", 1.0, 0.06)
        columns, rows = int(rng.integers(3, 5)), int(rng.integers(5, 9))
        lit, dark = sheet.colour(0.14, 0.4, 0.9), sheet.colour(0.6, 0.3, 0.3)
        for i in range(columns):
            for j in range(rows):
                left, high = x + (i + 0.25) * width / columns, top + (j + 0.3) * (1 - top) / rows
                box = _box(left, high, left + 0.5 * width / columns, high + 0.5 * (1 - top) / rows)
                sheet.shape(box, lit if rng.random() < 0.3 else dark)
        x += width + rng.uniform(0.0, 0.06)


def _beach(sheet: _Sheet) -> None:
    """Sky, a band of sea, sand with a slanted waterline, sunshades."""
    rng = sheet.rng
    horizon, shore = rng.uniform(0.2, 0.4), rng.uniform(0.55, 0.72)
    sheet.sky(horizon)
    sea = sheet.colour(rng.choice([0.5, 0.55, 0.6]), 0.5, 0.6)
    sheet.area(_box(0, horizon, 1, 1), sea, "waves", 3.0, 0.15)
    tilt = rng.uniform(-0.12, 0.12)
    foam, sand = sheet.colour(0.5, 0.05, 0.95), sheet.colour(0.1, 0.35, 0.8)
    for offset, colour in ((0.0, foam), (0.025, sand)):
        land = [(0, shore + tilt + offset), (1, shore - tilt + offset), (1, 1.02), (0, 1.02)]
        sheet.area(land, colour, "speckle", 1.5, 0.08)
    for _ in range(int(rng.integers(1, 5))):
        x, y = rng.uniform(0.05, 0.95), rng.uniform(shore + 0.12, 0.97)
        r = 0.07 * y
        sheet.shape(_box(x - 0.006, y - r, x + 0.006, y), sheet.colour(0.1, 0.2, 0.4))
        shade = [
            (x + r * np.cos(a), y - r * (1 + 0.7 * np.sin(a))) for a in np.linspace(0, np.pi, 7)
        ]
        sheet.shape(shade, sheet.colour(rng.uniform(0, 1), 0.7, 0.8))


def _broadleaf(sheet: _Sheet) -> None:
    """A forest: trunks from top to bottom, crowns above, litter below."""
    rng = sheet.rng
    leaf = rng.choice([0.07, 0.2, 0.3])
    sheet.area(_box(0, 0, 1, 1), sheet.colour(leaf, 0.5, 0.55), "speckle", 2.0, 0.35)
    floor = rng.uniform(0.7, 0.9)
    sheet.area(_wave(rng, floor, 0.03), sheet.colour(0.1, 0.45, 0.4), "speckle", 1.5, 0.3)
    for depth in np.sort(rng.uniform(0.3, 1, int(rng.integers(6, 12)))):
        x, lean, half = rng.uniform(0, 1), rng.normal(0, 0.04), 0.035 * depth
        bark = sheet.colour(0.08, 0.35, 0.55 - 0.3 * depth)
        foot = floor - 0.06 + 0.16 * depth
        trunk = [(x - half, foot), (x + lean - half, 0), (x + lean + half, 0), (x + half, foot)]
        sheet.area(trunk, bark, "bands", 2.5, 0.25)
    for _ in range(int(rng.integers(20, 40))):
        crown = sheet.colour(leaf, 0.55, rng.uniform(0.3, 0.75))
        sheet.spot(rng.uniform(0, 1), rng.uniform(0, 0.32) ** 1.2, rng.uniform(0.03, 0.09), crown)


def _corridor(sheet: _Sheet) -> None:
    """Walls, floor and ceiling that run to one point; doors on both sides."""
    rng = sheet.rng
    x, y = rng.uniform(0.35, 0.65), rng.uniform(0.35, 0.6)
    half = rng.uniform(0.07, 0.13), rng.uniform(0.09, 0.16)
    left, top, right, bottom = x - half[0], y - half[1], x + half[0], y + half[1]
    wall = sheet.colour(rng.choice([0.1, 0.15, 0.58]), 0.2, 0.7)
    sheet.area([(0, 0), (1, 0), (right, top), (left, top)], sheet.colour(0.1, 0.1, 0.85), "stone",
               0.8, 0.05)  # fmt: skip
    sheet.area([(0, 1), (1, 1), (right, bottom), (left, bottom)], sheet.colour(0.07, 0.35, 0.45),
               "planks", 1.5, 0.2)  # fmt: skip
    for side, edge, shade in ((0, left, 0.95), (1, right, 0.8)):
        sheet.area(
            [(side, 0), (edge, top), (edge, bottom), (side, 1)], shade * wall, "stone", 0.8, 0.06
        )
        door = sheet.colour(rng.choice([0.06, 0.55]), 0.5, 0.45)
        for near in (0.12, 0.48, 0.74):
            ends = [near + 0.02, near + 0.02 + 0.2 * (1 - near)]
            xs = [side + (edge - side) * t for t in ends]
            feet = [1 + (bottom - 1) * t for t in ends]
            heads = [0.72 * (top * t) + 0.28 * f for t, f in zip(ends, feet, strict=True)]
            sheet.shape(
                [(xs[0], heads[0]), (xs[1], heads[1]), (xs[1], feet[1]), (xs[0], feet[0])], door
            )
    sheet.shape(_box(left, top, right, bottom), 0.65 * wall)
    for near in (0.15, 0.45, 0.68):
        middle, level = 0.5 + (x - 0.5) * near, top * near
        lamp = 0.12 * (1 - near)
        sheet.shape(
            _box(middle - lamp, level, middle + lamp, level + 0.3 * lamp), np.full(3, 250.0)
        )


def _desert(sheet: _Sheet) -> None:
    """Dunes one behind another under a sky, with a few shrubs."""
    rng = sheet.rng
    horizon = rng.uniform(0.2, 0.45)
    sheet.sky(horizon + 0.1)
    sand = sheet.colour(rng.choice([0.06, 0.1, 0.12]), 0.45, 0.75)
    for k, level in enumerate(np.linspace(horizon, 0.85, int(rng.integers(3, 5)))):
        tone = sand * (0.78 + 0.1 * (k % 2) + rng.uniform(0, 0.12))
        sheet.area(_wave(rng, float(level), 0.06), tone, "waves", 2.0 - 0.3 * k, 0.1)
    for _ in range(int(rng.integers(0, 6))):
        x, y = rng.uniform(0, 1), rng.uniform(horizon + 0.2, 0.97)
        sheet.spot(x, y, 0.025 * y, sheet.colour(0.22, 0.4, 0.4))


def _mountain(sheet: _Sheet) -> None:
    """Ridges one before another, the highest with snow, and a foot of trees."""
    rng = sheet.rng
    sheet.sky(1.0)
    rock = sheet.colour(rng.choice([0.07, 0.1, 0.6]), 0.25, 0.55)
    level = rng.uniform(0.6, 0.75)
    peaks = _ridge(rng, level, rng.uniform(0.4, 0.55), int(rng.integers(5, 9)))
    sheet.area(peaks, 1.1 * rock, "stone", 1.0, 0.3)
    snow = rng.uniform(0.1, 0.2)
    for x, y in peaks[1:-3:2]:
        cap = [(x, y), (x + 0.35 * snow, y + 0.75 * snow), (x, y + 0.55 * snow),
               (x - 0.35 * snow, y + 0.75 * snow)]  # fmt: skip
        sheet.shape(cap, np.full(3, rng.uniform(225, 250)))
    near = _ridge(rng, level + 0.12, 0.2, int(rng.integers(6, 11)))
    sheet.area(near, 0.7 * rock, "stone", 1.4, 0.3)
    wood = sheet.colour(rng.choice([0.1, 0.28]), 0.45, 0.3)
    sheet.area(_ridge(rng, rng.uniform(0.92, 1.0), 0.1, 41), wood, "speckle", 1.5, 0.3)


def _street(sheet: _Sheet) -> None:
    """A road that narrows to the horizon between two rows of houses."""
    rng = sheet.rng
    x, y = rng.uniform(0.38, 0.62), rng.uniform(0.38, 0.52)
    sheet.sky(y + 0.05)
    sheet.area(_box(0, y, 1, 1), sheet.colour(0.08, 0.15, 0.55), "stone", 1.2, 0.12)
    road = [
        (x - 0.03, y),
        (x + 0.03, y),
        (rng.uniform(0.85, 1.1), 1.02),
        (rng.uniform(-0.1, 0.15), 1.02),
    ]
    sheet.area(road, sheet.colour(0.6, 0.08, 0.35), "speckle", 1.2, 0.12)
    for t in np.linspace(0.05, 0.9, 5):
        dash = 0.018 * t + 0.003
        low = y + (1 - y) * t
        middle = x + (0.5 * (road[2][0] + road[3][0]) - x) * t
        sheet.shape(
            _box(middle - dash, low, middle + dash, low + 0.1 * t + 0.01), np.full(3, 235.0)
        )
    for side in (0, 1):
        edge = x - 0.05 if side == 0 else x + 0.05
        for t in (0.82, 0.55, 0.25, -0.1):
            wall = sheet.colour(rng.choice([0.02, 0.1, 0.55]), 0.4, 0.65)
            far, near = side + (edge - side) * min(t + 0.3, 1), side + (edge - side) * t
            roof = (1 - t) * rng.uniform(0.3, 0.42)
            foot = y + (1 - t) * 0.28
            block = [
                (near, y - roof),
                (far, y - 0.72 * roof),
                (far, y + 0.72 * (foot - y)),
                (near, foot),
            ]
            sheet.area(block, wall, "bricks", 1.5, 0.12)
            for k in (0.3, 0.65):
                at = near + (far - near) * k
                wide = 0.22 * abs(far - near)
                sheet.shape(
                    _box(at - wide / 2, y - 0.55 * roof, at + wide / 2, y - 0.2 * roof), 0.4 * wall
                )


# The official folders of the classes, and how they are painted.
PLACES: dict[str, Callable[[_Sheet], None]] = {
    "a/abbey": _abbey,
    "a/apartment_building/outdoor": _apartments,
    "b/beach": _beach,
    "c/corridor": _corridor,
    "d/desert/sand": _desert,
    "f/forest/broadleaf": _broadleaf,
    "m/mountain": _mountain,
    "s/street": _street,
}


def render_place(world: World, place: str, stream: int, index: int) -> Scene:
    """Render a place of ``PLACES``; the size of the image tells nothing of the class.

    A world's contrast fades the composition to one grey level, the scene's ``background``.
    """
    height, width = image_size(world, stream, index, classification=True)
    rng = generator(world, stream, index, 1)
    sheet = _Sheet(rng, np.zeros((height, width, 3), np.uint8), world.unit)
    PLACES[place](sheet)
    canvas = sheet.canvas.astype(np.float32)
    if rng.random() < 0.5:
        canvas = np.ascontiguousarray(canvas[:, ::-1])
    light = sample(rng, "clouds", height, width, 0.5 / world.unit).astype(np.float32)
    canvas *= (rng.uniform(0.75, 0.95) + 0.3 / 255 * light)[..., None].astype(np.float32)
    grey = np.full_like(canvas, 128)
    return finish(
        world, grey, grey + np.float32(world.recipe.contrast) * (canvas - grey), stream, index
    )
