"""What scripts/status.py says of state folders that the training log itself wrote."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from detransfer.files import write_json
from detransfer.training_log import Progress, TrainingLog
from detransfer.training_run import FINISHED


def write_log(folder: Path, steps: list[int], ago: float, of: int = 1000) -> None:
    """Write the log of a training of so many steps of 16 images, 2 steps a second."""
    log = TrainingLog(folder, Progress())
    for step in steps:
        log.write(Progress(step=step, seconds=step / 2), 0.1, {"loss": 5 - step / 250}, 2, 16, of)
    log.close()
    os.utime(folder / "log.csv", (time.time() - ago,) * 2)


def training(
    state: Path, output: str, steps: list[int], ago: float, digest: str = "a" * 16
) -> Path:
    """Write the state of a training of 1,000 steps."""
    folder = state / output.removeprefix("results/") / digest
    write_json(folder / "run.json", {"seed": 0, "output": output})
    write_log(folder, steps, ago)
    os.utime(folder / "run.json", (time.time() - ago,) * 2)
    return folder


def status(repository: Path, *words: str) -> list[list[str]]:
    """Return the words of each line that the program prints."""
    done = subprocess.run(
        [sys.executable, str(repository / "scripts/status.py"), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return [line.split() for line in done.stdout.splitlines()]


def test_a_line_a_training(repository: Path, tmp_path: Path) -> None:
    coco, voc = "results/pretraining/coco", "results/detection/voc_detection/coco/seed0"
    (training(tmp_path, coco, [250, 500], ago=3) / "checkpoint.pt").touch()
    training(tmp_path, voc, [], ago=5)
    training(tmp_path, f"{voc[:-1]}1", [100], ago=7200)
    (training(tmp_path, f"{voc[:-1]}2", [500, 1000], ago=60) / FINISHED).touch()
    training(tmp_path, f"{voc[:-1]}3", [500, 1000], ago=600)  # its outcome is not written yet
    lines = status(repository, str(tmp_path))
    assert " ".join(lines[0]) == "training state step of images/s left loss last word"
    # 500 steps are left at 2 a second; the loss is that of the last line.
    assert lines[4][:7] == [coco, "running", "500", "1000", "32.0", "4m10s", "3.0000"]
    assert lines[1][:6] == [voc, "starting", "-", "-", "-", "-"]
    assert lines[2][:7] == [f"{voc[:-1]}1", "silent", "100", "1000", "32.0", "7m30s", "4.6000"]
    assert lines[2][-2:] == ["2h00m", "ago"]
    assert lines[3][:2] == [f"{voc[:-1]}3", "finishing"]
    assert " ".join(lines[5]) == "1 finished, 1 finishing, 1 running, 1 silent, 1 starting"
    shown = [line[:2] for line in status(repository, str(tmp_path), "--all")]
    assert [f"{voc[:-1]}2", "finished"] in shown


def test_a_search_is_one_line_for_all_its_trainings(repository: Path, tmp_path: Path) -> None:
    """Of four trainings of 400 steps one is done, one diverged at step 100, one is under way."""
    folder = training(tmp_path, "results/search/birds/coco", [], ago=9000)
    (folder / "log.csv").unlink()
    for number, (steps, ago) in enumerate([([200, 400], 500), ([100], 450), ([100, 200], 3)]):
        write_log(folder / f"rate0.{number}_decay0", steps, ago, of=400)
    (folder / "rate0.3_decay0").mkdir()
    for number in (0, 1):
        write_json(folder / f"rate0.{number}_decay0" / "score.json", {"top1": None})
    line = status(repository, str(tmp_path))[1]
    # 400 + 100 + 200 steps are done, 200 + 400 are left at 2 a second.
    assert line[:7] == [
        "results/search/birds/coco", "running", "700", "1300", "32.0", "5m00s", "4.2000",
    ]  # fmt: skip
    (folder / FINISHED).touch()
    assert status(repository, str(tmp_path))[-1] == ["1", "finished"]


def test_a_search_that_has_just_begun_starts(repository: Path, tmp_path: Path) -> None:
    folder = training(tmp_path, "results/search/birds/coco", [], ago=5)
    for number in range(2):
        (folder / f"rate0.{number}_decay0").mkdir()
    assert status(repository, str(tmp_path))[1][1] == "starting"


def test_of_several_states_the_one_last_started_counts(repository: Path, tmp_path: Path) -> None:
    """The other one is of an older recipe."""
    training(tmp_path, "results/x", [900], ago=50, digest="0" * 16)
    training(tmp_path, "results/x", [10], ago=2, digest="f" * 16)
    lines = status(repository, str(tmp_path))
    assert len(lines) == 3 and lines[1][:3] == ["results/x", "running", "10"]


def test_a_line_that_is_being_written_is_passed_over(repository: Path, tmp_path: Path) -> None:
    folder = training(tmp_path, "results/x", [100, 200], ago=1)
    log = folder / "log.csv"
    log.write_text(log.read_text()[:-12])
    os.utime(log)
    assert status(repository, str(tmp_path))[1][2] == "100"


def test_without_any_training(repository: Path, tmp_path: Path) -> None:
    assert status(repository, str(tmp_path)) == [["no", "training", "has", "started"]]


def test_it_needs_neither_torch_nor_pandas(repository: Path, tmp_path: Path) -> None:
    """It is run by hand, often, on a login node."""
    program = repository / "scripts/status.py"
    code = (
        f"import sys, runpy; sys.argv = ['status', {str(tmp_path)!r}]; "
        f"runpy.run_path({str(program)!r}, run_name='__main__'); "
        "assert not {'torch', 'pandas', 'numpy'} & sys.modules.keys()"
    )
    environment = {**os.environ, "PYTHONPATH": str(repository / "src")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_identity_is_named(repository: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    done = subprocess.run(
        [sys.executable, str(repository / "scripts/status.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stderr.startswith(f"error: {tmp_path / 'run.json'}: ")
