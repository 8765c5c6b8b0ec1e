"""What command-line programs share: readable errors, and a log that a person can follow."""

from __future__ import annotations

import errno
import gc
import logging
import sys
from collections.abc import Callable

# What the machine and not the program is at fault for, and what to do about it.
DISK = {
    errno.ENOSPC: "free some space and run again",
    errno.EDQUOT: "free some space and run again",
    errno.EFBIG: "files may not be so large here (ulimit -f)",
    errno.EROFS: "name a folder that can be written to",
    errno.EACCES: "name a folder that can be written to, or change its permissions",
}


class InputError(Exception):
    """Something that the user gave is wrong.

    The message says which file, which line or object, what is wrong and what to do about it.
    Programs print it without a traceback. What it quotes of a file cannot break the line or steer
    the terminal: characters that are not printed are written out, as in ``\\x1b``.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(map(_visible, message)))


def _visible(sign: str) -> str:
    shown = sign.isprintable() or sign == "\n"
    return sign if shown else sign.encode("unicode_escape").decode()


def duration(seconds: float) -> str:
    """Return a duration in its two largest units: ``3d04h``, ``2h05m``, ``12m30s``, ``8s``."""
    whole = max(0, round(seconds))
    for size, unit, next_size, next_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "m")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // next_size:02d}{next_unit}"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"


def run(main: Callable[[], None]) -> None:
    """Run a program: log to standard error, and print an :class:`InputError` as one message.

    So is a full disk and what cannot be written to: what the file was before, it still is.
    """
    gc.freeze()  # what is imported stays: to go through it, above all at the end, takes a second
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr
    )
    try:
        main()
    except InputError as error:
        # A loader's worker process hands its error on with a traceback before the message.
        message = str(error).rpartition("InputError: ")[2].strip()
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if error.errno not in DISK:
            raise
        print(f"error: {error}: {DISK[error.errno]}", file=sys.stderr)
        raise SystemExit(2) from None
