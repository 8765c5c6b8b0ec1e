"""Trainings of every task are killed, and nothing is lost."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml

from detransfer.backbone import read_weights
from detransfer.checkpoints import CHECKPOINT
from detransfer.data.index import write_index
from tests.detection.rectangles import call, detection_recipe, write_rectangles, write_start
from tests.launch import launch, start
from tests.scripts import test_train_classifier as colours
from tests.scripts import test_train_segmenter as blocks
from tests.segmentation.scenes import write_scenes

MODEL = "model.safetensors"
KILLS = int(os.environ.get("DETRANSFER_KILLS", "5"))  # of each training, of eight steps a kill
WORLDS = {
    "train_detector": "rectangles",
    "train_labels": "rectangles",
    "train_classifier": "colours",
    "train_segmenter": "blocks",
}
TRAINING = {
    "batch_size": 4,
    "optimizer": "sgd",
    "learning_rate": 0.002,
    "weight_decay": 0.001,
    "schedule": "cosine",
    "checkpoint_minutes": 1e-6,
    "log_every": 2,
    "channels_last": False,
}


@dataclass(frozen=True)
class Program:
    """One training program over its small world."""

    path: Path
    world: Path

    def write_recipe(self, name: str, epochs: float, **training: Any) -> None:
        contents = {
            "rectangles": detection_recipe().model_dump(mode="json"),
            "colours": colours.RECIPE,
            "blocks": blocks.RECIPE,
        }
        content = contents[self.world.name]
        content = {**content, "training": {**TRAINING, "epochs": epochs, **training}}
        if self.world.name == "colours":
            content["backbone"] = {"output_stride": 16, "batch_norm": "trained"}
        (self.world / name).write_text(yaml.safe_dump(content))

    def words(self, output: str, recipe: str = "recipe.yaml") -> list[str]:
        options = {
            "index": self.world / "index",
            "splits": "train",
            "start": self.world / "backbone.safetensors",
            "recipe": self.world / recipe,
            "seed": 3,
            "state": self.world / "states" / self.path.stem / output,
            "output": self.world / self.path.stem / output,
        }
        return [f"--{name}={value}" for name, value in options.items()]

    def run(self, output: str, recipe: str = "recipe.yaml") -> None:
        call(self.path, self.words(output, recipe))

    def state(self, output: str) -> list[Path]:
        return sorted((self.world / "states" / self.path.stem / output).glob("*"))

    def fit(self, output: str) -> dict[str, Any]:
        path = self.world / self.path.stem / output / "fit.json"
        content: dict[str, Any] = json.loads(path.read_text())
        return content

    def model(self, output: str) -> Path:
        return self.world / self.path.stem / output / MODEL

    def checkpoint(self, output: str) -> tuple[int, int]:
        """Return when the last checkpoint was written (ns) and its step; zeros before the first."""
        found = [folder / CHECKPOINT for folder in self.state(output)]
        return max((read_step(path) for path in found if path.exists()), default=(0, 0))


def read_step(path: Path) -> tuple[int, int]:
    """Return when a checkpoint was written (ns) and its step."""
    content = torch.load(path, weights_only=True)
    return path.stat().st_mtime_ns, int(content["progress"]["step"])


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("worlds")
    write_rectangles(folder / "rectangles")
    colours.write_world(folder / "colours")
    write_index(folder / "blocks" / "index", write_scenes(folder / "blocks" / "scenes", 8, 5))
    for name in set(WORLDS.values()):
        write_start(folder / name / "backbone.safetensors")
    return folder


@pytest.fixture
def program(repository: Path, worlds: Path, request: pytest.FixtureRequest) -> Program:
    """The program that a test names, with a recipe of some forty steps."""
    name = request.param
    found = Program(repository / "scripts" / f"{name}.py", worlds / WORLDS[name])
    steps = {"rectangles": 8, "colours": 6, "blocks": 4}[found.world.name]  # about, an epoch
    found.write_recipe("recipe.yaml", 8 * KILLS / steps)
    if not found.model("whole").exists():
        found.run("whole")
    return found


@pytest.fixture(scope="module")
def processes(repository: Path) -> ForkServerContext:
    """Starts programs from a process that has imported torch already, which takes seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "tests.detection.rectangles",
            "detransfer.training_run",
            "detransfer.detection.predict",
            "detransfer.segmentation.predict",
            "detransfer.classification.evaluate",
        ]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(repository), *sys.path]))
        forkserver.ensure_running()
    return context


def begin(processes: ForkServerContext, program: Program, output: str) -> ForkServerProcess:
    """Start a program, and wait until it has written a checkpoint."""
    before = program.checkpoint(output)[0]
    arguments = (program.path, program.words(output), "__main__")
    process = processes.Process(target=call, args=arguments)
    process.start()
    wait_until(lambda: program.checkpoint(output)[0] != before, process.is_alive)
    return process


