"""Where the blank square of a mask-out map stands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detransfer.console import InputError


@dataclass(frozen=True)
class Grid:
    """Where the square stands: on the middle of each cell of a view of ``size`` x ``size`` pixels.

    Cells have ``stride`` pixels a side; where they do not fill the view, borders of equal width are
    left over. What of a square reaches out of the view is cut off.
    """

    size: int
    mask: int
    stride: int

    def __post_init__(self) -> None:
        if self.mask >= self.size:
            raise InputError(
                f"a square of {self.mask} pixels hides the whole view of {self.size}; give less"
            )

    @property
    def side(self) -> int:
        """How many positions a row and a column of the grid have."""
        return max(1, self.size // self.stride)

    def intervals(self) -> list[tuple[int, int]]:
        """Return first and last pixel (not included) of the square along one side."""
        first = (self.size - (self.side - 1) * self.stride - self.mask) // 2
        starts = [first + self.stride * place for place in range(self.side)]
        return [(max(0, start), min(self.size, start + self.mask)) for start in starts]

    def squares(self) -> np.ndarray:
        """Return what each square hides, bool (side * side, size, size), row by row."""
        hidden = np.zeros((self.side, self.size), bool)
        for place, (start, stop) in enumerate(self.intervals()):
            hidden[place, start:stop] = True
        squares = hidden[:, None, :, None] & hidden[None, :, None, :]
        return squares.reshape(-1, self.size, self.size)
