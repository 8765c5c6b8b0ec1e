"""The options of Caltech-256."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from detransfer.strict import Strict


class Options(Strict):
    """What can be chosen."""

    provides: ClassVar[str] = "classification"

    train_per_class: int = Field(60, gt=0, description="training images a class")
    eval_total: int | None = Field(
        15187, gt=0, description="test images at most; null: all that are left (the official rest)"
    )
    seed: int = Field(0, ge=0, description="of the split")

    def split_names(self) -> dict[str, bool]:
        """Return the splits of the index, all with truth."""
        return {"train": True, "test": True}
