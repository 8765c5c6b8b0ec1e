"""What happens to a training when its machine misbehaves."""

from __future__ import annotations

import logging
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detransfer import checkpoints
from detransfer.batches import Example, LoaderDied, load
from detransfer.checkpoints import BEFORE, CHECKPOINT, drop_checkpoints, drop_the_one_before
from detransfer.console import InputError
from detransfer.device_faults import device_faults
from detransfer.locks import LEASED
from detransfer.training import Run, _restore, make_optimizer, train
from tests.test_training_resume import (
    SEED,
    Network,
    Pictures,
    Stopped,
    complete,
    recipe,
    run_in,
    weights,
)


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """The state folder of a training that stopped after its ninth step."""
    with pytest.raises(Stopped):
        train(Network(10), Pictures, recipe(), run_in(tmp_path))
    return tmp_path / "state"


# Checkpoints


def flip(path: Path) -> None:
    """Change one bit of the weights, which leaves the archive readable."""
    content = bytearray(path.read_bytes())
    content[len(content) // 4] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip, cut, empty, Path.unlink])
def test_a_damaged_checkpoint_makes_way_for_the_one_before(
    tmp_path: Path,
    stopped: Path,
    damage: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    damage(stopped / CHECKPOINT)
    with caplog.at_level(logging.INFO):
        found = complete(tmp_path)
    said = [record.getMessage() for record in caplog.records]
    assert f"resuming after step 8 from {stopped / BEFORE}" in said
    if damage is not Path.unlink:
        assert f"{stopped / CHECKPOINT}: the checkpoint is damaged" in said[0]
    assert found == complete(tmp_path / "whole")


def test_a_flipped_bit_is_not_trained_on(tmp_path: Path, stopped: Path) -> None:
    """torch alone would read it: the oracle that the test above damages what matters."""
    flip(stopped / CHECKPOINT)
    torch.load(stopped / CHECKPOINT, weights_only=True)
    flip(stopped / BEFORE)
    with pytest.raises(InputError, match=r"checkpoint\.pt: the checkpoint is damaged.*checksum"):
        complete(tmp_path)


def test_a_damaged_checkpoint_does_not_become_the_one_before(tmp_path: Path, stopped: Path) -> None:
    flip(stopped / CHECKPOINT)
    with pytest.raises(Stopped):  # after it has written one more
        train(Network(2), Pictures, recipe(), run_in(tmp_path))
    flip(stopped / CHECKPOINT)
    with pytest.raises(Stopped):
        train(Network(1), Pictures, recipe(), run_in(tmp_path))
    assert torch.load(stopped / BEFORE, weights_only=True)["progress"]["step"] == 8


def test_checkpoints_are_kept_on_a_file_system_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(Stopped):
        train(Network(10), Pictures, recipe(), run_in(tmp_path))
    steps = [
        torch.load(tmp_path / "state" / name, weights_only=True)["progress"]["step"]
        for name in (BEFORE, CHECKPOINT)
    ]
    assert steps == [8, 9]
    drop_the_one_before(tmp_path / "state")
    assert [file.name for file in (tmp_path / "state").glob("*.pt")] == [CHECKPOINT]
    drop_checkpoints(tmp_path / "state")
    assert not list((tmp_path / "state").glob("*checkpoint*"))


NO_FAULTS_OF_A_FILE = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory"
    ),
]


