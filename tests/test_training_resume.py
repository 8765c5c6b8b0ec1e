"""A training that was stopped, in whatever way, ends as if it had not been.

This file is also the program that the tests stop: run as ``__main__`` it trains a small network.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import multiprocessing
import os
import random
import resource
import runpy
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import Dataset

from detransfer import console
from detransfer.batches import Example
from detransfer.checkpoints import CHECKPOINT
from detransfer.console import InputError
from detransfer.recipes.training import TrainingRecipe
from detransfer.training import Fit, Run, train
from detransfer.training_log import LOG

NEVER, ALWAYS = 1000.0, 1e-6  # minutes between checkpoints
SEED = 5


class Stopped(Exception):
    """Stands for a crash at a chosen step."""


@dataclass
class Pictures(Dataset[Example]):
    """Random images keyed by (epoch, index); an epoch has 19 to 21 of them."""

    epoch: int
    seconds: float = 0.0
    on_item: Callable[[int], None] | None = None

    def __len__(self) -> int:
        return 20 + (self.epoch % 3 - 1 if self.epoch else 0)

    def __getitem__(self, index: int) -> Example:
        time.sleep(self.seconds)
        if self.on_item:
            self.on_item(self.epoch)
        rng = np.random.default_rng((SEED, self.epoch, index))
        image = torch.from_numpy(rng.integers(0, 256, (3, 8, 8), dtype=np.uint8))
        return Example(image, torch.tensor(index % 3), f"picture{index}")


class Network(nn.Module):
    """Holds what a resumed run could get wrong: batch statistics, dropout and an idle weight.

    ``idle`` makes a checkpoint of some size, so that a kill often meets it half written.
    """

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(SEED)
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.linear = nn.Linear(8, 3)
        self.idle = nn.Parameter(torch.ones(2**16))
        self.left = stop_at

    def forward(self, images: Tensor, targets: list[Tensor]) -> dict[str, Tensor]:
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                raise Stopped
        features = self.norm(self.conv(images.float() / 255)).relu().mean((2, 3))
        logits = self.linear(F.dropout(features, 0.3))
        loss = F.cross_entropy(logits, torch.stack(targets))
        return {"loss_class": loss, "size": 0.01 * logits.square().mean() + 0 * self.idle[0]}


def recipe(**changes: Any) -> TrainingRecipe:
    values: dict[str, Any] = {
        "epochs": 8,
        "batch_size": 4,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "weight_decay": 0.01,
        "schedule": "cosine",
        "warmup_steps": 7,
        "checkpoint_minutes": ALWAYS,
        "log_every": 3,
    }
    return TrainingRecipe.model_validate({**values, **changes})


def run_in(folder: Path, workers: int = 0) -> Run:
    return Run(folder / "state", SEED, torch.device("cpu"), workers)


def log_rows(folder: Path) -> list[dict[str, str]]:
    """Return the log without what depends on the clock."""
    rows = csv.DictReader((folder / "state" / LOG).read_text().splitlines())
    clock = ("images_per_second", "seconds")
    return [{name: row[name] for name in row if name not in clock} for row in rows]


def weights(model: nn.Module) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


@dataclass(frozen=True)
class Ended:
    """What a training left behind."""

    weights: dict[str, bytes]
    losses: dict[str, float]
    rows: list[dict[str, str]]


def ended(model: nn.Module, fit: Fit, folder: Path) -> Ended:
    return Ended(weights(model), fit.losses, log_rows(folder))


def complete(folder: Path, **changes: Any) -> Ended:
    """Train from what the folder holds to the end."""
    model = Network()
    return ended(model, train(model, Pictures, recipe(**changes), run_in(folder)), folder)


def litter(folder: Path) -> list[str]:
    return [path.name for path in (folder / "state").iterdir() if path.name.startswith(".")]


# Stopped in this process


@pytest.mark.parametrize("changes", [{}, {"optimizer": "adamw", "learning_rate": 0.01}])
@pytest.mark.parametrize(
    "stops",
    [[1], [2], [6], [7], [40], [3, 5, 14]],
    ids=["first step", "after one", "epoch's end", "next epoch", "last step", "three times"],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    tmp_path: Path, stops: list[int], changes: dict[str, Any]
) -> None:
    whole = complete(tmp_path / "whole", **changes, checkpoint_minutes=NEVER)
    for stop in stops:
        with pytest.raises(Stopped):
            train(Network(stop), Pictures, recipe(**changes), run_in(tmp_path))
    assert complete(tmp_path, **changes) == whole
    assert [int(row["step"]) for row in whole.rows] == [*range(3, 41, 3), 40]


def test_a_run_without_checkpoints_starts_again(tmp_path: Path) -> None:
    whole = complete(tmp_path / "whole")
    with pytest.raises(Stopped):
        train(Network(9), Pictures, recipe(checkpoint_minutes=NEVER), run_in(tmp_path))
    assert not (tmp_path / "state" / CHECKPOINT).exists()
    assert complete(tmp_path) == whole


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    whole = complete(tmp_path)
    model = Network(stop_at=1)
    fit = train(model, Pictures, recipe(), run_in(tmp_path))
    assert ended(model, fit, tmp_path) == whole
    assert fit.steps == 40


def test_a_half_written_checkpoint_is_swept_away(tmp_path: Path) -> None:
    """A kill leaves one behind each time, and these are large."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / f".{CHECKPOINT}.x1y2z3").write_bytes(b"half")
    complete(tmp_path)
    assert litter(tmp_path) == []


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    whole, other = complete(tmp_path / "whole"), Network()
    train(other, Pictures, recipe(), Run(tmp_path / "state", SEED + 1, torch.device("cpu")))
    assert weights(other) != whole.weights


