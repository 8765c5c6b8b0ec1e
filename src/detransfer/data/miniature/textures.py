"""Tileable textures, colours and backgrounds of the miniature world."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

TILE = 256  # pixels a side; every texture repeats without a seam
_LEVELS = 4  # each level of the pyramid halves the resolution, against aliasing
_NOISE_LEVEL = 3.0  # standard deviation of the sensor noise, in grey levels
GROUNDS = ("clouds", "stone", "speckle", "brushed", "waves", "planks", "bricks", "bands", "veins")


def _coloured_noise(rng: np.random.Generator, slope: float, squeeze: float = 1.0) -> Floats:
    """Return periodic noise whose amplitude falls as frequency ** -slope, scaled to -1..1."""
    frequency = np.fft.fftfreq(TILE)
    radius = np.hypot(frequency[:, None] * squeeze, frequency[None, :])
    radius[0, 0] = np.inf
    spectrum = np.fft.fft2(rng.standard_normal((TILE, TILE))) * radius**-slope
    field = np.fft.ifft2(spectrum).real
    return np.clip(field / (2.2 * field.std()), -1, 1).astype(np.float32)


def _bricks(x: Floats, y: Floats) -> Floats:
    row = np.floor(y / 32)
    shifted = (x + 32 * (row % 2)) % 64
    joint = (shifted < 6) | (y % 32 < 6)
    tint = np.sin(12.9898 * (row + 8 * np.floor((x + 32 * (row % 2)) / 64 % 4)))
    return np.where(joint, -1.0, 0.45 + 0.4 * tint).astype(np.float32)


def _scales(x: Floats, y: Floats) -> Floats:
    height = np.full_like(x, -1.0)
    for row in range(-1, 17):
        offset = 16 * (row % 2)
        dx = (x + offset) % 32 - 16
        dy = y - 16 * row
        inside = (dx**2 + dy**2 < 20**2) & (dy > -4)
        height = np.where(inside, 1.6 * np.hypot(dx, dy) / 20 - 0.8, height)
    return height.astype(np.float32)


@cache
def texture(name: str) -> tuple[Bytes, ...]:
    """Return a texture as a pyramid of (TILE / 2**level) square tiles, values 0..255.

    The tiles are the same in every world: they are the world's materials, not its instances.
    Raises KeyError for an unknown name.
    """
    rng = np.random.default_rng([20260, *name.encode()])
    axis = np.arange(TILE, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    if name in _NOISES:
        field = _coloured_noise(rng, *_NOISES[name])
    else:
        pattern, grain = _PATTERNS[name]
        field = pattern(x, y) + np.float32(grain) * _coloured_noise(rng, 0.8)
    low, high = np.percentile(field, [1, 99])
    tile = np.clip(255 * (field - low) / (high - low), 0, 255).astype(np.uint8)
    levels = [tile]
    for _ in range(_LEVELS - 1):
        half = levels[-1].shape[0] // 2
        levels.append(
            np.asarray(cv2.resize(levels[-1], (half, half), interpolation=cv2.INTER_AREA))
        )
    return tuple(levels)


_TAU = np.float32(2 * np.pi / TILE)
# Noise: the slope of its spectrum, and how much longer it is across than down.
_NOISES = {"clouds": (1.6, 1.0), "stone": (1.0, 1.0), "speckle": (0.35, 1.0), "brushed": (1.1, 9.0)}
# Patterns of the pixel grid, each with the strength of the grain on top.
_PATTERNS: dict[str, tuple[Callable[[Floats, Floats], Floats], float]] = {
    "bands": (lambda x, y: np.sin(8 * _TAU * x) + 0.3 * np.sin(16 * _TAU * x), 0.25),
    "planks": (lambda x, y: np.where(y % 64 < 7, -1.0, 0.3 + 0.3 * np.sin(y // 64 * 2.4)), 0.4),
    "waves": (lambda x, y: np.sin(_TAU * (9 * y + 14 * np.sin(3 * _TAU * x))), 0.3),
    "veins": (lambda x, y: np.abs((x / 32 + np.abs(y / 64 % 2 - 1)) % 1 - 0.5) * 4 - 1, 0.3),
    "dots": (lambda x, y: np.tanh(3 * (np.cos(5 * _TAU * x) * np.cos(5 * _TAU * y) - 0.35)), 0.2),
    "bricks": (_bricks, 0.2),
    "scales": (_scales, 0.15),
}


@cache
def _noise() -> Floats:
    rng = np.random.default_rng(20261)
    return (_NOISE_LEVEL * rng.standard_normal((1024, 1024, 1))).astype(np.float32)


def sensor_noise(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Return (height, width, 1) noise in grey levels: a random window of one fixed field."""
    field = _noise()
    if height > field.shape[0] or width > field.shape[1]:
        raise ValueError(f"no noise field of {height} x {width}; the largest is 1024 x 1024")
    top = int(rng.integers(field.shape[0] - height + 1))
    left = int(rng.integers(field.shape[1] - width + 1))
    return field[top : top + height, left : left + width]


