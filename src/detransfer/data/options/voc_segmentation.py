"""The options of PASCAL VOC's masks."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from detransfer.data.options.voc import OFFICIAL_CLASSES
from detransfer.strict import Strict


class Options(Strict):
    """What can be chosen."""

    provides: ClassVar[str] = "segmentation"

    sbd: bool = Field(True, description="add SBD's images to the split `train`")
    folder: str = Field("VOC2012", description="folder inside VOCdevkit")
    classes: tuple[str, ...] = Field(
        OFFICIAL_CLASSES, min_length=1, description="names of mask values 1, 2, ..., in order"
    )

    def split_names(self) -> dict[str, bool]:
        """Return the splits of the index, all with truth."""
        return {"train": True, "val": True}
