"""The options of ImageNet classification."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from detransfer.strict import Strict


class Options(Strict):
    """What can be chosen."""

    provides: ClassVar[str] = "classification"

    devkit: str = Field(
        "devkit/ILSVRC2012_devkit_t12/data", description="folder of meta.mat and the val labels"
    )

    def split_names(self) -> dict[str, bool]:
        """Return the splits of the index, all with truth."""
        return {"train": True, "val": True}