def sample(
    rng: np.random.Generator, name: str, height: int, width: int, scale: float, angle: float = 0.0
) -> Bytes:
    """Cut a (height, width) window out of a texture at a random phase.

    ``scale``: tile pixels an output pixel; ``angle`` in radians.
    """
    level = int(np.clip(np.floor(np.log2(max(scale, 1.0))), 0, _LEVELS - 1))
    tile = texture(name)[level]
    step = scale / 2**level
    cos, sin = step * np.cos(angle), step * np.sin(angle)
    left, top = rng.uniform(0, tile.shape[0], 2)
    matrix = np.array([[cos, -sin, left], [sin, cos, top]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(
        cv2.warpAffine(tile, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_WRAP)
    )


def rgb(hue: float, saturation: float, value: float) -> NDArray[np.float64]:
    """Return a colour as RGB in 0..255; the hue wraps around at 1."""
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value))


def ramp(dark: NDArray[np.float64], light: NDArray[np.float64]) -> Bytes:
    """Return the (256, 1, 3) colour map from one colour to another."""
    step = np.linspace(0, 1, 256)[:, None]
    return np.clip(dark + (light - dark) * step, 0, 255).astype(np.uint8)[:, None]


def _ground(rng: np.random.Generator, height: int, width: int, unit: float) -> Bytes:
    """Return one textured surface (height, width, 3); ``unit``: pixels a nominal pixel."""
    hue, value = rng.uniform(0, 1), rng.uniform(0.32, 0.85)
    swing = rng.uniform(0.06, 0.24)
    dark = rgb(hue, rng.uniform(0.05, 0.5), value - swing)
    light = rgb(hue + rng.normal(0, 0.05), rng.uniform(0.05, 0.38), min(value + swing, 1.0))
    name = GROUNDS[rng.integers(len(GROUNDS))]
    scale = float(np.exp(rng.uniform(np.log(0.8), np.log(3.0)))) / unit
    window = sample(rng, name, height, width, scale, rng.uniform(0, 2 * np.pi))
    return np.asarray(cv2.applyColorMap(window, ramp(dark, light)))


def _blob(rng: np.random.Generator, height: int, width: int, unit: float) -> NDArray[np.int32]:
    """Return an irregular polygon in pixels: clutter without the outline of any class."""
    corners = int(rng.integers(3, 8))
    angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radius = unit * np.exp(rng.uniform(np.log(3), np.log(16))) * rng.uniform(0.5, 1, corners)
    squash = rng.uniform(0.25, 1)
    shape = np.stack([radius * np.cos(angle), squash * radius * np.sin(angle)], 1)
    turn = rng.uniform(0, np.pi)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    centre = rng.uniform(0, 1, 2) * (width, height)
    return np.round((shape @ rotation + centre) * 16).astype(np.int32)


def background(
    rng: np.random.Generator, height: int, width: int, clutter: tuple[int, int], unit: float
) -> Floats:
    """Render a background with clutter, (height, width, 3) float32 RGB in 0..255.

    Two textured surfaces meet at a slanted line; small irregular shapes lie about; the light is
    uneven. ``clutter``: least and largest number of shapes.
    """
    canvas = _ground(rng, height, width, unit)
    if rng.random() < 0.7:
        level = rng.uniform(0.3, 0.8, 2) * height
        region = np.array([(0, level[0]), (width, level[1]), (width, height), (0, height)])
        mask = np.zeros((height, width), np.uint8)
        cv2.fillPoly(mask, [np.round(region * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        cv2.copyTo(_ground(rng, height, width, unit), mask, canvas)
    for _ in range(int(rng.integers(clutter[0], clutter[1] + 1))):
        colour = rgb(rng.uniform(0, 1), rng.uniform(0.05, 0.6), rng.uniform(0.2, 0.95))
        under = canvas[rng.integers(height), rng.integers(width)]
        mixed = 0.6 * colour + 0.4 * under  # clutter takes part of the scene's own colours
        cv2.fillPoly(canvas, [_blob(rng, height, width, unit)], mixed.tolist(), cv2.LINE_AA, 4)
    light = sample(rng, "clouds", height, width, 0.5 / unit).astype(np.float32)
    return np.asarray(canvas * (0.82 + 0.36 / 255 * light)[..., None], dtype=np.float32)
