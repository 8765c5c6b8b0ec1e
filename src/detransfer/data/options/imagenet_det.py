"""The options of the validation images of ImageNet DET."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from detransfer.data.readers.faults import Policy
from detransfer.strict import Strict


class Options(Strict):
    """What can be chosen."""

    provides: ClassVar[str] = "detection"

    images: str = Field("ILSVRC2013_DET_val", description="folder of the images")
    annotations: str = Field("ILSVRC2013_DET_bbox_val", description="folder of the boxes")
    devkit: str = Field("ILSVRC2014_devkit/data", description="folder of meta_det.mat")
    blacklist: str | None = Field(
        "ILSVRC2014_det_validation_blacklist.txt",
        description="ambiguous (image, class) pairs, in `devkit`; null: none",
    )
    hierarchy: str = Field(
        "wordnet.is_a.txt",
        description="'<parent> <child>' a line, or ImageNet's structure_released.xml",
    )
    matching: str | None = Field(
        None, description="'<WNID> <WNID of a DET class>' a line, instead of `hierarchy`"
    )
    on_bad_object: Policy = Field("fail", description="'fail', or 'drop' and count")

    def split_names(self) -> dict[str, bool]:
        """Return the splits of the index, all with truth."""
        return {"val": True}
