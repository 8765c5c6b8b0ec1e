"""The last two checkpoints of a training; if the last is damaged, the one before takes over."""

from __future__ import annotations

import logging
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from detransfer.console import InputError
from detransfer.device_faults import is_device_fault
from detransfer.files import atomic
from detransfer.ranks import first, gather

log = logging.getLogger(__name__)
CHECKPOINT, BEFORE = "checkpoint.pt", "checkpoint_before.pt"


def write_checkpoint(state: Path, content: dict[str, Any], step: int) -> None:
    """Write a checkpoint to the folder ``state``; the last one becomes the one before.

    Raises InputError when the disk is full; the last one stays what it was.
    """
    last = state / CHECKPOINT
    try:
        with atomic(last) as temporary:
            torch.save(content, temporary)
            if last.exists():
                _keep(last, state / BEFORE)
    except (OSError, RuntimeError) as error:
        if is_device_fault(error):
            raise
        kept = last.exists() or (state / BEFORE).exists()
        raise InputError(
            f"{last}: the checkpoint of step {step} could not be written ({error}); "
            f"{'the previous one is kept' if kept else 'there is none before it'}. "
            "Free some disk space and start again: the training goes on from there."
        ) from error


def read_checkpoint(state: Path) -> dict[str, Any] | None:
    """Return the newest checkpoint that is whole, on the CPU, or None where there is none yet.

    All processes of a training call this and get the same one. Says so when that is not the last
    one. Raises InputError when none that is there is whole, and when the processes disagree on it.
    """
    if first():
        for litter in state.glob(f".{CHECKPOINT}.*"):  # of a run killed while it was writing
            litter.unlink()
    damaged: list[str] = []
    for path in (state / CHECKPOINT, state / BEFORE):
        content, fault = _try(path)
        _agree(path, content, fault)
        if content is not None:
            if damaged and first():
                (state / CHECKPOINT).unlink()  # lest it becomes the one before
            log.info("resuming after step %d from %s", content["progress"]["step"], path)
            return content
        if fault:
            damaged.append(f"{path}: the checkpoint is damaged or no checkpoint ({fault})")
            log.warning("%s", damaged[-1])
    if damaged:
        raise InputError(f"{damaged[0]}; delete it to start this training from the beginning")
    return None


def drop_checkpoints(state: Path) -> None:
    """Delete the checkpoints of a training whose outcome the same folder holds."""
    for name in (CHECKPOINT, BEFORE):
        (state / name).unlink(missing_ok=True)


def drop_the_one_before(state: Path) -> None:
    """Delete all but the last checkpoint, that of a training which has come to its end."""
    (state / BEFORE).unlink(missing_ok=True)


def _try(path: Path) -> tuple[dict[str, Any] | None, str]:
    """Return a checkpoint and no fault, or none and its fault; of a missing one neither.

    A fault of the machine says nothing about the file, and is raised.
    """
    if not path.exists():
        return None, ""
    try:
        return _load(path), ""
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError) as error:
        if is_device_fault(error):
            raise
        return None, str(error) or type(error).__name__


def _agree(path: Path, content: dict[str, Any] | None, fault: str) -> None:
    """Raise InputError, in every process, unless all have found the same under a path."""
    step = f"step {content['progress']['step']}" if content else "nothing"
    found = gather("damage" if fault else step)
    if len(set(found)) > 1:
        raise InputError(
            f"{path}: the processes of this job found different things there "
            f"({', '.join(found)}), so a disk or a memory is at fault; nothing was deleted. "
            "Start the same command again"
        )


def _keep(last: Path, before: Path) -> None:
    """Give the last checkpoint a second name, so that at no moment it has none."""
    before.unlink(missing_ok=True)
    try:
        os.link(last, before)
    except OSError:  # not all file systems have hard links
        last.replace(before)


def _load(path: Path) -> dict[str, Any]:
    """Read a checkpoint without running code from it, comparing its checksums (torch does not)."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged:
        raise zipfile.BadZipFile(f"{damaged} has another checksum")
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content
