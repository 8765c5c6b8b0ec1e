"""What every command-line program shares: readable errors and a log that a person can follow."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable


class InputError(Exception):
    """Something that the user gave is wrong.

    The message says which file, which line or object, what is wrong and what to do about it.
    Programs print it without a traceback.
    """


def run(main: Callable[[], None]) -> None:
    """Run a program: log to standard error, and print an :class:`InputError` as one message."""
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