@pytest.mark.parametrize("error", NO_FAULTS_OF_A_FILE)
def test_a_fault_of_a_device_is_not_taken_for_damage(
    tmp_path: Path, stopped: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A good checkpoint is neither deleted nor called damaged, and the next start goes on."""
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", lambda *_, **__: gone(error))
        with pytest.raises((InputError, RuntimeError), match=re.escape(str(error))) as caught:
            complete(tmp_path)
    assert "damaged" not in str(caught.value)
    model = Network()
    progress, _ = _restore(run_in(tmp_path), model, make_optimizer(model, recipe()))
    assert progress.step == 9


@pytest.mark.parametrize("error", NO_FAULTS_OF_A_FILE)
def test_a_fault_of_a_device_is_not_taken_for_a_full_disk(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "save", lambda *_: gone(error))
    with pytest.raises((InputError, RuntimeError), match=re.escape(str(error))) as caught:
        complete(tmp_path)
    assert "disk space" not in str(caught.value)


def test_processes_that_read_different_things_delete_nothing(
    tmp_path: Path, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(stopped / CHECKPOINT)
    monkeypatch.setattr(checkpoints, "gather", lambda found: [found, "step 9"])
    expected = r"checkpoint\.pt: the processes .* different things there \(damage, step 9\)"
    with pytest.raises(InputError, match=expected):
        complete(tmp_path)
    assert (stopped / CHECKPOINT).exists() and (stopped / BEFORE).exists()


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
@pytest.mark.parametrize("changes", [{}, {"optimizer": "adamw"}])
def test_what_is_read_comes_to_the_devices_memory(tmp_path: Path, changes: dict[str, Any]) -> None:
    """The device is one without values: a tensor that stays on the processor is another's."""
    with pytest.raises(Stopped):
        train(Network(12), Pictures, recipe(**changes), run_in(tmp_path))
    content = checkpoints.read_checkpoint(tmp_path / "state")
    assert content is not None
    assert {value.device.type for value in content["model"].values()} == {"cpu"}
    device = torch.device("meta")
    model = Network().to(device)
    optimizer = make_optimizer(model, recipe(**changes))
    progress, window = _restore(Run(tmp_path / "state", SEED, device), model, optimizer)
    assert progress.step == 11 and len(window.losses) == 2
    assert {loss.device for losses in window.losses for loss in losses.values()} == {device}
    moments = [
        value
        for state in optimizer.state.values()
        for name, value in state.items()
        if name != "step" and value is not None  # AdamW counts on the processor
    ]
    assert moments and {moment.device for moment in moments} == {device}


# Clocks


def test_a_clock_that_jumps_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = complete(tmp_path / "whole")
    now, jumps = time.time, random.Random(0)

    def jumping() -> float:
        return now() + jumps.choice([-1e7, -3600.0, 0.0, 3600.0, 1e7])

    monkeypatch.setattr(time, "time", jumping)
    for stop in (5, 9):
        with pytest.raises(Stopped):
            train(Network(stop), Pictures, recipe(), run_in(tmp_path))
    assert complete(tmp_path) == whole
    started = time.monotonic()
    model = Network()
    never = recipe(checkpoint_minutes=5.0, epochs=2)
    fit = train(model, Pictures, never, run_in(tmp_path / "again"))
    assert 0 <= fit.seconds <= time.monotonic() - started


# Loader processes


@dataclass
class Deadly(Pictures):
    """Loading its eighth picture kills the loader's process: the first time, or every time."""

    mark: Path = field(default_factory=Path)
    always: bool = False

    def __getitem__(self, index: int) -> Example:
        if self.epoch == 1 and index == 7 and (self.always or not self.mark.exists()):
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_a_loaders_process_that_dies_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, mark = Network(), tmp_path / "mark"
    train(model, lambda epoch: Deadly(epoch, mark=mark), recipe(epochs=3), run_in(tmp_path, 2))
    assert mark.exists()
    assert "a loader's process died" in caplog.text and "others take its place" in caplog.text
    whole = Network()
    train(whole, Pictures, recipe(epochs=3), run_in(tmp_path / "whole"))
    assert weights(model) == weights(whole)


def test_a_loaders_process_that_dies_again_is_reported(tmp_path: Path) -> None:
    def deadly(epoch: int) -> Deadly:
        return Deadly(epoch, mark=tmp_path / "mark", always=True)

    with pytest.raises(InputError, match=r"step \d+: a loader's process died twice.*mem_mb"):
        train(Network(), deadly, recipe(epochs=3), run_in(tmp_path, 2))
    assert (tmp_path / "state" / CHECKPOINT).exists()


def gone(error: Exception) -> None:
    raise error


@dataclass
class Vanishing:
    """A target whose way to the training meets a broken connection, as a killed process leaves."""

    error: Exception

    def __reduce__(self) -> tuple[Any, ...]:
        return gone, (self.error,)


@dataclass
class Targets(Pictures):
    """Every target is the one given."""

    target: Any = None

    def __getitem__(self, index: int) -> Example:
        return super().__getitem__(index)._replace(target=self.target)


@pytest.mark.parametrize("error", [EOFError(), ConnectionResetError(104, "Connection reset")])
def test_a_loaders_process_that_dies_while_handing_over_is_told_as_dead(error: Exception) -> None:
    with pytest.raises(LoaderDied) as caught:
        next(load(Targets(0, target=Vanishing(error)), [[0, 1]], workers=1, pinned=False))
    assert str(caught.value) == (str(error) or "it ended in the midst of a batch")


@dataclass
class Wrong(Pictures):
    """Loading fails, in the data set's own code."""

    error: Exception = field(default_factory=Exception)

    def __getitem__(self, index: int) -> Example:
        raise self.error


@pytest.mark.parametrize(
    "error", [EOFError("cut short"), RuntimeError("no DataLoader worker (pid")]
)
def test_the_data_sets_own_error_is_not_taken_for_a_death(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error).replace("(", r"\(")):
        next(load(Wrong(0, error=error), [[0, 1]], workers=1, pinned=False))


