"""The options of COCO."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from detransfer.data.readers.faults import Policy
from detransfer.strict import Strict


class CocoSet(Strict):
    """The files of one split, relative to the root."""

    annotations: str = Field(description="JSON file")
    images: str = Field(description="folder of the images")
    only: str | None = Field(None, description="JSON file whose images alone are read")
    without: str | None = Field(None, description="JSON file whose images are left out")
    labelled: bool = Field(True, description="false: a test set, whose file has no annotations")


class Options(Strict):
    """What can be chosen."""

    provides: ClassVar[str] = "detection"

    sets: dict[str, CocoSet] = Field(
        {
            name: CocoSet(annotations=f"annotations/instances_{name}.json", images=name)
            for name in ("train2017", "val2017")
        },
        min_length=1,
        description="files by split",
    )
    on_bad_object: Policy = Field(
        "fail", description="drop: leave out objects of no known class or image or a wrong box"
    )

    def split_names(self) -> dict[str, bool]:
        """Return the splits of the index, and whether each has truth."""
        return {name: files.labelled for name, files in self.sets.items()}
