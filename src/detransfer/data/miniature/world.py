"""The recipe of a miniature world and its vocabularies.

A class is a body with a distinguishing part. Sources (pre-training) and targets (transfer) never
share such a pair, although they share bodies and parts: what transfers can be asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from detransfer.data.miniature.shapes import BODIES, MARKS, PARTS
from detransfer.study import Strict

Distinction = Literal["body_and_part", "part_only", "extent_only"]


def _rising(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"[least, largest] must not fall, got {list(pair)}")
    return pair


Sizes = Annotated[
    tuple[Annotated[float, Field(ge=4)], Annotated[float, Field(ge=4)]], AfterValidator(_rising)
]
Counts = Annotated[
    tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]], AfterValidator(_rising)
]


class ImageNetRecipe(Strict):
    """The source for classification, in the archives of ILSVRC 2012."""

    classes: int = Field(default=20, ge=2, description="classes")
    train: int = Field(default=100, ge=1, description="training images a class")
    val: int = Field(default=15, ge=1, description="validation images a class")


class CocoRecipe(Strict):
    """The source for detection, in the archives of COCO 2017."""

    classes: int = Field(
        default=12, ge=2, description="classes: the first of the classification source"
    )
    train: int = Field(default=1200, ge=1, description="training images")
    val: int = Field(default=150, ge=1, description="validation images")
    crowd_share: float = Field(
        default=0.04,
        ge=0,
        le=1,
        description="share of images with a crowd: many tiny objects, one region",
    )


class OpenImagesRecipe(Strict):
    """A source for detection with a hierarchy of classes, in the archives of Open Images V4."""

    classes: int = Field(
        default=20, ge=2, description="leaf classes: the first of the classification source's pool"
    )
    train: int = Field(default=600, ge=1, description="training images")
    validation: int = Field(default=60, ge=1, description="validation images")
    test: int = Field(default=20, ge=1, description="test images")
    group_share: float = Field(
        default=0.06, ge=0, le=1, description="share of images with a group: many objects, one box"
    )
    depiction_share: float = Field(
        default=0.06, ge=0, le=1, description="share of images with an object drawn on a poster"
    )

    @model_validator(mode="after")
    def _one_or_the_other(self) -> OpenImagesRecipe:
        if self.group_share + self.depiction_share > 1:
            raise ValueError("group_share + depiction_share must not exceed 1")
        return self


class ImageNetLocRecipe(Strict):
    """A source for detection with many classes and large objects: ImageNet's boxes by synset."""

    classes: int = Field(
        default=24, ge=2, description="classes: the first of the classification source's pool"
    )
    images: int = Field(default=20, ge=2, description="images a class")
    unboxed_share: float = Field(
        default=0.1, ge=0, lt=1, description="share of a class's images that nobody drew boxes on"
    )


class ImageNetDetRecipe(Strict):
    """The validation set of ILSVRC DET: classes that are ancestors of those of imagenet_loc."""

    val: int = Field(default=60, ge=1, description="images")


class VocRecipe(Strict):
    """The target for detection and segmentation, in the archives of PASCAL VOC 2007 and 2012."""

    classes: int = Field(default=8, ge=2, description="classes, shared with no other set")
    trainval2007: int = Field(default=200, ge=2, description="images; half of them train, half val")
    trainval2012: int = Field(default=100, ge=2, description="images; half of them train, half val")
    test2007: int = Field(default=300, ge=1, description="images")
    sbd: int = Field(
        default=60, ge=4, description="images that the Semantic Boundaries Dataset has for itself"
    )


class CaltechRecipe(Strict):
    """The target for classification, in the archive of Caltech-256; a clutter class comes last."""

    classes: int = Field(
        default=12, ge=2, description="classes besides clutter, shared with no other set"
    )
    images: int = Field(default=60, ge=1, description="images a class, clutter included")


class SunRecipe(Strict):
    """A target for the classification of scenes, in the archives of SUN-397."""

    classes: int = Field(default=8, ge=2, le=8, description="kinds of scene")
    train: int = Field(default=15, ge=1, description="training images a class in each partition")
    test: int = Field(default=15, ge=1, description="test images a class in each partition")


