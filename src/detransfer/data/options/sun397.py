"""The options of SUN-397."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from detransfer.strict import Strict


class Options(Strict):
    """What can be chosen."""

    provides: ClassVar[str] = "classification"

    partition: int = Field(1, ge=1, le=10, description="number of the official partition")

    def split_names(self) -> dict[str, bool]:
        """Return the splits of the index, all with truth."""
        return {"train": True, "test": True}
