"""The options of a folder of your own."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from detransfer.strict import Strict


class Options(Strict):
    """What can be chosen."""

    provides: ClassVar[str] = "classification"

    splits: tuple[str, ...] | None = Field(
        None, min_length=1, description="folders of the splits; null: every folder"
    )
    classes: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="class folders to read, in order; null: all, the same ones in every split",
    )

    def split_names(self) -> dict[str, bool] | None:
        """Return the splits of the index, all with truth; None where only the files tell."""
        return dict.fromkeys(self.splits, True) if self.splits else None
