"""What a reader does with an object that cannot be right: stop, or leave it out and count it.

Readers of objects have the option ``on_bad_object``. Readers of classification and segmentation
data have no objects and no such option: a damaged list, label or image always stops them.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Literal

from detransfer.console import InputError

log = logging.getLogger(__name__)
Policy = Literal["fail", "drop"]
HINT = "; set the reader's option 'on_bad_object' to 'drop' to leave such objects out"


class BadObject(Exception):
    """One object cannot be right: the kind of fault, and what exactly is wrong."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Faults:
    """The bad objects of one data set, by kind of fault."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._counts: Counter[str] = Counter()

    def bad(self, kind: str, message: str, count: int = 1) -> None:
        """Raise InputError under ``fail``; count ``count`` objects under ``drop``.

        ``kind`` is a short name that stays the same from object to object, such as
        ``"outside the image"``; ``message`` names the file and the (first) object.
        """
        if self.policy == "fail":
            raise InputError(message + HINT)
        self.leave_out(kind, message, count)

    def leave_out(self, kind: str, message: str, count: int = 1) -> None:
        """Count objects that are left out under either policy."""
        if kind not in self._counts:
            log.info("left out: %s (%s)", kind, message)
        self._counts[kind] += count

    @property
    def counts(self) -> dict[str, int]:
        """Objects left out so far, by kind of fault, in order of kind."""
        return dict(sorted(self._counts.items()))

    def report(self) -> None:
        """Log how many objects were left out."""
        for kind, count in self.counts.items():
            log.info("left out %d objects: %s", count, kind)
