"""A training that was left behind is stopped by the one that takes its place."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from detransfer.takeover import LOCK, take_over

HOLD = """
import os, signal, sys, time
from pathlib import Path
from detransfer.takeover import take_over
folder = Path(sys.argv[1])

def stop(number, frame):
    time.sleep(0.3)  # to save the state takes a while
    (folder / "saved").touch()
    sys.exit(143)

signal.signal(signal.SIGTERM, stop)
take_over(folder)
if len(sys.argv) > 2 and os.fork() == 0:  # a loader's process, which outlives a killed training
    time.sleep(20)
    os._exit(0)
(folder / "held").touch()
time.sleep(60)
"""
TAKE = """
import sys
from pathlib import Path
from detransfer.takeover import take_over
take_over(Path(sys.argv[1]))
print((Path(sys.argv[1]) / "saved").exists())
"""


def hold(folder: Path, *more: str) -> subprocess.Popen[bytes]:
    """Start a process that holds the folder, and saves something when it is stopped."""
    running = subprocess.Popen([sys.executable, "-c", HOLD, str(folder), *more])
    end = time.monotonic() + 30
    while not (folder / "held").exists():
        assert running.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    return running


def test_the_one_left_behind_saves_its_state_before_the_new_one_begins(tmp_path: Path) -> None:
    running = hold(tmp_path)
    taken = subprocess.run(
        [sys.executable, "-c", TAKE, str(tmp_path)], capture_output=True, text=True, timeout=30
    )
    assert taken.stdout == "True\n", taken.stderr
    assert running.wait(10) == 143


def test_a_dead_one_stops_nobody_and_nobody_is_signalled(tmp_path: Path) -> None:
    """Its number may be another process's by now: the kernel's lock counts, not the number."""
    running = hold(tmp_path)
    running.send_signal(signal.SIGKILL)
    running.wait()
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    host = (tmp_path / LOCK).read_text().partition(" ")[0]
    (tmp_path / LOCK).write_text(f"{host} {bystander.pid}")
    subprocess.run([sys.executable, "-c", TAKE, str(tmp_path)], check=True, timeout=30)
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_what_a_killed_training_leaves_behind_holds_nothing(tmp_path: Path) -> None:
    running = hold(tmp_path, "with a loader")
    running.send_signal(signal.SIGKILL)
    running.wait()
    taken = subprocess.run(
        [sys.executable, "-c", TAKE, str(tmp_path)], capture_output=True, text=True, timeout=15
    )
    assert (taken.returncode, taken.stdout) == (0, "False\n"), taken.stderr


def test_a_process_does_not_stop_itself(tmp_path: Path) -> None:
    take = "take_over(Path(sys.argv[1]))\n"
    code = TAKE.replace(take, take * 2)
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=30)


def test_the_other_processes_of_a_training_do_not_stop_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = hold(tmp_path)
    monkeypatch.setenv("RANK", "1")
    take_over(tmp_path)
    assert running.poll() is None
    running.kill()
    running.wait()
