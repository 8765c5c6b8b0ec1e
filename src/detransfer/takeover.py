"""One training at a time in a state folder, also when a killed workflow left one behind.

SIGKILL of Snakemake leaves its jobs running. When the same training is started again, the one that
was left behind is told to stop; it saves its state, and the new one goes on from there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from pathlib import Path

from detransfer.locks import hold

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

    def stop(host: str, holder: str) -> None:
        log.info("process %s on %s still trains in %s; it is to stop", holder, host, state)
        if host == socket.gethostname() and holder.isdecimal():
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(int(holder), signal.SIGTERM)

    hold(state / LOCK, stop)
