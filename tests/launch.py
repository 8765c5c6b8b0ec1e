"""Starts a program in several processes, as a rule does, but on the processor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def start(processes: int, *words: str | Path) -> subprocess.Popen[str]:
    """Start a Python program under the lease, in so many processes, without a GPU."""
    lease = [sys.executable, str(REPOSITORY / "scripts" / "with_gpus.py"), "--gpus", "0"]
    path = os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)])
    return subprocess.Popen(
        [*lease, "--processes", str(processes), "--", sys.executable, *map(str, words)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def start_one_that_waits(program: Path, words: list[str]) -> subprocess.Popen[str]:
    """Start a program that finds this process at its work; return it once it waits for it."""
    process = subprocess.Popen(
        [sys.executable, str(program), *words], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    waiting = f"waiting for process {os.getpid()} on"
    assert any(waiting in line for line in process.stderr), "it works as well"
    return process


def launch(processes: int, *words: str | Path) -> None:
    """Run a program to its end, which must be a good one."""
    process = start(processes, *words)
    messages = process.communicate(timeout=300)[0]
    assert process.returncode == 0, messages
