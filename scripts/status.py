"""Say what each training is at: step, images a second, time left and loss, from its state folder.

    python scripts/status.py
    python scripts/status.py state/demo

A training writes a line of its log every so many steps. One that has been silent for much longer
than between its last two lines is called silent: it may be saving its state, wait in a queue, or be
dead. A search of learning rate and weight decay is one line for all its trainings. Nothing is asked
of Snakemake or of the scheduler, so that this works from any machine that sees the files.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from dataclasses import dataclass
from pathlib import Path

from detransfer.console import InputError, duration, run

LOG, IDENTITY, FINISHED = "log.csv", "run.json", "finished"
SCORE = "score.json"  # of a training that a search has done with
PATIENCE = 5  # times the seconds between two lines, after which a training is silent
LEAST = 120.0  # seconds: what it may be silent for in any case
HEADINGS = ("training", "state", "step", "of", "images/s", "left", "loss", "last word")


@dataclass(frozen=True)
class Training:
    """One state folder: where its outcome goes, its log, and when it last said something.

    ``rows`` are those of the log; of a search those of all its trainings, one after the other.
    """

    name: str
    started: float  # seconds since the epoch, as are the other times
    heard: float
    rows: list[dict[str, str]]
    finished: bool  # its outcome is written

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
        if self.finished:
            return "finished"
        if not self.rows:
            return "starting" if now - self.heard < LEAST else "silent"
        if self.at("step") >= self.at("steps"):
            return "finishing"
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
    started = identity.stat().st_mtime
    points = [each for each in folder.glob("rate*") if each.is_dir()]  # of a search
    return Training(
        name=name,
        started=started,
        heard=max(started, *map(last_word, (folder, *points))),
        rows=rows_of_search(points) if points else rows_of(folder),
        finished=(folder / FINISHED).exists(),
    )


def last_word(folder: Path) -> float:
    """Return when a log was last written; 0 where there is none."""
    log = folder / LOG
    return log.stat().st_mtime if log.exists() else 0.0


def rows_of(folder: Path) -> list[dict[str, str]]:
    """Return the rows of a log but for one that is being written."""
    log = folder / LOG
    lines = log.read_text().splitlines() if log.exists() else []
    return [row for row in csv.DictReader(lines) if None not in row.values()]


def rows_of_search(points: list[Path]) -> list[dict[str, str]]:
    """Return the rows of a search's trainings as if they were one, in the order of the trainings.

    Steps and seconds count from the start of the first training to the end of the last. One that
    has diverged ends where it did; those to come are taken to be as long as the others.
    """
    logs = {point: rows_of(point) for point in sorted(points, key=last_word)}
    joined: list[dict[str, str]] = []
    step, seconds = 0, 0.0
    for rows in filter(None, logs.values()):
        joined += [later(row, step, seconds) for row in rows]
        step, seconds = int(joined[-1]["step"]), float(joined[-1]["seconds"])
    each = int(joined[-1]["steps"]) if joined else 0
    to_come = [rows for point, rows in logs.items() if not (point / SCORE).exists()]
    total = step + sum(each - int(rows[-1]["step"] if rows else 0) for rows in to_come)
    return [{**row, "steps": str(total)} for row in joined]


def later(row: dict[str, str], step: int, seconds: float) -> dict[str, str]:
    """Return a row of a log that began so many steps and seconds after the first of its search."""
    passed = {"step": int(row["step"]) + step, "seconds": float(row["seconds"]) + seconds}
    return {**row, **{name: str(value) for name, value in passed.items()}}


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
