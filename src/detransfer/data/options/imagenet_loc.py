"""The options of ImageNet's boxes by synset."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from detransfer.data.readers.faults import Policy
from detransfer.strict import Strict


class Options(Strict):
    """What can be chosen."""

    provides: ClassVar[str] = "detection"

    classes: str | None = Field(
        None, description="file of WNIDs, one a line, in order of class_id; null: by min_images"
    )
    min_images: int = Field(
        1, gt=0, description="without `classes`: images with a box that a class needs at least"
    )
    images: str = Field("images", description="folder with a folder of images a synset")
    annotations: str = Field("annotations", description="folder of the boxes")
    words: str = Field(
        "words.txt", description="'<WNID> tab <words>' a line; names are WNIDs where it is absent"
    )
    on_bad_object: Policy = Field("drop", description="'drop' (as the authors do) or 'fail'")

    def split_names(self) -> dict[str, bool]:
        """Return the splits of the index, all with truth."""
        return {"train": True}
