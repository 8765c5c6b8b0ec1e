"""The options of PASCAL VOC's boxes."""

from __future__ import annotations

import re
from typing import ClassVar

from pydantic import Field, model_validator

from detransfer.data.readers.faults import Policy
from detransfer.strict import Strict, suggest

KINDS = {
    "vehicle": ("aeroplane", "bicycle", "boat", "bus", "car", "motorbike", "train"),
    "animal": ("bird", "cat", "cow", "dog", "horse", "sheep"),
    "indoor": ("bottle", "chair", "diningtable", "pottedplant", "sofa", "tvmonitor"),
    "person": ("person",),
}
SUPERCLASS = {name: kind for kind, names in KINDS.items() for name in names}
OFFICIAL_CLASSES = tuple(sorted(SUPERCLASS))


class Options(Strict):
    """What can be chosen."""

    provides: ClassVar[str] = "detection"

    classes: tuple[str, ...] = Field(
        OFFICIAL_CLASSES, min_length=1, description="all class names that may occur, in order"
    )
    keep: tuple[str, ...] | None = Field(
        None, min_length=1, description="classes of the index; null: all; other objects are dropped"
    )
    superclasses: dict[str, str] | None = Field(
        None, description="superclass of each class, where it has one; null: VOC's own"
    )
    sets: dict[str, str] = Field(
        {
            "voc2007_trainval": "VOC2007/trainval",
            "voc2007_test": "VOC2007/test",
            "voc2012_trainval": "VOC2012/trainval",
        },
        min_length=1,
        description="split: <folder in `devkit`>/<file in ImageSets/Main without .txt>",
    )
    devkit: str = Field("VOCdevkit", description="folder of the folders in `sets`; '.': the root")
    suffix: str = Field(".jpg", min_length=2, description="ending of the image files")
    on_bad_object: Policy = Field(
        "fail", description="drop: leave out objects of no known class or with a wrong box"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Options:
        for name in self.keep or ():
            if name not in self.classes:
                raise ValueError(f"keep: unknown class {name!r}{suggest(name, list(self.classes))}")
        for name in self.superclasses or ():
            if name not in self.classes:
                hint = suggest(name, list(self.classes))
                raise ValueError(f"superclasses: unknown class {name!r}{hint}")
        for split, place in self.sets.items():
            if not re.fullmatch(r"[^/]+/[^/]+", place):
                raise ValueError(f"sets.{split}: expected '<folder>/<set>', got {place!r}")
        return self

    def split_names(self) -> dict[str, bool]:
        """Return the splits of the index, all with truth."""
        return dict.fromkeys(self.sets, True)
