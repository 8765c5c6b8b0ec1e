"""One training at a time in a state folder, also when a killed workflow left one behind.

SIGKILL of Snakemake leaves its jobs running. When the same training is started again, the one that
was left behind is told to stop; it saves its state, and the new one goes on from there.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import os
import signal
import socket
from pathlib import Path

log = logging.getLogger(__name__)
LOCK = "running"


def take_over(state: Path) -> None:
    """Hold a state folder until this process ends; first stop, or wait for, whoever holds it.

    A training of this machine gets SIGTERM; of another machine only its name is known, and it is
    waited for. Of several processes of one training the first one does this. Where the file system
    has no locks nothing is held.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    descriptor = os.open(state / LOCK, os.O_RDWR | os.O_CREAT, 0o644)  # open until the end
    here = socket.gethostname()
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        host, _, holder = os.pread(descriptor, 1024, 0).decode(errors="replace").partition(" ")
        if (host, holder) == (here, str(os.getpid())):
            os.close(descriptor)
            return
        log.info("process %s on %s still trains in %s; it is to stop", holder, host, state)
        if host == here and holder.isdecimal():
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(int(holder), signal.SIGTERM)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        log.info("%s: locks do not work there (%s)", state, error)
        os.close(descriptor)
        return
    os.register_at_fork(after_in_child=functools.partial(os.close, descriptor))  # not a loader's
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{here} {os.getpid()}".encode(), 0)
