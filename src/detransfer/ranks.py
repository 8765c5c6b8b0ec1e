"""The processes of one program, one a GPU: what they tell each other. torchrun starts them.

Each trains on its part of every batch, or predicts its part of a split. All works in a single
process too, where nothing is sent. Numbers and objects go between the machines' memories (gloo),
tensors between the devices that hold them (NCCL on GPUs).
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import datetime
import fcntl
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from detransfer.console import InputError
from detransfer.device_faults import device_faults, name_of, set_aside
from detransfer.locks import LEASED

PATIENCE = datetime.timedelta(hours=3)  # torchrun notices the death of a process, this does not
T = TypeVar("T")
_locks: list[int] = []  # of the leased GPUs, held until this process ends
_together: dist.ProcessGroup | None = None  # the processes that share micro-batches (`sharing`)


def join() -> torch.device:
    """Meet the other processes that torchrun started, if any; return this one's device.

    The first process speaks for all: the others log errors only. Raises InputError for more
    processes than GPUs, and for a leased GPU that cannot be used.
    """
    local, started = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            raise InputError(
                f"{started} processes, but {torch.cuda.device_count()} visible GPUs; start one "
                "process a GPU (scripts/with_gpus.py --gpus)"
            )
        device = torch.device("cuda", local)
        with device_faults(device, "start of a job", "See what else fills it (nvidia-smi)"):
            torch.cuda.set_device(device)
    elif os.environ.get(LEASED) and os.environ.get("CUDA_VISIBLE_DEVICES"):
        _refuse_the_processor(torch.device("cuda", local))
    if started > 1 and not dist.is_initialized():
        _hold_together()
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)
        atexit.register(dist.destroy_process_group)
        if rank() > 0:
            logging.getLogger().setLevel(logging.ERROR)
    return device


def _refuse_the_processor(leased: torch.device) -> None:
    """Raise InputError for a leased GPU that cannot be opened, unless it is a pretended one.

    On the processor the job would run for weeks, and keep the GPU from all others.
    """
    if "DETRANSFER_GPUS" in os.environ:
        return
    what = f"{name_of(leased)} was given to this job, but PyTorch cannot open it"
    if torch.version.cuda is None:
        raise InputError(
            f"{what}: {torch.__version__} is built without CUDA; install one that is, or ask for "
            "no GPUs (resources of the configuration, --gpus 0)"
        )
    advice = set_aside(leased, "start of a job", "cannot be opened")
    raise InputError(
        f"{what}; see whether nvidia-smi lists it, and whether its driver is new enough for CUDA "
        f"{torch.version.cuda}. {advice}. To run on the processor ask for no GPUs (--gpus 0)"
    )


def _hold_together() -> None:
    """Keep the lease's GPUs as long as this process lives, and live no longer than torchrun.

    torchrun's processes inherit nothing. Killed by SIGKILL it would leave them behind; so they get
    a SIGTERM then, and save their state.
    """
    for path in filter(None, os.environ.get(LEASED, "").split(os.pathsep)):
        _locks.append(os.open(path, os.O_RDWR))
        fcntl.flock(_locks[-1], fcntl.LOCK_SH | fcntl.LOCK_NB)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def rank() -> int:
    """Return the number of this process, from 0 on."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def first() -> bool:
    """Return whether this process is the one that writes files."""
    return rank() == 0


def largest(*numbers: int) -> list[int]:
    """Return the largest of each number over all processes; all wait for each other here."""
    if world_size() == 1:
        return list(numbers)
    values = torch.tensor(numbers)
    dist.all_reduce(values, dist.ReduceOp.MAX)
    return values.tolist()


def gather(value: T) -> list[T]:
    """Return what every process has, in their order, to each of them."""
    values: list[Any] = [value]
    if world_size() > 1:
        values *= world_size()
        dist.all_gather_object(values, value)
    return values


def own(parts: Sequence[T]) -> Sequence[T]:
    """Return every so many-th part, beginning with this process's number."""
    return parts[rank() :: world_size()]


def in_turn(results: Iterator[T], total: int) -> Iterator[T]:
    """Yield the results of all ``total`` parts in their order, to every process.

    ``results`` are those of :func:`own` parts. Each round a process gives one, so that no more
    than one result of each is in memory.
    """
    for start in range(0, total, world_size()):
        found = gather(next(results) if start + rank() < total else None)
        yield from found[: total - start]  # type: ignore[misc]


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over all processes, all in one message."""
    if world_size() == 1:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view(tensor.shape))


@contextlib.contextmanager
def sharing(processes: int) -> Iterator[None]:
    """Within, so many neighbouring processes hold a part of one micro-batch each.

    They are who :func:`mean_count` and trained batch normalisation ask. It divides their number.
    """
    global _together
    if processes > 1:
        for start in range(0, world_size(), processes):
            members = list(range(start, start + processes))
            group = dist.new_group(members, timeout=PATIENCE)  # all take part in making each
            if rank() in members:
                _together = group
    try:
        yield
    finally:
        _together = None


def together() -> dist.ProcessGroup | None:
    """Return the processes that share this one's micro-batches, where there are any."""
    return _together


def mean_count(number: int) -> float:
    """Return the mean of a count over the processes that share a micro-batch, at least above 0.

    A sum over a process's part, divided by it, has as its mean over the processes the mean over the
    whole: how losses over anchors and RoIs, whose numbers differ, do not depend on who holds what.
    """
    if _together is None:
        return float(max(number, 1))
    total = torch.tensor(number)
    dist.all_reduce(total, group=_together)
    return max(int(total), 1) / dist.get_world_size(_together)