def wait_until(condition: Callable[[], bool], alive: Callable[[], bool]) -> None:
    limit = time.monotonic() + 120
    while not condition():
        assert alive(), "the program ended by itself"
        assert time.monotonic() < limit, "waited two minutes in vain"
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize("program", WORLDS, indirect=True)
def test_kills_at_random_moments_change_nothing(
    program: Program, processes: ForkServerContext
) -> None:
    """Some by SIGKILL, one by SIGTERM; and another recipe takes nothing from what they left."""
    whole = program.fit("whole")
    reached = [0]
    for _ in range(KILLS):
        process = begin(processes, program, "killed")
        # A seed would not fix the moment either.
        time.sleep(random.uniform(0, 3 * whole["seconds"] / whole["steps"]))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        reached.append(program.checkpoint("killed")[1])
    assert reached == sorted(set(reached))
    process = begin(processes, program, "killed")
    os.kill(process.pid or 0, signal.SIGTERM)
    process.join(30)
    assert process.exitcode == 128 + signal.SIGTERM
    left = program.checkpoint("killed")
    (checkpoint,) = (folder / CHECKPOINT for folder in program.state("killed"))
    assert reached[-1] < left[1] < whole["steps"]
    assert not program.model("killed").exists()

    program.write_recipe("other.yaml", 0.5, weight_decay=0.5)
    program.run("killed", "other.yaml")
    assert program.fit("killed")["steps"] < reached[-1], "it went on from another recipe's state"
    assert read_step(checkpoint) == left and len(program.state("killed")) == 2

    program.run("killed")
    assert program.model("killed").read_bytes() == program.model("whole").read_bytes()
    killed = program.fit("killed")
    assert (killed["losses"], killed["steps"]) == (whole["losses"], whole["steps"])


def ranks_of(agent: int) -> list[psutil.Process]:
    """Return the processes that torchrun has started."""
    children = psutil.Process(agent).children()
    return [child for child in children if "train_classifier" in " ".join(child.cmdline())]


def strike(program: Program, blow: signal.Signals) -> int:
    """Train in two processes; give one a SIGTERM, or torchrun another. Return the step saved."""
    before = program.checkpoint("two")[1]
    agent = start(2, program.path, *program.words("two"))
    try:
        wait_until(lambda: program.checkpoint("two")[1] > before, lambda: agent.poll() is None)
    except AssertionError:
        agent.kill()
        raise AssertionError(agent.communicate()[0]) from None
    ranks = ranks_of(agent.pid)
    assert len(ranks) == 2
    os.kill(ranks[1].pid if blow == signal.SIGTERM else agent.pid, blow)
    began = time.monotonic()
    messages = agent.communicate(timeout=60)[0]
    assert agent.returncode != 0
    _, alive = psutil.wait_procs(ranks, timeout=30)
    assert not alive and time.monotonic() - began < 30
    heard = signal.SIGINT if blow == signal.SIGINT else signal.SIGTERM
    assert f"stopped by {heard.name}" in messages, messages
    return program.checkpoint("two")[1]


@pytest.mark.slow
@pytest.mark.parametrize("program", ["train_classifier"], indirect=True)
def test_two_processes_stop_together_and_one_goes_on(program: Program) -> None:
    blows = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
    reached = [0, *(strike(program, blow) for blow in blows)]
    whole = program.fit("whole")
    assert reached == sorted(set(reached)) and reached[-1] < whole["steps"]
    program.run("two")
    (folder,) = program.state("two")
    steps = [int(row["step"]) for row in csv.DictReader((folder / "log.csv").open())]
    assert steps == sorted(set(steps)) and steps[-1] == whole["steps"]
    assert_same_model(program, "two")


@pytest.mark.slow
@pytest.mark.parametrize("program", ["train_segmenter"], indirect=True)
def test_two_processes_leave_the_files_of_one(program: Program) -> None:
    launch(2, program.path, *program.words("both"))
    assert_same_model(program, "both")
    one, two = program.fit("whole"), program.fit("both")
    assert (one["world_size"], two["world_size"]) == (1, 2)
    assert two["training_score"] == pytest.approx(one["training_score"], abs=0.1)
    (folder,) = program.state("both")
    assert [file.name for file in folder.glob("*.pt")] == [CHECKPOINT]


def assert_same_model(program: Program, output: str) -> None:
    state, _ = read_weights(program.model(output))
    for name, value in read_weights(program.model("whole"))[0].items():
        size = max(1.0, float(value.abs().max()))
        assert float((state[name].double() - value.double()).abs().max()) <= 1e-5 * size, name
