"""Locks that the kernel holds as long as a process lives, however it ends.

SIGKILL of Snakemake leaves its jobs running: the next Snakemake's job meets the one that was left
behind where both write. And a GPU that failed must not be given to the next job, which would fail
as well.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

log = logging.getLogger(__name__)
LEASED = "DETRANSFER_LOCKS"  # the lock files of a job's GPUs, in the order of its devices
_held: set[int] = set()


def hold(path: Path, busy: Callable[[str, str], None]) -> int | None:
    """Lock a file, made if absent, and return its descriptor; :func:`let_go` gives it back.

    Whoever holds it already is waited for, after ``busy(host, process)`` was told his name. Forked
    children, which may outlive the process, do not hold it. None where this process holds it
    already, and where the file system has no locks.
    """
    here = socket.gethostname()
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            host, _, holder = os.pread(descriptor, 1024, 0).decode(errors="replace").partition(" ")
            if (host, holder) == (here, str(os.getpid())):
                os.close(descriptor)
                return None
            busy(host, holder)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            log.info("%s: locks do not work there (%s)", path, error)
            os.close(descriptor)
            return None
        if _is(path, descriptor):
            break
        os.close(descriptor)  # its holder has removed it: a third process locks another file by now
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{here} {os.getpid()}".encode(), 0)
    _held.add(descriptor)
    return descriptor


def let_go(descriptor: int) -> None:
    """Give a lock back."""
    _held.discard(descriptor)
    os.close(descriptor)


@contextlib.contextmanager
def sole_writer(output: Path) -> Iterator[bool]:
    """Within, no other process writes ``output``; one that does is waited for first.

    Yields whether one was. The lock lies beside the output, which Snakemake deletes as a whole, and
    is removed at the end.
    """
    lock, waited = output.with_name(f".{output.name}.lock"), False

    def busy(host: str, holder: str) -> None:
        nonlocal waited
        waited = True
        log.info("waiting for process %s on %s, which still writes %s", holder, host, output)

    descriptor = hold(lock, busy)
    try:
        yield waited
    finally:
        if descriptor is not None:
            lock.unlink(missing_ok=True)  # while it is held: who waits for it looks again
            let_go(descriptor)


def _is(path: Path, descriptor: int) -> bool:
    """Return whether a path still leads to an open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def broken_mark(lock: Path) -> Path:
    """Return the file whose presence says that a GPU failed and is not to be leased."""
    return lock.with_name(f"{lock.name}.broken")


def mark_broken(number: int, message: str) -> Path | None:
    """Mark the lock of this job's ``number``-th device; return the mark, None without a lease.

    A mark that is there already stays as it is, and so does whatever a link would lead to.
    """
    locks = [place for place in os.environ.get(LEASED, "").split(os.pathsep) if place]
    if number >= len(locks):
        return None
    mark = broken_mark(Path(locks[number]))
    try:
        with mark.open("x") as file:
            file.write(f"{message}\n")
    except FileExistsError:
        pass
    except OSError as error:
        log.info("%s: cannot be written (%s), so the GPU may be leased again", mark, error)
        return None
    return mark


def _forget() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget)
