"""One object of the miniature world: its pose and look, drawn as a sprite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from detransfer.data.miniature.shapes import BODIES, PLAIN, Body, Polygon, part_layers
from detransfer.data.miniature.textures import Bytes, Floats, ramp, rgb, sample
from detransfer.data.miniature.world import ClassSpec

_FRACTION_BITS = 4  # OpenCV's fixed point: vertices are placed to 1/16 pixel
_JITTER = 0.08  # relative deviation of a body's proportions within its class
POSTER_MARGIN = 0.16  # free room around an object on a poster, as a share of the object's size
_EXTENT_JITTER = 0.015  # classes told apart by extent alone are 11 % apart


@dataclass(frozen=True)
class Pose:
    """The polygons of one object in pixels around its centre, split by what they belong to."""

    behind: tuple[tuple[Polygon, str], ...]
    body: tuple[Polygon, ...]
    front: tuple[tuple[Polygon, str], ...]
    shape: Body
    angle: float

    def polygons(self) -> list[Polygon]:
        """Return every polygon, in drawing order."""
        return [*(p for p, _ in self.behind), *self.body, *(p for p, _ in self.front)]


@dataclass(frozen=True)
class Sprite:
    """A drawn silhouette: ``alpha`` (h, w) uint8 coverage, ``origin`` of its corner (x, y).

    ``mask`` is the pixels covered by half or more; ``pose`` is relative to the sprite's corner.
    """

    alpha: Bytes
    mask: NDArray[np.bool_]
    pose: Pose


def draw_pose(
    rng: np.random.Generator, spec: ClassSpec, size: float, rotation: float
) -> tuple[Pose, NDArray[np.float64]]:
    """Draw proportions, flip and rotation; return the pose and its extent (width, height).

    ``size``: the longer side of the whole silhouette in pixels, parts included, whatever the class.
    Where classes differ by extent alone it is the side of the square of the same area as the
    longest box allows, so that the area does not tell the class. ``rotation``: largest, in degrees.
    """
    choice = int(rng.integers(len(BODIES)))
    turn, flip = np.radians(rng.uniform(-rotation, rotation)), rng.random() < 0.5
    stretch = np.exp(np.clip(rng.normal(0, 1), -2, 2))
    if spec.aspect is not None:
        return _plain_pose(spec.aspect * stretch**_EXTENT_JITTER, size)
    shape = BODIES[spec.body] if spec.body else list(BODIES.values())[choice]
    layers = part_layers(shape.name, spec.part) if spec.part else ()
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    matrix = np.diag([stretch**_JITTER * (-1 if flip else 1), stretch**-_JITTER]) @ matrix
    polygons = [*shape.outline, *(layer.polygon for layer in layers)]
    turned = np.concatenate(polygons) @ matrix
    low, high = turned.min(0), turned.max(0)
    factor = size / (high - low).max()
    turned = (turned - (low + high) / 2) * factor
    parts = np.split(turned, np.cumsum([len(p) for p in polygons])[:-1])
    body, rest = tuple(parts[: len(shape.outline)]), parts[len(shape.outline) :]
    toned = list(zip(rest, layers, strict=True))
    behind = tuple((p, layer.tone) for p, layer in toned if layer.behind)
    front = tuple((p, layer.tone) for p, layer in toned if not layer.behind)
    return Pose(behind, body, front, shape, float(turn)), (high - low) * factor


def _plain_pose(aspect: float, size: float) -> tuple[Pose, NDArray[np.float64]]:
    sides = size / np.sqrt(3.6) * np.array([np.sqrt(aspect), 1 / np.sqrt(aspect)])
    outline = PLAIN.outline[0]
    box = np.ptp(outline, axis=0)
    return Pose((), (outline / box * sides,), (), PLAIN, 0.0), sides


def draw_sprite(pose: Pose, centre: NDArray[np.float64]) -> tuple[Sprite, tuple[int, int]]:
    """Rasterise a silhouette around ``centre`` (x, y); return it and its corner (x, y) in pixels.

    The sprite is not cut by any frame.
    """
    points = np.concatenate(pose.polygons())
    left, top = (int(v) for v in np.floor(points.min(0) + centre) - 1)
    right, bottom = (int(v) for v in np.ceil(points.max(0) + centre) + 2)
    moved = _move(pose, centre - (left, top))
    alpha = np.zeros((bottom - top, right - left), np.uint8)
    for polygon in moved.polygons():
        fill(alpha, polygon, (255, 0, 0))
    return Sprite(alpha, alpha >= 128, moved), (left, top)


def _move(pose: Pose, shift: NDArray[np.float64]) -> Pose:
    behind = tuple((p + shift, tone) for p, tone in pose.behind)
    front = tuple((p + shift, tone) for p, tone in pose.front)
    return Pose(behind, tuple(p + shift for p in pose.body), front, pose.shape, pose.angle)


def fill(image: NDArray[Any], polygon: Polygon, colour: tuple[float, float, float]) -> None:
    """Fill a polygon of a uint8 image with soft edges.

    (0, 0) is the corner of the first pixel, not its centre.
    """
    fixed = np.round((polygon - 0.5) * 2**_FRACTION_BITS).astype(np.int32)
    cv2.fillPoly(image, [fixed], colour, cv2.LINE_AA, _FRACTION_BITS)


def paint(rng: np.random.Generator, sprite: Sprite, spec: ClassSpec, size: float) -> Floats:
    """Colour a sprite, (h, w, 3) float32 RGB: texture, part, rounding and light.

    Where the body does not belong to the class, neither do hue and texture; where only the extent
    does, every object has one texture.
    """
    height, width = sprite.alpha.shape
    shape = sprite.pose.shape
    hue = shape.hue + rng.normal(0, 0.1) if spec.body else rng.uniform(0, 1)
    value, swing = rng.uniform(0.5, 0.8), rng.uniform(0.14, 0.26)
    saturation = rng.uniform(0.4, 0.8)
    other = float(hue + rng.normal(0, 0.06))
    colours = ramp(rgb(hue, saturation, value - swing), rgb(other, 0.8 * saturation, value + swing))
    # A body shows about the same piece of texture at every size, as a real surface does.
    scale = float(rng.uniform(90, 130)) / size
    window = sample(rng, shape.texture, height, width, scale, -sprite.pose.angle)
    tones = _tones(rng, hue, value)
    surface = np.asarray(cv2.applyColorMap(window, colours))
    if sprite.pose.behind:
        cover = np.zeros_like(sprite.alpha)
        for polygon in sprite.pose.body:
            fill(cover, polygon, (255, 0, 0))
        below = np.empty_like(surface)
        below[:] = tones[sprite.pose.behind[0][1]]
        for polygon, tone in sprite.pose.behind:
            fill(below, polygon, tones[tone])
        cv2.copyTo(surface, cover, below)
        surface = below
    for polygon, tone in sprite.pose.front:
        fill(surface, polygon, tones[tone])
    return surface * _shade(rng, sprite.alpha, size)[..., None]


def draw_poster(
    rng: np.random.Generator,
    canvas: Floats,
    window: tuple[int, int, int, int],
    size: float,
    colour: Floats,
) -> Floats:
    """Paint a framed sheet of paper around ``window`` (y1, y2, x1, x2) of a canvas, in place.

    Returns ``colour``, the object's own (h, w, 3), as a print in one ink on that paper.
    """
    paper, ink = rng.uniform(205, 240, 3), rgb(rng.uniform(0, 1), 0.6, rng.uniform(0.2, 0.4))
    frame = rgb(rng.uniform(0, 1), rng.uniform(0.2, 0.6), rng.uniform(0.15, 0.5))
    for share, tone in ((0.8, frame), (0.5, paper)):
        margin = round(share * POSTER_MARGIN * size)
        y1, x1 = (max(window[k] - margin, 0) for k in (0, 2))
        y2, x2 = window[1] + margin, window[3] + margin
        canvas[y1:y2, x1:x2] = tone
    depth = np.clip(colour.mean(-1, keepdims=True) / 230, 0, 1)
    return np.asarray(ink + (0.9 * paper - ink) * depth, dtype=np.float32)


def _tones(
    rng: np.random.Generator, hue: float, value: float
) -> dict[str, tuple[float, float, float]]:
    """Return the colours of parts: they stand out from the body, and vary between instances."""
    tones = {
        "light": rgb(rng.uniform(0, 1), rng.uniform(0.02, 0.16), rng.uniform(0.93, 1.0)),
        "dark": rgb(rng.uniform(0, 1), rng.uniform(0.1, 0.5), rng.uniform(0.08, 0.22)),
        "accent": rgb(hue + rng.uniform(0.35, 0.65), rng.uniform(0.7, 0.95), 1.15 - 0.4 * value),
    }
    return {name: cast(tuple[float, float, float], tuple(c.tolist())) for name, c in tones.items()}


def _shade(rng: np.random.Generator, alpha: Bytes, size: float) -> Floats:
    """Return a factor (h, w): darker towards the rim and on the side away from the light."""
    height, width = alpha.shape
    reach = max(3, round(size / 6))
    depth = cv2.blur(alpha, (reach, reach), borderType=cv2.BORDER_CONSTANT).astype(np.float32) / 255
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.18)
    across = strength * np.cos(angle) * np.linspace(-1, 1, width, dtype=np.float32)
    down = strength * np.sin(angle) * np.linspace(-1, 1, height, dtype=np.float32)
    light = np.float32(rng.uniform(0.9, 1.1)) + across[None, :] + down[:, None]
    return np.asarray(light * (0.66 + 0.38 * depth), dtype=np.float32)
