"""One process writes a place at a time, whoever was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from detransfer.locks import LEASED, broken_mark, mark_broken, sole_writer

# Notes when it begins and ends to write, and stays there until it is told to go on.
WRITE = """
import logging, os, sys, time
from pathlib import Path
from detransfer.locks import sole_writer
logging.basicConfig(level=logging.INFO, format="%(message)s")
output, name = Path(sys.argv[1]), sys.argv[2]
with sole_writer(output) as waited:
    output.with_name(f"{name} began").write_text(str(waited))
    if "fork" in sys.argv and os.fork() == 0:  # a loader's process, which outlives a killed job
        time.sleep(20)
        os._exit(0)
    end = time.monotonic() + 60
    while not output.with_name(f"{name} may go").exists() and time.monotonic() < end:
        time.sleep(0.02)
"""
CROWD = """
import os, sys, time
from pathlib import Path
from detransfer.locks import sole_writer
output = Path(sys.argv[1])
for _ in range(25):
    with sole_writer(output):
        os.close(os.open(output, os.O_CREAT | os.O_EXCL))  # fails where another one is here
        time.sleep(0.001)
        output.unlink()
"""


def start(code: str, *words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} seconds in vain"
        time.sleep(0.02)


def test_the_second_writer_waits_and_says_for_whom(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "output"
    first = start(WRITE, output, "a")
    wait_until((output.parent / "a began").exists)
    second = start(WRITE, output, "b")
    assert second.stderr is not None
    assert f"waiting for process {first.pid} on" in second.stderr.readline()
    time.sleep(0.3)
    assert not (output.parent / "b began").exists()
    for name in "ab":
        (output.parent / f"{name} may go").touch()
    assert (first.wait(10), second.wait(10)) == (0, 0)
    assert (output.parent / "b began").read_text() == "True"
    assert [path for path in output.parent.iterdir() if path.name.startswith(".")] == []


def test_a_killed_writer_stops_nobody_though_its_children_live(tmp_path: Path) -> None:
    output = tmp_path / "output"
    first = start(WRITE, output, "a", "fork")
    wait_until((tmp_path / "a began").exists)
    first.send_signal(signal.SIGKILL)
    first.wait()
    (tmp_path / "b may go").touch()
    assert start(WRITE, output, "b").wait(10) == 0
    assert (tmp_path / "b began").read_text() == "False"


def test_many_writers_are_never_two_at_once(tmp_path: Path) -> None:
    """Each removes the lock's file at its end, which another may be waiting for."""
    running = [start(CROWD, tmp_path / "output") for _ in range(6)]
    assert [(each.communicate(timeout=60)[1], each.returncode) for each in running] == [("", 0)] * 6
    assert list(tmp_path.iterdir()) == []


def test_a_process_does_not_wait_for_itself(tmp_path: Path) -> None:
    with sole_writer(tmp_path / "output"), sole_writer(tmp_path / "output"):
        assert (tmp_path / ".output.lock").exists()
    assert list(tmp_path.iterdir()) == []


def test_the_first_mark_of_a_device_stays_and_links_are_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locks = [tmp_path / f"gpu-{number}.lock" for number in (4, 6)]
    monkeypatch.setenv(LEASED, os.pathsep.join(map(str, locks)))
    for message in ("first", "second"):
        assert mark_broken(1, message) == broken_mark(locks[1])
    assert broken_mark(locks[1]).read_text() == "first\n"
    broken_mark(locks[0]).symlink_to(tmp_path / "precious")
    mark_broken(0, "message")
    assert not (tmp_path / "precious").exists()
    assert mark_broken(2, "a device that was not leased") is None
    monkeypatch.setenv(LEASED, str(tmp_path / "gone" / "gpu-0.lock"))
    assert mark_broken(0, "message") is None
