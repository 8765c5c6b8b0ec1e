"""The recipe of a miniature world.

Apart from what renders it: the workflow checks the recipe before it plans anything, so importing
this is cheap (no OpenCV, no numpy).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from detransfer.strict import Strict

Distinction = Literal["body_and_part", "part_only", "extent_only"]
# The pool that the classes of a data set are the first of, and how many classes each pool has.
POOL = {
    "imagenet_cls": "source",
    "openimages": "source",
    "imagenet_loc": "source",
    "voc": "voc",
    "caltech": "caltech",
}
MOST_CLASSES: dict[Distinction, dict[str, int]] = {
    "body_and_part": {"source": 36, "voc": 14, "caltech": 24},
    "part_only": {"source": 8, "voc": 4, "caltech": 4},
    "extent_only": {"source": 13, "voc": 6, "caltech": 6},
}
# Data sets of the catalog whose archives a world has, all of them.
RENDERED = (
    "imagenet_cls",
    "imagenet_loc",
    "imagenet_det",
    "coco",
    "openimages",
    "voc_detection",
    "voc_segmentation",
    "caltech256",
    "sun397",
    "flowers102",
)


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
        for name, pool in POOL.items():
            wanted, most = getattr(self, name).classes, MOST_CLASSES[self.distinction][pool]
            if wanted > most:
                raise ValueError(
                    f"{name}.classes is {wanted}, but a {self.distinction} world has at most "
                    f"{most} such classes"
                )
        return self
