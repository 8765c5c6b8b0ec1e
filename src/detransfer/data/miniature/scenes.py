"""Images of the miniature world, each determined by (seed, stream, index)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from detransfer.data.miniature.objects import (
    POSTER_MARGIN,
    Sprite,
    draw_pose,
    draw_poster,
    draw_sprite,
    paint,
)
from detransfer.data.miniature.textures import Bytes, Floats, background, sensor_noise
from detransfer.data.miniature.world import ClassSpec, World

Scalar = TypeVar("Scalar", bound=np.generic)

_TRIES = 12  # placements of one object before it is left out
# Classification images keep whole 8-pixel JPEG blocks free of the object, so that compression
# cannot carry anything about the class to the border.
MARGIN = 8
# Shorter sides as a share of image_size; 128-pixel worlds have 128, 112 and 96.
_SHARES = (1.0, 0.875, 0.75)


@dataclass(frozen=True)
class SceneObject:
    """One annotated object.

    ``box``: x1, y1, x2, y2 in pixels, 0-based and half-open, tight around ``mask``.
    ``mask``: (y2 - y1, x2 - x1), every pixel of the object inside the frame, *hidden ones
    included*: to find the box is to know the whole object, not only its visible part.
    ``visible_share``: share of ``mask`` that no later object covers.
    ``truncated_share``: share of the object outside the frame.
    ``crowd``: many small objects under one annotation.
    ``depiction``: the object is drawn on a poster.
    """

    class_id: int
    box: tuple[int, int, int, int]
    mask: NDArray[np.bool_]
    visible_share: float
    truncated_share: float
    crowd: bool = False
    depiction: bool = False

    def full_mask(self, height: int, width: int) -> NDArray[np.bool_]:
        """Return the mask in the frame of the image, (height, width)."""
        x1, y1, x2, y2 = self.box
        full = np.zeros((height, width), bool)
        full[y1:y2, x1:x2] = self.mask
        return full


@dataclass(frozen=True)
class Scene:
    """``image`` and ``background`` (h, w, 3) uint8 RGB, ``instances`` (h, w) int16 and objects.

    ``instances`` holds the number of the object that is seen at a pixel, -1 where there is none.
    """

    image: Bytes
    background: Bytes
    instances: NDArray[np.int16]
    objects: tuple[SceneObject, ...]


@dataclass(frozen=True)
class _Placed:
    """A sprite in the frame. ``window``: y1, y2, x1, x2 of the part of the frame it reaches."""

    spec: ClassSpec
    class_id: int
    size: float
    sprite: Sprite
    window: tuple[int, int, int, int]
    offset: tuple[int, int]
    group: int
    poster: bool = False

    def crop(self, array: NDArray[Scalar]) -> NDArray[Scalar]:
        """Cut an array of the sprite's size to the part inside the frame."""
        y1, y2, x1, x2 = self.window
        dy, dx = self.offset
        return array[dy : dy + y2 - y1, dx : dx + x2 - x1]