@dataclass
class Deaf(Pictures):
    """Every target says which signals the loader's process does not hear."""

    def __getitem__(self, index: int) -> Example:
        heard = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        return super().__getitem__(index)._replace(target=heard)


def test_a_loaders_process_lets_the_training_answer_signals() -> None:
    batch = next(load(Deaf(0), [[0, 1]], workers=1, pinned=False))
    assert batch.targets == [[signal.SIG_IGN, signal.SIG_IGN]] * 2


PROGRAM = """
from detransfer.batches import load
from detransfer.console import InputError, run
from tests.test_training_faults import Wrong

wrong = Wrong(0, error=InputError("a.jpg: the image is damaged"))
run(lambda: list(load(wrong, [[0, 1]] * 9, workers=2, pinned=False)))
"""


def test_a_training_that_a_damaged_image_stops_ends_its_loaders_and_itself() -> None:
    """They outlive SIGTERM, so whoever waits for them at the exit would wait for ever."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], timeout=60, capture_output=True)
    assert (done.returncode, done.stderr) == (2, b"error: a.jpg: the image is damaged\n")


# GPUs


class Failing(Network):
    """Its GPU fails at the fifth step."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error, self.steps = error, 0

    def forward(self, images: Tensor, targets: list[Tensor]) -> dict[str, Tensor]:
        self.steps += 1
        if self.steps == 5:
            raise self.error
        return super().forward(images, targets)


def test_a_training_without_memory_names_the_key_to_lower(tmp_path: Path) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore of it.")
    with pytest.raises(InputError) as caught:
        train(Failing(error), Pictures, recipe(micro_batch=2), run_in(tmp_path))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'state'}: the cpu of ")
    assert "ran out of memory: CUDA out of memory. Tried to allocate 2.00 GiB. 2 images" in message
    assert "lower training.micro_batch in the recipe" in message and "More of it" not in message
    assert complete(tmp_path, micro_batch=2) == complete(tmp_path / "whole", micro_batch=2)


def test_a_gpu_that_vanishes_is_named_with_its_job(tmp_path: Path) -> None:
    error = RuntimeError("CUDA error: unspecified launch failure\nCompile with ...")
    expected = r"state: the cpu of .* failed: CUDA error: unspecified launch failure\. Start the sa"
    with pytest.raises(InputError, match=expected):
        train(Failing(error), Pictures, recipe(), run_in(tmp_path))
    assert torch.load(tmp_path / "state" / CHECKPOINT, weights_only=True)["progress"]["step"] == 4
    assert complete(tmp_path) == complete(tmp_path / "whole")


