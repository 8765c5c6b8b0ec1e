"""A miniature world: its recipe and the vocabularies of its data sets.

A class is a body with a distinguishing part. Sources (pre-training) and targets (transfer) never
share such a pair, although they share bodies and parts: what transfers can be asked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detransfer.data.miniature.recipe import POOL, Distinction, WorldRecipe
from detransfer.data.miniature.shapes import BODIES, MARKS, PARTS


@dataclass(frozen=True)
class ClassSpec:
    """One class. ``body`` or ``part`` is None where every class draws from the same bodies, or
    where there are no parts; ``aspect`` (width / height) is set where extent alone decides."""

    name: str
    family: str
    body: str | None
    part: str | None
    aspect: float | None = None

    @property
    def ancestors(self) -> tuple[str, ...]:
        """What the class is a kind of, from the next to the most general: body, family."""
        return (self.body, self.family) if self.body else (self.family,)


@dataclass(frozen=True)
class World:
    """A recipe and the classes of its data sets, each in label order."""

    recipe: WorldRecipe
    imagenet_cls: tuple[ClassSpec, ...]
    coco: tuple[ClassSpec, ...]
    openimages: tuple[ClassSpec, ...]
    imagenet_loc: tuple[ClassSpec, ...]
    voc: tuple[ClassSpec, ...]
    caltech: tuple[ClassSpec, ...]

    @property
    def unit(self) -> float:
        """Pixels of this world for one pixel of a 128-pixel world."""
        return self.recipe.image_size / 128


def make_world(recipe: WorldRecipe) -> World:
    """Choose the classes of a recipe; the choice does not depend on its seed."""
    pools = class_pools(recipe.distinction)
    chosen = {
        name: _first(pools[pool], getattr(recipe, name).classes, recipe.distinction)
        for name, pool in POOL.items()
    }
    return World(recipe, coco=chosen["imagenet_cls"][: recipe.coco.classes], **chosen)


def _first(pool: list[ClassSpec], count: int, distinction: Distinction) -> tuple[ClassSpec, ...]:
    if distinction == "extent_only":  # spread evenly: neighbours are as far apart as they can be
        return tuple(pool[i] for i in np.round(np.linspace(0, len(pool) - 1, count)).astype(int))
    return tuple(pool[:count])


def class_pools(distinction: Distinction) -> dict[str, list[ClassSpec]]:
    """Return the classes that data sets may take, disjoint between sources and targets."""
    if distinction == "part_only":
        marks = [ClassSpec(f"{mark}_thing", "thing", None, mark) for mark in MARKS]
        return {"source": marks[::2], "voc": marks[1::4], "caltech": marks[3::4]}
    if distinction == "extent_only":
        slots = [_extent(i, 25) for i in range(25)]
        return {"source": slots[::2], "voc": slots[1::4], "caltech": slots[3::4]}
    # Body b with part b + shift: within one shift no two classes share a body or a part. The
    # target for detection uses seven bodies, so that its eighth class is the twin of its first.
    return {
        "source": [_pair(body, shift) for shift in (0, 1, 2) for body in range(len(BODIES))],
        "voc": [_pair(body, shift) for shift in (4, 5) for body in range(7)],
        "caltech": [_pair(body, shift) for shift in (7, 8) for body in range(len(BODIES))],
    }


def _pair(body: int, shift: int) -> ClassSpec:
    shape = list(BODIES.values())[body]
    part = list(PARTS)[(body + shift) % len(PARTS)]
    return ClassSpec(f"{PARTS[part]}_{shape.name}", shape.family, shape.name, part)


def _extent(slot: int, slots: int) -> ClassSpec:
    aspect = float(np.exp(np.linspace(-1, 1, slots)[slot] * np.log(3.5)))
    return ClassSpec(f"extent_{slot:02d}", "extent", None, None, aspect)