def test_time_goes_on_where_it_stopped(tmp_path: Path) -> None:
    def slow(epoch: int) -> Pictures:
        return Pictures(epoch, seconds=0.005)

    with pytest.raises(Stopped):
        train(Network(11), slow, recipe(), run_in(tmp_path))
    before = torch.load(tmp_path / "state" / CHECKPOINT, weights_only=True)["progress"]
    assert before["step"] == 10
    assert before["seconds"] > 10 * 4 * 0.005
    fit = train(Network(), Pictures, recipe(), run_in(tmp_path))
    assert before["seconds"] < fit.seconds < before["seconds"] + 30


def test_the_memory_of_the_process_before_counts(tmp_path: Path) -> None:
    complete(tmp_path)
    path = tmp_path / "state" / CHECKPOINT
    content = torch.load(path, weights_only=True)
    assert content["progress"]["peak_memory_mb"] > 1
    content["progress"]["peak_memory_mb"] = 1e9
    torch.save(content, path)
    assert train(Network(), Pictures, recipe(), run_in(tmp_path)).peak_memory_mb == 1e9


def test_a_full_disk_keeps_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = complete(tmp_path / "whole")
    save: Callable[..., None] = torch.save

    def half(content: Any, path: Path) -> None:
        save(content, path)
        if content["progress"]["step"] == 5:
            os.truncate(path, path.stat().st_size // 2)
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    expected = (
        r"checkpoint\.pt: the checkpoint of step 5 could not be written \(.*No space left on "
        r"device\); the previous one is kept\. Free some disk space and start again"
    )
    with pytest.raises(InputError, match=expected):
        complete(tmp_path)
    path = tmp_path / "state" / CHECKPOINT
    assert torch.load(path, weights_only=True)["progress"]["step"] == 4
    assert litter(tmp_path) == []
    monkeypatch.setattr(torch, "save", save)
    assert complete(tmp_path) == whole


def test_a_disk_full_from_the_start_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(content: Any, path: Path) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match=r"step 1 could not .*; there is none before it\."):
        complete(tmp_path)


# Stopped from outside


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Starts programs from a process that has imported torch already, which takes seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["detransfer.training", "pytest", EventAccumulator.__module__])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()
    return context


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    return complete(tmp_path_factory.mktemp("whole"), epochs=32, checkpoint_minutes=NEVER)


@contextlib.contextmanager
def program(
    processes: ForkServerContext, folder: Path, **arguments: Any
) -> Iterator[ForkServerProcess]:
    """Start this file as a program; it is gone at the end, whatever happens."""
    values = {"ARGUMENTS": {"folder": folder, "epochs": 32, "minutes": ALWAYS, **arguments}}
    process = processes.Process(target=runpy.run_path, args=(__file__, values, "__main__"))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def wait_for(condition: Callable[[], bool], process: ForkServerProcess) -> None:
    limit = time.monotonic() + 60
    while not condition():
        assert process.is_alive(), f"the program ended by itself: {process.exitcode}"
        assert time.monotonic() < limit
        time.sleep(0.002)


def wait_for_the_next_second(folder: Path) -> None:
    """Tensorboard orders the files of one run by the second at which they were begun."""
    names = [path.name for path in (folder / "state" / "tensorboard").glob("*")]
    newest = max((int(name.split(".")[3]) for name in names), default=0)
    while int(time.time()) <= newest:
        time.sleep(0.01)


def inode(path: Path) -> int:
    return path.stat().st_ino if path.exists() else 0


