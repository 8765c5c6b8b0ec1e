"""What a device reports when it has no memory left or fails, in words that help."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import time
from collections.abc import Iterator

import torch

from detransfer.console import InputError
from detransfer.locks import mark_broken

PEERS = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
FAILURES = ("CUDA error", "NCCL error", "cuDNN error", "CUBLAS_STATUS")
# Of these, in small letters, what a sound GPU says too: of a program's mistake, of a job without a
# lease that has filled it, of a PyTorch made for other GPUs, or of a connection.
NOT_ITS_OWN = (
    "device-side assert",
    "illegal memory access",
    "misaligned address",
    "out of memory",
    "no kernel image",
    "invalid",
    "alloc_failed",
    "not_supported",
    "nccl error",
)
NO_MEMORY = "DefaultCPUAllocator"  # of the machine itself


@contextlib.contextmanager
def device_faults(device: torch.device, job: str, remedy: str) -> Iterator[None]:
    """Turn a device's errors into an InputError with the device and the job.

    ``job`` says what was running, ``remedy`` which key to lower where memory is short. A leased GPU
    that failed is given to no further job until somebody has looked at it.
    """
    try:
        yield
    except RuntimeError as error:
        first = str(error).partition("\n")[0]
        if isinstance(error, torch.OutOfMemoryError) or NO_MEMORY in first:
            full = torch.device("cpu") if NO_MEMORY in first else device
            raise InputError(
                f"{job}: {name_of(full)} ran out of memory: {first} {remedy}"
            ) from error
        if any(sign in first for sign in PEERS):
            raise InputError(f"{job}: another process of this job ended; it says why") from error
        failed = isinstance(error, torch.AcceleratorError)
        if not failed and not any(sign in first for sign in FAILURES):
            raise
        raise InputError(
            f"{job}: {name_of(device)} failed: {first}. Start the same command again: it goes on "
            f"from what is saved. {set_aside(device, job, first)}"
        ) from error


def set_aside(device: torch.device, job: str, message: str) -> str:
    """Mark a failed GPU for the lease; return in words what is to be done about it."""
    mark = None
    if device.type == "cuda" and not any(sign in message.lower() for sign in NOT_ITS_OWN):
        when = time.strftime("%Y-%m-%d %H:%M:%S")
        mark = mark_broken(device.index or 0, f"{when} {job}: {message}")
    if mark is None:
        return (
            "If the same GPU fails again, look at nvidia-smi and dmesg and leave it out by "
            "CUDA_VISIBLE_DEVICES"
        )
    return (
        "The lease gives this GPU to no further job: look at nvidia-smi and dmesg, and re-admit it "
        f"by: rm {shlex.quote(str(mark))}"
    )


def is_device_fault(error: Exception) -> bool:
    """Return whether an error is that of a device or a memory, whatever was being worked on."""
    if isinstance(error, (torch.OutOfMemoryError, torch.AcceleratorError)):
        return True
    return any(sign in str(error) for sign in (*FAILURES, NO_MEMORY))


def name_of(device: torch.device) -> str:
    """Return the device as its machine's owner knows it, such as ``GPU 5 of node7``.

    Nothing is asked of the device, which may be gone.
    """
    if device.type != "cuda":
        return f"the {device.type} of {socket.gethostname()}"
    number = device.index or 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    known = visible[number].strip() if number < len(visible) else ""
    return f"GPU {known or number} of {socket.gethostname()}"
