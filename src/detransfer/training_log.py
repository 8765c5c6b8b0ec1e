"""What a training says of itself: a line for people, a row in log.csv, and tensorboard scalars."""

from __future__ import annotations

import csv
import logging
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter

from detransfer.console import InputError, duration
from detransfer.files import atomic

log = logging.getLogger(__name__)
LOG = "log.csv"
COLUMNS = ["step", "steps", "epoch", "learning_rate", "images_per_second", "seconds"]  # then losses


@dataclass(frozen=True)
class Progress:
    """How far a training has come; stands in every checkpoint."""

    step: int = 0
    epoch: int = 0
    step_of_epoch: int = 0
    seconds: float = 0.0
    peak_memory_mb: float = 0.0  # of the processes that it was in before


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory of this process so far, in MB: the device's, or the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def device_name(device: torch.device) -> str:
    """Return the name of the device for records, such as ``cpu`` or ``NVIDIA H200``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


class TrainingLog:
    """The three logs of one training; a resumed one drops what lies after its checkpoint.

    Without ``writes`` it only remembers its rows: of several processes one writes.
    """

    def __init__(self, state: Path, progress: Progress, writes: bool = True) -> None:
        state.mkdir(parents=True, exist_ok=True)
        self.path = state / LOG
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.rows: list[dict[str, str]] = [
            row
            for row in csv.DictReader(lines)
            if None not in row.values()  # a full disk can cut the last row short
            and int(row["step"]) <= progress.step
        ]
        self.board: SummaryWriter | None = None
        if not writes:
            return
        with atomic(self.path) as temporary, temporary.open("w", newline="") as file:
            if self.rows:
                writer = csv.DictWriter(file, list(self.rows[0]))
                writer.writeheader()
                writer.writerows(self.rows)
        self.board = SummaryWriter(str(state / "tensorboard"), purge_step=progress.step + 1)

    def last_losses(self) -> dict[str, float]:
        """Return the losses of the last row, by name; empty before the first."""
        row = self.rows[-1] if self.rows else {}
        return {name: float(value) for name, value in row.items() if name not in COLUMNS}

    def write(
        self,
        progress: Progress,
        rate: float,
        losses: dict[str, float],
        steps_per_second: float,
        batch: int,
        total: int,
    ) -> None:
        """Log the mean ``losses`` of the steps since the last call.

        Raises InputError when the disk is full.
        """
        speed = steps_per_second * batch
        numbers = (progress.step, total, progress.epoch, f"{rate:.6g}", f"{speed:.2f}")
        row = dict(zip(COLUMNS, map(str, (*numbers, f"{progress.seconds:.1f}")), strict=True))
        row |= {name: f"{value:.6g}" for name, value in losses.items()}
        self.rows.append(row)
        if self.board is None:
            return
        try:
            self._append(self.board, row, progress.step, {**losses, "learning_rate": rate})
        except OSError as error:
            raise InputError(
                f"{self.path}: step {progress.step} could not be logged ({error}). Free some disk "
                "space and start again: the training goes on from its last checkpoint."
            ) from error
        left = (total - progress.step) / max(steps_per_second, 1e-9)
        log.info(
            "step %d/%d epoch %d loss %.4f  %.1f images/s  %s left",
            progress.step,
            total,
            progress.epoch,
            losses["loss"],
            speed,
            duration(left),
        )

    def _append(
        self, board: SummaryWriter, row: dict[str, str], step: int, scalars: dict[str, float]
    ) -> None:
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)
        for name, value in scalars.items():
            board.add_scalar(f"train/{name}", value, step)
        board.flush()  # what is in log.csv is there too, however the program ends

    def close(self) -> None:
        """Flush what is buffered."""
        if self.board is not None:
            self.board.close()