class Greedy(Network):
    """At the fifth step it asks for more memory than there is: a petabyte."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def forward(self, images: Tensor, targets: list[Tensor]) -> dict[str, Tensor]:
        self.steps += 1
        if self.steps == 5:
            images = images + torch.empty(2**50, dtype=torch.uint8)[:1]
        return super().forward(images, targets)


def test_a_machine_without_memory_is_named_as_a_gpu_is(tmp_path: Path) -> None:
    expected = (
        r"state: the cpu of .* ran out of memory: .*DefaultCPUAllocator.*training.micro_batch"
    )
    with pytest.raises(InputError, match=expected):
        train(Greedy(), Pictures, recipe(micro_batch=2), run_in(tmp_path))
    assert complete(tmp_path, micro_batch=2) == complete(tmp_path / "whole", micro_batch=2)


class Large(Network):
    """The GPU has no room for it."""

    def to(self, *_: Any, **__: Any) -> Network:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")


def test_a_model_without_room_is_named_with_its_job(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"state: the cpu of .* ran out of memory: .*micro_batch"):
        train(Large(), Pictures, recipe(), run_in(tmp_path))


def test_every_program_that_uses_a_device_names_it_in_a_fault(repository: Path) -> None:
    """A trainer uses one besides the training where it asks for the job's device."""
    texts = {path.name: path.read_text() for path in (repository / "scripts").glob("*.py")}
    using = [name for name, text in texts.items() if "use_machine(" in text]
    trainers = [name for name, text in texts.items() if "open_job(" in text]
    scoring = [name for name in trainers if re.search(r"\.device\b", texts[name])]
    assert len(using) >= 5 and len(trainers) >= 6
    assert {"train_classifier.py", "train_segmenter.py", "search_classifier.py"} <= set(scoring)
    assert [name for name in using + scoring if "device_faults(" not in texts[name]] == []


def test_a_device_has_the_name_that_its_machine_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    with (
        pytest.raises(InputError, match=r"^detect: GPU 6 of \S+ ran out of memory: x Lower it"),
        device_faults(torch.device("cuda", 1), "detect", "Lower it"),
    ):
        raise torch.OutOfMemoryError("x")
    with (
        pytest.raises(InputError, match=r"^detect: the cpu of \S+ ran out of memory"),
        device_faults(torch.device("cuda", 1), "detect", "Lower it"),
    ):
        raise RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory")
    with (
        pytest.raises(InputError, match=r"^detect: another process of this job ended; it says why"),
        device_faults(torch.device("cuda", 1), "detect", "Lower it"),
    ):
        raise RuntimeError("[gloo/pair.cc:534] Connection closed by peer [127.0.0.1]:1")
    with (
        pytest.raises(RuntimeError, match=r"^another fault$"),
        device_faults(torch.device("cuda", 1), "detect", "Lower it"),
    ):
        raise RuntimeError("another fault")


@pytest.mark.parametrize(
    ("message", "broken"),
    [
        ("CUDA error: unspecified launch failure", True),
        ("CUDA error: uncorrectable ECC error encountered", True),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", True),
        ("CUDA error: device-side assert triggered", False),
        ("CUDA error: out of memory", False),
        ("CUDA error: no kernel image is available for execution on the device", False),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", False),
        ("NCCL error: remote process exited or there was a network error", False),
    ],
)
def test_a_gpu_that_fails_is_given_to_no_further_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str, broken: bool
) -> None:
    """It would be the first free one for ever. A program's mistake takes no sound GPU away."""
    locks = [tmp_path / f"gpu-{number}.lock" for number in (4, 6)]
    monkeypatch.setenv(LEASED, os.pathsep.join(map(str, locks)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    with (
        pytest.raises(InputError, match=rf"GPU 6 of \S+ failed: {re.escape(message)}") as caught,
        device_faults(torch.device("cuda", 1), "detect", "Lower it"),
    ):
        raise RuntimeError(f"{message}\nCompile with ...")
    marks = list(tmp_path.iterdir())
    assert marks == ([tmp_path / "gpu-6.lock.broken"] if broken else [])
    for mark in marks:
        assert f"re-admit it by: rm {mark}" in str(caught.value)
        assert re.fullmatch(rf"[\d-]+ [\d:]+ detect: {re.escape(message)}\n", mark.read_text())
