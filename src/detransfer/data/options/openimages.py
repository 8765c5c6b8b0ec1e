"""The options of Open Images."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from detransfer.data.readers.faults import Policy
from detransfer.strict import Strict

Split = Literal["train", "validation", "test"]
Digit = Literal["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "a", "b", "c", "d", "e", "f"]
DIGITS: tuple[Digit, ...] = (
    *("0", "1", "2", "3", "4", "5", "6", "7"),
    *("8", "9", "a", "b", "c", "d", "e", "f"),
)


class Options(Strict):
    """What can be chosen."""

    provides: ClassVar[str] = "detection"

    vocabulary: Literal[500, 601] = Field(
        500, description="classes of the 2018 challenge (the paper), or all that have boxes"
    )
    expand_hierarchy: bool = Field(
        False,
        description="a box counts for the ancestors of its class too, as the challenge scores it; "
        "off, because the detector's softmax gives each box one class and the paper counts each "
        "of the 14.6 M boxes once",
    )
    drop_depictions: bool = Field(False, description="leave out drawings, toys and the like")
    negatives: bool = Field(True, description="read which classes are verified to be absent")
    splits: tuple[Split, ...] = Field(
        ("train", "validation", "test"), min_length=1, description="splits to read"
    )
    train_archives: tuple[Digit, ...] = Field(
        DIGITS, min_length=1, description="training archives to use, by the digit in their name"
    )
    on_bad_object: Policy = Field("fail", description="'drop' leaves bad boxes and labels out")

    def split_names(self) -> dict[str, bool]:
        """Return the splits of the index, all with truth."""
        return dict.fromkeys(self.splits, True)