def test_five_kills_at_random_moments_change_nothing(
    tmp_path: Path, processes: ForkServerContext, whole: Ended
) -> None:
    log, checkpoint = tmp_path / "state" / LOG, tmp_path / "state" / CHECKPOINT
    for kill in range(5):
        started = inode(log)
        wait_for_the_next_second(tmp_path)
        with program(processes, tmp_path, seconds=0.003) as process:
            # The log is written anew when a training starts.
            wait_for(lambda before=started: inode(log) != before, process)  # type: ignore[misc]
            time.sleep(random.uniform(0, 0.25))  # a seed would not fix the moment either
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
            assert process.exitcode == -signal.SIGKILL, f"kill {kill} came too late"
    assert torch.load(checkpoint, weights_only=True)["progress"]["step"] > 0
    wait_for_the_next_second(tmp_path)
    assert complete(tmp_path, epochs=32) == whole
    assert litter(tmp_path) == []
    board = EventAccumulator(str(tmp_path / "state" / "tensorboard"), {"scalars": 0}).Reload()
    steps = [event.step for event in board.Scalars("train/loss")]
    assert steps == [int(row["step"]) for row in whole.rows]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_signal_leaves_a_checkpoint_and_its_status(
    tmp_path: Path, processes: ForkServerContext, whole: Ended, workers: int, number: int
) -> None:
    """The whole group gets it, as from Slurm and from a terminal: the loader's workers, too."""
    log, checkpoint = tmp_path / "state" / LOG, tmp_path / "state" / CHECKPOINT
    arguments = {"seconds": 0.003, "minutes": NEVER, "workers": workers}
    with program(processes, tmp_path, **arguments) as process:
        wait_for(lambda: log.exists() and len(log.read_text().splitlines()) > 4, process)
        assert not checkpoint.exists()
        os.killpg(process.pid or 0, number)
        process.join(30)
        assert process.exitcode == 128 + number
    assert "Traceback" not in (tmp_path / "errors").read_text()
    assert torch.load(checkpoint, weights_only=True)["progress"]["step"] >= 9
    board = EventAccumulator(str(tmp_path / "state" / "tensorboard")).Reload()
    assert len(board.Scalars("train/loss")) == len(log_rows(tmp_path))
    assert complete(tmp_path, epochs=32) == whole


@pytest.mark.parametrize("workers", [0, 2])
def test_a_second_sigint_ends_at_once(
    tmp_path: Path, processes: ForkServerContext, workers: int
) -> None:
    """A step takes half a minute here, and longer with its loaders."""
    arguments = {"seconds": 8.0, "minutes": NEVER, "workers": workers}
    with program(processes, tmp_path, **arguments) as process:
        wait_for((tmp_path / "state" / LOG).exists, process)
        time.sleep(0.5)  # the log is opened a moment before signals are heard
        os.killpg(process.pid or 0, signal.SIGINT)
        time.sleep(0.5)
        assert process.is_alive()
        os.killpg(process.pid or 0, signal.SIGINT)
        process.join(5)
        assert process.exitcode == -signal.SIGINT
    assert not (tmp_path / "state" / CHECKPOINT).exists()


def test_a_sigint_that_is_ignored_stays_so(tmp_path: Path, processes: ForkServerContext) -> None:
    arguments = {"seconds": 0.05, "minutes": NEVER, "epochs": 2, "deaf": True}
    with program(processes, tmp_path, **arguments) as process:
        wait_for((tmp_path / "state" / LOG).exists, process)
        for _ in range(2):
            time.sleep(0.3)
            os.killpg(process.pid or 0, signal.SIGINT)
        process.join(60)
        assert process.exitcode == 0
    assert log_rows(tmp_path)[-1]["step"] == "10"


def test_a_file_system_that_refuses_keeps_the_previous_checkpoint(
    tmp_path: Path, processes: ForkServerContext, whole: Ended
) -> None:
    """From the third epoch on the program may write no file above 100 kB; a checkpoint has 500."""
    with program(processes, tmp_path, limit_from=2) as process:
        process.join(60)
        assert process.exitcode == 2
    assert "could not be written" in (tmp_path / "errors").read_text()
    assert "the previous one is kept. Free some disk space" in (tmp_path / "errors").read_text()
    assert "Traceback" not in (tmp_path / "errors").read_text()
    checkpoint = torch.load(tmp_path / "state" / CHECKPOINT, weights_only=True)
    assert checkpoint["progress"]["step"] == 10
    assert litter(tmp_path) == []
    assert complete(tmp_path, epochs=32) == whole


def main(
    folder: Path,
    epochs: float,
    minutes: float,
    seconds: float = 0.0,
    workers: int = 0,
    limit_from: int | None = None,
    deaf: bool = False,
) -> None:
    """Train in ``folder``; an image takes ``seconds`` to load, files are small from an epoch on.

    ``deaf``: SIGINT is ignored, as in a script's background.
    """
    if deaf:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def limit(epoch: int) -> None:
        if limit_from is not None and epoch >= limit_from:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

    os.setpgid(0, 0)
    multiprocessing.set_start_method("fork", force=True)  # what a program begins with on Linux
    torch.set_num_threads(1)
    given = recipe(epochs=epochs, checkpoint_minutes=minutes)
    train(Network(), lambda e: Pictures(e, seconds, limit), given, run_in(folder, workers))


if __name__ == "__main__":
    arguments: dict[str, Any] = globals()["ARGUMENTS"]
    with (arguments["folder"] / "errors").open("w") as file, contextlib.redirect_stderr(file):
        console.run(lambda: main(**arguments))