class FlowersRecipe(Strict):
    """A target for fine-grained classification, in the archives of Flowers-102."""

    classes: int = Field(default=8, ge=2, le=10, description="kinds of flower")
    train: int = Field(default=10, ge=1, description="training images a class")
    val: int = Field(default=10, ge=1, description="validation images a class")
    test: int = Field(default=20, ge=1, description="test images a class")


class SceneRecipe(Strict):
    """How the images of the detection sets are composed."""

    objects: Counts = Field(
        default=(1, 5), description="[least, largest] number of objects an image"
    )
    size: Sizes = Field(
        default=(14, 96),
        description="[least, largest] longer side of an object in pixels, log-uniform; pixels of "
        "a 128-pixel image, scaled with image_size",
    )
    clutter: Counts = Field(default=(2, 7), description="[least, largest] number of clutter shapes")
    same_class: float = Field(
        default=0.35,
        ge=0,
        le=1,
        description="probability that an object repeats the class before it",
    )
    min_visible_share: float = Field(
        default=0.2, gt=0, le=1, description="no object is hidden further than down to this share"
    )
    min_inside_share: float = Field(
        default=0.35,
        gt=0,
        le=1,
        description="no object is cut by the frame further than to this share",
    )


class WorldRecipe(Strict):
    """Everything that determines a miniature world; equal recipes give equal bytes."""

    seed: int = Field(default=0, ge=0, description="another seed is another draw of the same world")
    image_size: int = Field(
        default=128,
        ge=64,
        le=512,
        multiple_of=32,
        description="longest side of any image in pixels",
    )
    contrast: float = Field(
        default=1.0, ge=0, le=1, description="opacity of the objects: 0 leaves the background alone"
    )
    distinction: Distinction = Field(
        default="body_and_part",
        description="what tells classes apart: body and part; a small mark on any body; or the "
        "aspect ratio of one plain body",
    )
    rotation: float = Field(
        default=20, ge=0, le=180, description="largest rotation either way, degrees"
    )
    jpeg_quality: int = Field(default=88, ge=50, le=92, description="JPEG quality, libjpeg's scale")
    imagenet_cls: ImageNetRecipe = ImageNetRecipe()
    coco: CocoRecipe = CocoRecipe()
    openimages: OpenImagesRecipe = OpenImagesRecipe()
    imagenet_loc: ImageNetLocRecipe = ImageNetLocRecipe()
    imagenet_det: ImageNetDetRecipe = ImageNetDetRecipe()
    voc: VocRecipe = VocRecipe()
    caltech: CaltechRecipe = CaltechRecipe()
    sun397: SunRecipe = SunRecipe()
    flowers102: FlowersRecipe = FlowersRecipe()
    scene: SceneRecipe = SceneRecipe()

    @model_validator(mode="after")
    def _enough_classes(self) -> WorldRecipe:
        if self.coco.classes > self.imagenet_cls.classes:
            raise ValueError("coco.classes must not exceed imagenet_cls.classes")
        pools = _pools(self.distinction)
        for name, pool in _POOL.items():
            wanted, known = getattr(self, name).classes, pools[pool]
            if wanted > len(known):
                raise ValueError(
                    f"{name}.classes is {wanted}, but a {self.distinction} world has at most "
                    f"{len(known)} such classes"
                )
        return self


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
    pools = _pools(recipe.distinction)
    chosen = {
        name: _first(pools[pool], getattr(recipe, name).classes, recipe.distinction)
        for name, pool in _POOL.items()
    }
    return World(recipe, coco=chosen["imagenet_cls"][: recipe.coco.classes], **chosen)


def _first(pool: list[ClassSpec], count: int, distinction: Distinction) -> tuple[ClassSpec, ...]:
    if distinction == "extent_only":  # spread evenly: neighbours are as far apart as they can be
        return tuple(pool[i] for i in np.round(np.linspace(0, len(pool) - 1, count)).astype(int))
    return tuple(pool[:count])


# The pool that the classes of a data set are the first of.
_POOL = {
    "imagenet_cls": "source",
    "openimages": "source",
    "imagenet_loc": "source",
    "voc": "voc",
    "caltech": "caltech",
}


def _pools(distinction: Distinction) -> dict[str, list[ClassSpec]]:
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