def image_size(world: World, stream: int, index: int, classification: bool) -> tuple[int, int]:
    """Return (height, width): the aspect varies, and depends on nothing but the index."""
    rng = generator(world, stream, index, 0)
    full = world.recipe.image_size
    short = round(full * _SHARES[rng.integers(len(_SHARES))])
    if classification:
        long = max(short, round(full * _SHARES[rng.integers(len(_SHARES))]))
        short, long = (side // 8 * 8 for side in (short, long))
    else:
        long = full
    return (short, long) if rng.random() < 0.65 else (long, short)


def render_classification(world: World, spec: ClassSpec | None, stream: int, index: int) -> Scene:
    """Render one object in full, or the background alone where ``spec`` is None.

    Image size, background and scale are the same for every class.
    """
    height, width = image_size(world, stream, index, classification=True)
    rng = generator(world, stream, index, 1)
    placed: list[_Placed] = []
    if spec is not None:
        longest = min(height, width) - 2 * MARGIN - 4
        size = float(longest * rng.uniform(0.5, 1.0))
        pose, extent = draw_pose(rng, spec, size, world.recipe.rotation)
        room = np.array([width, height]) - extent - 2 * (MARGIN + 2)
        centre = MARGIN + 2 + extent / 2 + rng.uniform(0, 1, 2) * room
        placed.append(_place(spec, 0, size, draw_sprite(pose, centre), (height, width), 0))
    return _compose(world, placed, [False], height, width, stream, index)


def render_scene(
    world: World,
    classes: Sequence[ClassSpec],
    stream: int,
    index: int,
    crowd_share: float = 0.0,
    depiction_share: float = 0.0,
) -> Scene:
    """Render an image with several objects of the given classes.

    Later objects hide earlier ones, but none further than the recipe allows; a candidate that
    finds no place is left out, so that every object in the image is annotated.
    ``crowd_share``: probability that a crowd of tiny objects stands behind all others;
    ``depiction_share``: probability that a poster with a drawn object hangs there instead.
    """
    height, width = image_size(world, stream, index, classification=False)
    rng = generator(world, stream, index, 1)
    scene = world.recipe.scene
    placer = _Placer(world, height, width)
    crowds: list[bool] = []
    behind = rng.random()
    if behind < crowd_share + depiction_share:
        class_id = int(rng.integers(len(classes)))
        crowds.append(behind < crowd_share)
        (placer.crowd if crowds[0] else placer.depict)(rng, classes[class_id], class_id)
    class_id = int(rng.integers(len(classes)))
    low, high = np.log(scene.size[0]), np.log(scene.size[1])
    for _ in range(int(rng.integers(scene.objects[0], scene.objects[1] + 1))):
        if rng.random() >= scene.same_class:
            class_id = int(rng.integers(len(classes)))
        size = min(float(np.exp(rng.uniform(low, high))) * world.unit, min(height, width) * 1.1)
        if placer.add(rng, classes[class_id], class_id, size, len(crowds)):
            crowds.append(False)
    return _compose(world, placer.placed, crowds, height, width, stream, index)


class _Placer:
    """Puts objects into a frame and keeps count of what each of them still shows."""

    def __init__(self, world: World, height: int, width: int) -> None:
        self.recipe, self.unit = world.recipe, world.unit
        self.height, self.width = height, width
        self.placed: list[_Placed] = []
        self.instances = np.full((height, width), -1, np.int16)
        self.total: list[int] = []
        self.shown: list[int] = []

    def add(
        self, rng: np.random.Generator, spec: ClassSpec, class_id: int, size: float, group: int
    ) -> bool:
        """Try to place one object; return whether it found a place."""
        pose, extent = draw_pose(rng, spec, size, self.recipe.rotation)
        frame = np.array([self.width, self.height])
        for _ in range(_TRIES):
            # Most objects stand inside; about a fifth may reach beyond the frame.
            slack = 0.3 * extent if rng.random() < 0.2 else -extent / 2
            low = np.minimum(-slack, frame / 2)
            centre = rng.uniform(low, np.maximum(frame + slack, low))
            drawn = draw_sprite(pose, centre)
            candidate = _place(spec, class_id, size, drawn, (self.height, self.width), group)
            # Every degree of occlusion that the recipe allows occurs, light ones more often.
            least = max(self.recipe.scene.min_visible_share, rng.random())
            if self._fits(candidate, least):
                self._commit(candidate)
                return True
        return False

    def crowd(self, rng: np.random.Generator, spec: ClassSpec, class_id: int) -> None:
        """Place a crowd: a loose grid of tiny objects of one class, counted as one."""
        step = 11.0 * self.unit
        columns, rows = int(rng.integers(4, 6)), int(rng.integers(3, 5))
        room = np.array([self.width - columns * step, self.height - rows * step])
        corner = rng.uniform(0, 1, 2) * room
        for row in range(rows):
            for column in range(columns):
                size = float(step * rng.uniform(0.85, 1.05))
                pose, _ = draw_pose(rng, spec, size, self.recipe.rotation)
                centre = corner + (np.array([column, row]) + 0.5) * step + rng.uniform(-1.5, 1.5, 2)
                sprite = draw_sprite(pose, centre)
                frame = (self.height, self.width)
                self._commit(_place(spec, class_id, size, sprite, frame, 0))

    def depict(self, rng: np.random.Generator, spec: ClassSpec, class_id: int) -> None:
        """Hang a poster with one object on it, whole, behind everything that follows."""
        size = float(min(self.height, self.width) * rng.uniform(0.3, 0.5))
        pose, extent = draw_pose(rng, spec, size, self.recipe.rotation)
        low = extent / 2 + POSTER_MARGIN * size
        centre = rng.uniform(low, np.array([self.width, self.height]) - low)
        drawn = draw_sprite(pose, centre)
        placed = _place(spec, class_id, size, drawn, (self.height, self.width), 0)
        self._commit(replace(placed, poster=True))

    def _fits(self, candidate: _Placed, least: float) -> bool:
        """Tell whether enough is inside, and every object it hides still shows ``least``."""
        mask = candidate.crop(candidate.sprite.mask)
        inside = int(mask.sum())
        if inside < max(self.recipe.scene.min_inside_share * candidate.sprite.mask.sum(), 1):
            return False
        y1, y2, x1, x2 = candidate.window
        under = self.instances[y1:y2, x1:x2][mask] + 1
        hidden = np.bincount(under, minlength=len(self.total) + 1)[1:]
        return all(
            lost == 0 or shown - lost >= least * total
            for shown, lost, total in zip(self.shown, hidden, self.total, strict=True)
        )

    def _commit(self, placed: _Placed) -> None:
        mask = placed.crop(placed.sprite.mask)
        y1, y2, x1, x2 = placed.window
        region = self.instances[y1:y2, x1:x2]
        before = np.bincount(region[mask] + 1, minlength=len(self.total) + 1)[1:]
        self.shown = [s - int(h) for s, h in zip(self.shown, before, strict=True)]
        if placed.group == len(self.total):
            self.total.append(0)
            self.shown.append(0)
        self.total[placed.group] += int((mask & (region != placed.group)).sum())
        self.shown[placed.group] += int(mask.sum())
        region[mask] = placed.group
        self.placed.append(placed)


def generator(world: World, stream: int, index: int, purpose: int) -> np.random.Generator:
    """Return the generator of one purpose (0 frame, 1 objects, 2 background, 3 noise, 4 paint)."""
    return np.random.default_rng((world.recipe.seed, stream, index, purpose))


def _place(
    spec: ClassSpec,
    class_id: int,
    size: float,
    drawn: tuple[Sprite, tuple[int, int]],
    frame: tuple[int, int],
    group: int,
) -> _Placed:
    sprite, (left, top) = drawn
    height, width = sprite.mask.shape
    y1, y2 = max(top, 0), max(min(top + height, frame[0]), 0)
    x1, x2 = max(left, 0), max(min(left + width, frame[1]), 0)
    window = (min(y1, y2), y2, min(x1, x2), x2)
    return _Placed(spec, class_id, size, sprite, window, (window[0] - top, window[2] - left), group)


def _compose(
    world: World,
    placed: Sequence[_Placed],
    crowds: Sequence[bool],
    height: int,
    width: int,
    stream: int,
    index: int,
) -> Scene:
    """Paint the objects over the background; noise covers both."""
    recipe = world.recipe
    clutter = recipe.scene.clutter
    ground = background(generator(world, stream, index, 2), height, width, clutter, world.unit)
    noise = sensor_noise(generator(world, stream, index, 3), height, width)
    canvas = ground.copy()
    instances = np.full((height, width), -1, np.int16)
    rng = generator(world, stream, index, 4)
    for item in placed:
        colour = item.crop(paint(rng, item.sprite, item.spec, item.size))
        cover = item.crop(item.sprite.alpha)[..., None] * np.float32(1 / 255)
        y1, y2, x1, x2 = item.window
        if item.poster:
            colour = draw_poster(rng, canvas, item.window, item.size, colour)
        region = canvas[y1:y2, x1:x2]
        region += (colour - region) * cover
        instances[y1:y2, x1:x2][item.crop(item.sprite.mask)] = item.group
    if recipe.contrast < 1:
        canvas = ground + np.float32(recipe.contrast) * (canvas - ground)
    objects = _annotate(placed, crowds, instances)
    return Scene(_to_bytes(canvas + noise), _to_bytes(ground + noise), instances, objects)


def finish(world: World, ground: Floats, canvas: Floats, stream: int, index: int) -> Scene:
    """Return a scene without boxes: ``canvas`` before its ``ground``, both with one noise.

    Both are (h, w, 3) in 0..255.
    """
    height, width = ground.shape[:2]
    noise = sensor_noise(generator(world, stream, index, 3), height, width)
    nothing = np.full((height, width), -1, np.int16)
    return Scene(_to_bytes(canvas + noise), _to_bytes(ground + noise), nothing, ())


def _to_bytes(image: Floats) -> Bytes:
    return np.clip(image + np.float32(0.5), 0, 255).astype(np.uint8)


def _annotate(
    placed: Sequence[_Placed], crowds: Sequence[bool], instances: NDArray[np.int16]
) -> tuple[SceneObject, ...]:
    groups: dict[int, list[_Placed]] = {}
    for item in placed:
        groups.setdefault(item.group, []).append(item)
    shown = np.bincount(instances.ravel() + 1, minlength=len(groups) + 1)[1:]
    return tuple(
        _describe(items, crowds[group], int(shown[group]), instances.shape)
        for group, items in groups.items()
    )


def _describe(
    items: Sequence[_Placed], crowd: bool, shown: int, frame: tuple[int, ...]
) -> SceneObject:
    y1, x1 = (min(item.window[k] for item in items) for k in (0, 2))
    y2, x2 = (max(item.window[k] for item in items) for k in (1, 3))
    mask = np.zeros((y2 - y1, x2 - x1), bool)
    for item in items:
        a, b, c, d = item.window
        mask[a - y1 : b - y1, c - x1 : d - x1] |= item.crop(item.sprite.mask)
    whole = sum(int(item.sprite.mask.sum()) for item in items)
    inside = int(mask.sum())
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    return SceneObject(
        class_id=items[0].class_id,
        box=(int(x1 + left), int(y1 + top), int(x1 + right), int(y1 + bottom)),
        mask=mask[top:bottom, left:right],
        visible_share=shown / inside,
        truncated_share=0.0 if crowd else 1 - inside / whole,
        crowd=crowd,
        depiction=items[0].poster,
    )
