"""Say what each training is at: step, images a second, time left and loss, from its state folder.

    python scripts/status.py
    python scripts/status.py state/demo

A training writes a line of its log every so many steps. One that has been silent for much longer
than between its last two lines is called silent: it may be saving its state, wait in a queue, or be
dead. Nothing is asked of Snakemake or of the scheduler, so that this works from any machine that
sees the files.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from dataclasses import dataclass
from pathlib import Path

from detransfer.console import InputError, run

LOG, IDENTITY, CHECKPOINT = "log.csv", "run.json", "checkpoint.pt"
PATIENCE = 5  # times the seconds between two lines, after which a training is silent
LEAST = 120.0  # seconds: what it may be silent for in any case
HEADINGS = ("training", "state", "step", "of", "images/s", "left", "loss", "last word")


@dataclass(frozen=True)
class Training:
    """One state folder: where its outcome goes, its log, and when it last said something."""

    name: str
    started: float  # seconds since the epoch, as are the other times
    heard: float
    rows: list[dict[str, str]]
    checkpoint: float | None  # when the last one was written

    def at(self, column: str, row: int = -1) -> float:
        return float(self.rows[row][column])

    @property
    def between(self) -> float:
        """Seconds between the last two lines of the log; up to the first, since the start."""
        before = self.at("seconds", -2) if len(self.rows) > 1 else 0.0
        return self.at("seconds") - before

    @property
    def left(self) -> float:
        """Seconds to the last step, at the speed of the last lines."""
        earlier = self.rows[-11:-1]
        step, seconds = (
            (float(earlier[0]["step"]), float(earlier[0]["seconds"])) if earlier else (0.0, 0.0)
        )
        each = (self.at("seconds") - seconds) / max(self.at("step") - step, 1.0)
        return (self.at("steps") - self.at("step")) * each

    def state(self, now: float) -> str:
        if not self.rows:
            return "starting" if now - self.heard < LEAST else "silent"
        if self.at("step") >= self.at("steps"):
            return "finished" if self.checkpoint is None else "finishing"
        return "running" if now - self.heard < max(LEAST, PATIENCE * self.between) else "silent"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "state", type=Path, nargs="?", default=Path("state"), help="folder (default: %(default)s)"
    )
    parser.add_argument("--all", action="store_true", help="show what has finished, too")
    return parser.parse_args()


def read_training(folder: Path) -> Training:
    """Read one state folder; raises InputError where its run.json is none."""
    identity = folder / IDENTITY
    try:
        name = str(json.loads(identity.read_text())["output"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{identity}: does not say whose state it is ({error!r})") from error
    log, checkpoint = folder / LOG, folder / CHECKPOINT
    lines = log.read_text().splitlines() if log.exists() else []
    whole = [row for row in csv.DictReader(lines) if None not in row.values()]  # or being written
    started = identity.stat().st_mtime
    return Training(
        name=name,
        started=started,
        heard=max(started, log.stat().st_mtime if log.exists() else 0.0),
        rows=whole,
        checkpoint=checkpoint.stat().st_mtime if checkpoint.exists() else None,
    )


def trainings(state: Path) -> list[Training]:
    """Return the trainings below a folder, by name; of several states of one, that last started.

    The others are of an earlier recipe, code or data, and are never resumed.
    """
    newest: dict[str, Training] = {}
    for identity in sorted(state.rglob(IDENTITY)):
        found = read_training(identity.parent)
        if found.name not in newest or newest[found.name].started < found.started:
            newest[found.name] = found
    return [newest[name] for name in sorted(newest)]


def line(training: Training, now: float) -> tuple[str, ...]:
    """Return the cells of a training's line, as HEADINGS names them."""
    state, ago = training.state(now), f"{duration(now - training.heard)} ago"
    if not training.rows:
        return (training.name, state, "-", "-", "-", "-", "-", ago)
    left = duration(training.left) if state in ("running", "silent") else "-"
    return (
        training.name,
        state,
        f"{training.at('step'):.0f}",
        f"{training.at('steps'):.0f}",
        f"{training.at('images_per_second'):.1f}",
        left,
        f"{training.at('loss'):.4f}",
        ago,
    )


def duration(seconds: float) -> str:
    """Return a duration in its two largest units: ``3d04h``, ``2h05m``, ``12m30s``, ``8s``."""
    whole = max(0, round(seconds))
    for size, unit, next_size, next_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "m")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // next_size:02d}{next_unit}"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"


def show(rows: list[tuple[str, ...]]) -> str:
    """Return rows as a table: words to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def main() -> None:
    arguments = parse()
    if not arguments.state.is_dir():
        raise InputError(f"{arguments.state}: there is no such folder; no training has started")
    now, found = time.time(), trainings(arguments.state)
    finished = [each for each in found if each.state(now) == "finished"]
    shown = found if arguments.all else [each for each in found if each not in finished]
    if shown:
        print(show([HEADINGS, *(line(each, now) for each in shown)]))
    states = [each.state(now) for each in found]
    counts = [f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states))]
    print(", ".join(counts) or "no training has started")


if __name__ == "__main__":
    run(main)
