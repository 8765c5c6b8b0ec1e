"""Outlines of the miniature world: bodies, attached parts and marks.

Object coordinates: x to the right, y downwards, the body's longer side spans -1..1.
A body is a union of polygons. A part is drawn behind or in front of it; a *mark* stays inside the
body, so that it leaves the silhouette as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

Polygon = NDArray[np.float64]
_GRID = 200  # raster cells an object unit, for measuring a body


@dataclass(frozen=True)
class Body:
    """A kind of body: its outline and the look that its instances vary around.

    ``hue`` (0..1) is only the centre of a broad distribution that overlaps its neighbours', so
    that colour hints at a class without telling it.
    """

    name: str
    family: str
    texture: str
    hue: float
    outline: tuple[Polygon, ...]


@dataclass(frozen=True)
class Layer:
    """One polygon of a part: ``tone`` names its colour, ``behind`` its order with the body."""

    polygon: Polygon
    tone: str
    behind: bool = False


@dataclass(frozen=True)
class Frame:
    """Where parts attach: measured on the rasterised body. ``radius``: largest inscribed disc."""

    centre: tuple[float, float]
    radius: float
    cover: NDArray[np.bool_]

    def top(self, x: float) -> float:
        """Return the smallest y of the body in the column at ``x``."""
        return float(np.flatnonzero(self.cover[:, _cell(x)])[0]) / _GRID - 1.5

    def bottom(self, x: float) -> float:
        """Return the largest y of the body in the column at ``x``."""
        return float(np.flatnonzero(self.cover[:, _cell(x)])[-1]) / _GRID - 1.5

    def right(self, y: float) -> float:
        """Return the largest x of the body in the row at ``y``."""
        return float(np.flatnonzero(self.cover[_cell(y)])[-1]) / _GRID - 1.5

    def columns(self, low: float, high: float) -> tuple[float, float]:
        """Return the x at two shares (0..1) of the body's width."""
        filled = np.flatnonzero(self.cover.any(0)) / _GRID - 1.5
        width = filled[-1] - filled[0]
        return float(filled[0] + low * width), float(filled[0] + high * width)


def _cell(value: float) -> int:
    return round((value + 1.5) * _GRID)


def _points(*pairs: tuple[float, float]) -> Polygon:
    return np.array(pairs, dtype=float)


def disc(x: float, y: float, radius: float, height: float | None = None, n: int = 18) -> Polygon:
    """Return an ellipse (a disc when ``height``, its vertical radius, is not given)."""
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    tall = radius if height is None else height
    return np.stack([x + radius * np.cos(angle), y + tall * np.sin(angle)], 1)


def ring(x: float, y: float, outer: float, inner: float) -> Polygon:
    """Return an annulus."""
    angle = np.linspace(-np.pi / 2, -np.pi / 2 + 2 * np.pi, 25)
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    return np.array([x, y]) + np.concatenate([outer * circle, inner * circle[::-1]])


def spiked(x: float, y: float, outer: float, inner: float, tips: int) -> Polygon:
    """Return a star with ``tips`` points, the first one upwards."""
    angle = np.arange(2 * tips) * np.pi / tips - np.pi / 2
    radius = np.where(np.arange(2 * tips) % 2 == 0, outer, inner)
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], 1)


def bar(a: tuple[float, float], b: tuple[float, float], width: float) -> Polygon:
    """Return a straight bar from ``a`` to ``b``."""
    start, end = np.array(a), np.array(b)
    along = (end - start) / np.hypot(*(end - start))
    across = np.array([-along[1], along[0]]) * width / 2
    return np.stack([start + across, end + across, end - across, start - across])


def smooth(points: Polygon, rounds: int = 3) -> Polygon:
    """Return a closed polygon with its corners cut (Chaikin's scheme)."""
    for _ in range(rounds):
        following = np.roll(points, -1, axis=0)
        pairs = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], 1)
        points = pairs.reshape(-1, 2)
    return points


