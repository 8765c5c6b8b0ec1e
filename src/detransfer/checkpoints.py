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
from detransfer.files import atomic
from detransfer.ranks import first

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
        kept = last.exists() or (state / BEFORE).exists()
        raise InputError(
            f"{last}: the checkpoint of step {step} could not be written ({error}); "
            f"{'the previous one is kept' if kept else 'there is none before it'}. "
            "Free some disk space and start again: the training goes on from there."
        ) from error


def read_checkpoint(state: Path, device: torch.device) -> dict[str, Any] | None:
    """Return the newest checkpoint that is whole, or None where there is none yet.

    Says so when that is not the last one. Raises InputError when none that is there is whole.
    """
    if first():
        for litter in state.glob(f".{CHECKPOINT}.*"):  # of a run killed while it was writing
            litter.unlink()
    damaged = []
    for path in (state / CHECKPOINT, state / BEFORE):
        if not path.exists():
            continue
        try:
            content = _load(path, device)
        except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError) as error:
            damaged.append(f"{path}: the checkpoint is damaged or no checkpoint ({error})")
            log.warning("%s", damaged[-1])
            continue
        if damaged and first():
            (state / CHECKPOINT).unlink()  # lest it becomes the one before
        log.info("resuming after step %d from %s", content["progress"]["step"], path)
        return content
    if damaged:
        raise InputError(f"{damaged[0]}; delete it to start this training from the beginning")
    return None


def drop_checkpoints(state: Path) -> None:
    """Delete the checkpoints of a training whose outcome is written."""
    for name in (CHECKPOINT, BEFORE):
        (state / name).unlink(missing_ok=True)


def _keep(last: Path, before: Path) -> None:
    """Give the last checkpoint a second name, so that at no moment it has none."""
    before.unlink(missing_ok=True)
    try:
        os.link(last, before)
    except OSError:  # not all file systems have hard links
        last.replace(before)


def _load(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint without running code from it, comparing its checksums (torch does not)."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged:
        raise zipfile.BadZipFile(f"{damaged} has another checksum")
    content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return content