def _mirror(*right: tuple[float, float]) -> Polygon:
    """Return a left-right symmetric polygon from the corners of its right half."""
    half = np.array(right, dtype=float)
    return np.concatenate([half, half[::-1] * (-1, 1)])


def _gear() -> Polygon:
    angle = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    radius = np.where(np.arange(32) // 2 % 2 == 0, 1.0, 0.74)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


def _leaf() -> Polygon:
    x = np.linspace(-1, 1, 19)
    y = 0.62 * (1 - x**2) ** 0.85 * (1 - 0.35 * x)
    y[1:-1:2] *= 0.86  # a serrated edge
    return np.concatenate([np.stack([x, -y], 1), np.stack([x, y], 1)[-2:0:-1]])


def _moon() -> Polygon:
    outer = np.linspace(0.22 * np.pi, 1.78 * np.pi, 26)
    inner = np.linspace(1.70 * np.pi, 0.30 * np.pi, 20)
    rim = np.stack([0.1 + np.cos(outer), np.sin(outer)], 1)
    return np.concatenate([rim, np.stack([0.52 + 0.72 * np.cos(inner), 0.72 * np.sin(inner)], 1)])


def _arch() -> Polygon:
    angle = np.linspace(np.pi, 2 * np.pi, 13)
    arc = np.stack([np.cos(angle), np.sin(angle)], 1)
    return np.concatenate(
        [
            _points((-0.9, 0.9)),
            arc * (0.9, 0.75) - (0, 0.15),
            _points((0.9, 0.9), (0.42, 0.9)),
            arc[::-1] * (0.42, 0.4) + (0, 0.1),
            _points((-0.42, 0.9)),
        ]
    )


_BELL = smooth(_mirror((0.2, -1.0), (0.5, -0.6), (0.5, 0.2), (0.9, 0.75), (0.8, 0.85)), 2)
_BODIES = (
    Body("fish", "nature", "scales", 0.05, (
        disc(0.28, 0.0, 0.72, 0.46), _points((-0.3, 0.0), (-1, -0.52), (-0.82, 0), (-1, 0.52)))),
    Body("house", "building", "bricks", 0.98, (
        _mirror((0.0, -1.0), (1.0, -0.15), (0.74, -0.15), (0.74, 0.9)),)),
    Body("bottle", "vessel", "bands", 0.38, (
        _mirror((0.16, -1.0), (0.16, -0.45), (0.42, -0.1), (0.42, 1.0)),)),
    Body("star", "sign", "speckle", 0.14, (spiked(0, 0.05, 1.0, 0.48, 5),)),
    Body("leaf", "nature", "veins", 0.30, (_leaf(), bar((-1.0, 0.0), (-0.85, 0.0), 0.14))),
    Body("crate", "building", "planks", 0.09, (
        _points((-1, -0.66), (1, -0.66), (1, 0.66), (-1, 0.66)),)),
    Body("cup", "vessel", "dots", 0.55, (_mirror((0.86, -0.8), (0.5, 0.85)),)),
    Body("gear", "sign", "brushed", 0.62, (_gear(),)),
    Body("mushroom", "nature", "dots", 0.92, (
        smooth(_points((-1, 0.1), (-0.9, -0.6), (0, -1.1), (0.9, -0.6), (1, 0.1)), 2),
        _mirror((0.26, -0.1), (0.34, 0.95)))),
    Body("arch", "building", "stone", 0.70, (_arch(),)),
    Body("bell", "vessel", "waves", 0.17, (_BELL, disc(0, 0.82, 0.2))),
    Body("moon", "sign", "clouds", 0.80, (_moon(),)),
)  # fmt: skip
BODIES = {body.name: body for body in _BODIES}
PLAIN = Body("plain", "plain", "stone", 0.0, (smooth(_points((-1, -1), (1, -1), (1, 1), (-1, 1))),))


@cache
def frame(name: str) -> Frame:
    """Measure a body: see :class:`Frame`."""
    cover = np.zeros((3 * _GRID + 1, 3 * _GRID + 1), np.uint8)
    for polygon in BODIES[name].outline:
        cv2.fillPoly(cover, [np.round((polygon + 1.5) * _GRID).astype(np.int32)], 1)
    depth = cv2.distanceTransform(cover, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    centre = (float(column) / _GRID - 1.5, float(row) / _GRID - 1.5)
    return Frame(centre, float(depth.max()) / _GRID, cover.astype(bool))


# --- parts that change the silhouette -------------------------------------------------------------


def _wheels(body: Frame) -> list[Layer]:
    layers = []
    for x in body.columns(0.24, 0.76):
        y = body.bottom(x)
        layers += [Layer(disc(x, y, 0.27), "dark"), Layer(disc(x, y, 0.12), "light")]
    return layers


def _horns(body: Frame) -> list[Layer]:
    layers = []
    left, right = body.columns(0.33, 0.67)
    for x, out in ((left, -0.28), (right, 0.28)):
        y = body.top(x) + 0.12
        tip = (x + out, y - 0.62)
        layers.append(Layer(_points((x - 0.13, y), tip, (x + 0.13, y)), "light"))
    return layers


def _ears(body: Frame) -> list[Layer]:
    layers = []
    for x in body.columns(0.26, 0.74):
        y = body.top(x) - 0.1
        layers += [
            Layer(disc(x, y, 0.25, 0.34), "accent", behind=True),
            Layer(disc(x, y, 0.13, 0.2), "dark", behind=True),
        ]
    return layers


def _aerial(body: Frame) -> list[Layer]:
    x = body.columns(0.5, 1)[0]
    y = body.top(x) + 0.05
    ball = disc(x, y - 0.68, 0.17)
    return [Layer(bar((x, y), (x, y - 0.6), 0.1), "dark"), Layer(ball, "accent")]


def _flag(body: Frame) -> list[Layer]:
    x = body.columns(0.42, 1)[0]
    y = body.top(x) + 0.05
    cloth = _points((x, y - 0.8), (x + 0.7, y - 0.58), (x, y - 0.34))
    return [Layer(bar((x, y), (x, y - 0.82), 0.09), "dark"), Layer(cloth, "accent")]


def _legs(body: Frame) -> list[Layer]:
    layers = []
    for share in (0.18, 0.4, 0.6, 0.82):
        x = body.columns(share, 1)[0]
        y = body.bottom(x) - 0.08
        foot = (x + 0.5 * (share - 0.5), y + 0.52)
        layers.append(Layer(bar((x, y), foot, 0.11), "dark", behind=True))
    return layers


def _handle(body: Frame) -> list[Layer]:
    y = body.centre[1]
    x = body.right(y)
    return [Layer(ring(x + 0.12, y, 0.38, 0.22), "accent", behind=True)]


def _wings(body: Frame) -> list[Layer]:
    x, y = body.centre
    near = 0.6 * body.radius
    right = _points((x + near, y + 0.15), (x + near, y - 0.25), (x + near + 0.95, y - 0.75),
                    (x + near + 0.8, y - 0.2), (x + near + 0.55, y))  # fmt: skip
    left = (right - (x, 0)) * (-1, 1) + (x, 0)
    return [Layer(right, "light", behind=True), Layer(left, "light", behind=True)]


# --- marks: inside the body, in units of its largest inscribed disc ------------------------------


def _row(make: Callable[[float], Polygon], places: Sequence[float], tone: str) -> list[Layer]:
    return [Layer(make(place), tone) for place in places]


_CROSS = _points((-0.2, -0.7), (0.2, -0.7), (0.2, -0.2), (0.7, -0.2), (0.7, 0.2), (0.2, 0.2),
                 (0.2, 0.7), (-0.2, 0.7), (-0.2, 0.2), (-0.7, 0.2), (-0.7, -0.2),
                 (-0.2, -0.2))  # fmt: skip
_CHEVRON = _points((-0.75, 0.35), (0, -0.5), (0.75, 0.35), (0.75, 0.75), (0, -0.1), (-0.75, 0.75))
_ARROW = _points((-0.75, -0.16), (0.1, -0.16), (0.1, -0.55), (0.8, 0), (0.1, 0.55), (0.1, 0.16),
                 (-0.75, 0.16))  # fmt: skip
_HEART = smooth(_points((0, -0.3), (0.45, -0.85), (0.95, -0.3), (0, 0.95), (-0.95, -0.3),
                        (-0.45, -0.85)), 2)  # fmt: skip
_BOLT = _points((0.15, -0.85), (-0.5, 0.1), (-0.05, 0.1), (-0.2, 0.85), (0.5, -0.15), (0.05, -0.15),
                (0.35, -0.85))  # fmt: skip
_CELL = [Layer(_points((x, y), (x + 0.55, y), (x + 0.55, y + 0.55), (x, y + 0.55)), "dark")
         for x in (-0.62, 0.07) for y in (-0.62, 0.07)]  # fmt: skip
MARKS: dict[str, list[Layer]] = {
    "spots": [Layer(disc(x, y, 0.3), "light")
              for x, y in ((-0.45, 0.35), (0.45, 0.35), (0, -0.45))],
    "eye": [Layer(disc(0, 0, 0.72), "light"), Layer(disc(0.12, 0.05, 0.36), "dark")],
    "cross": [Layer(_CROSS, "light")],
    "band": _row(lambda x: bar((x, -0.75), (x, 0.75), 0.24), (-0.42, 0.0, 0.42), "light"),
    "ring": [Layer(ring(0, 0, 0.78, 0.44), "accent")],
    "chevron": [Layer(_CHEVRON, "light")],
    "heart": [Layer(_HEART * 0.9, "accent")],
    "window": [Layer(disc(0, 0, 0.95, n=4) @ np.array([[0.71, 0.71], [-0.71, 0.71]]), "light"),
               *_CELL],
    "triangle": [Layer(_points((0, -0.8), (0.75, 0.55), (-0.75, 0.55)), "dark")],
    "diamond": [Layer(disc(0, 0, 0.5, 0.85, n=4), "light")],
    "rungs": _row(lambda y: bar((-0.65, y), (0.65, y), 0.22), (-0.5, 0.0, 0.5), "dark"),
    "asterisk": [Layer(spiked(0, 0, 0.85, 0.22, 6), "light")],
    "arrow": [Layer(_ARROW, "accent")],
    "crescent": [Layer(_moon() * 0.8, "light")],
    "bolt": [Layer(_BOLT, "light")],
    "target": [Layer(disc(0, 0, 0.8), "accent"), Layer(disc(0, 0, 0.5), "light"),
               Layer(disc(0, 0, 0.24), "dark")],
}  # fmt: skip
_ATTACHED: dict[str, Callable[[Frame], list[Layer]]] = {
    "wheels": _wheels, "horns": _horns, "ears": _ears, "aerial": _aerial,
    "flag": _flag, "legs": _legs, "handle": _handle, "wings": _wings,
}  # fmt: skip
# The parts of the body-and-part world with the adjective that names their class.
PARTS = {
    "wings": "winged", "wheels": "wheeled", "spots": "spotted", "horns": "horned",
    "flag": "flagged", "eye": "eyed", "legs": "legged", "aerial": "aerial", "cross": "crossed",
    "ears": "eared", "handle": "handled", "band": "banded",
}  # fmt: skip


@cache
def part_layers(body: str, part: str) -> tuple[Layer, ...]:
    """Return a part's polygons on a body, in object coordinates, in drawing order."""
    measured = frame(body)
    if part in _ATTACHED:
        return tuple(_ATTACHED[part](measured))
    size = 0.92 * measured.radius
    return tuple(Layer(layer.polygon * size + measured.centre, layer.tone) for layer in MARKS[part])
