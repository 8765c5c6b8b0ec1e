from __future__ import annotations

import csv
import logging
import math
import os
import signal
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import Dataset

from detransfer import training
from detransfer.backbone import conv5
from detransfer.batches import Example, collate, epoch_order, key
from detransfer.checkpoints import CHECKPOINT
from detransfer.console import InputError
from detransfer.recipes.training import TrainingRecipe
from detransfer.training import Diverged, Run, learning_rate, make_optimizer, train
from detransfer.training_log import LOG, Progress, TrainingLog

NEVER, ALWAYS = 1000.0, 1e-6  # minutes between checkpoints


def recipe(**changes: Any) -> TrainingRecipe:
    values: dict[str, Any] = {
        "epochs": 1,
        "batch_size": 8,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "schedule": "constant",
        "checkpoint_minutes": NEVER,
        "log_every": 1,
    }
    return TrainingRecipe.model_validate({**values, **changes})


@dataclass
class Pictures(Dataset[Example]):
    """Random images of three classes, keyed by (epoch, index)."""

    epoch: int
    size: int = 8

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Example:
        rng = np.random.default_rng((self.epoch, index))
        image = torch.from_numpy(rng.integers(0, 256, (3, 8, 8), dtype=np.uint8))
        return Example(image, {"label": torch.tensor(index % 3)}, f"picture{index}.jpg")


@dataclass
class Notes:
    """What a model saw."""

    labels: list[list[int]] = field(default_factory=list)


class Network(nn.Module):
    """A small model with two losses; it notes the labels of each call."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.norm = nn.GroupNorm(2, 4)
        self.linear = nn.Linear(4, 3)
        self.notes = Notes()

    def forward(self, images: Tensor, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        labels = torch.stack([target["label"] for target in targets])
        self.notes.labels.append(labels.tolist())
        features = self.norm(self.conv(images.float() / 255)).relu().mean((2, 3))
        logits = self.linear(features)
        return {
            "loss_class": F.cross_entropy(logits, labels),
            "size": 0.1 * logits.square().mean(),
        }


def run_in(folder: Path, workers: int = 0) -> Run:
    return Run(folder / "state", 3, torch.device("cpu"), workers)


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "state" / LOG).read_text().splitlines()))


def gradients(model: Network, epoch: int = 0, size: int = 8) -> dict[str, Tensor]:
    """Return the gradients of the mean losses over a whole data set."""
    batch = collate([Pictures(epoch, size)[i] for i in range(size)])
    model.zero_grad()
    losses = model(batch.images, batch.targets)
    (losses["loss_class"] + losses["size"]).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# Schedule


def test_warm_up_is_linear() -> None:
    given = recipe(warmup_steps=4, warmup_factor=0.25)
    rates = [learning_rate(given, step, 10, 20) for step in range(6)]
    assert rates == pytest.approx([0.025, 0.04375, 0.0625, 0.08125, 0.1, 0.1])
    assert learning_rate(recipe(warmup_steps=4), 0, 10, 20) == 0


def test_steps_fall_at_their_epochs() -> None:
    given = recipe(epochs=3, schedule="step", step_epochs=(1, 1.5), step_factor=0.1)
    rates = {step: learning_rate(given, step, 10, 30) for step in (0, 9, 10, 14, 15, 29)}
    expected = {0: 0.1, 9: 0.1, 10: 0.01, 14: 0.01, 15: 0.001, 29: 0.001}
    assert rates == pytest.approx(expected)


def test_cosine_falls_to_zero_and_is_multiplied_by_the_warm_up() -> None:
    given = recipe(schedule="cosine")
    rates = [learning_rate(given, step, 4, 8) for step in (0, 2, 4, 8)]
    assert rates == pytest.approx([0.1, 0.08535534, 0.05, 0.0], abs=1e-8)
    warm = recipe(schedule="cosine", warmup_steps=4, warmup_factor=0.5)
    assert learning_rate(warm, 2, 4, 8) == pytest.approx(0.75 * 0.08535534)


def test_training_follows_the_schedule_and_epochs_may_be_broken(tmp_path: Path) -> None:
    given = recipe(epochs=2.5, batch_size=4, schedule="step", step_epochs=(1,), warmup_steps=1)
    fit = train(Network(), Pictures, given, run_in(tmp_path))
    assert (fit.steps, fit.images, fit.world_size, fit.device) == (5, 20, 1, "cpu")
    rates = [float(row["learning_rate"]) for row in rows(tmp_path)]
    assert rates == pytest.approx([0.0, 0.1, 0.01, 0.01, 0.01])
    assert [row["epoch"] for row in rows(tmp_path)] == ["0", "0", "1", "1", "2"]


# Order


@given(st.integers(1, 50), st.integers(1, 12), st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_is_a_permutation_whose_last_batch_wraps(
    size: int, batch: int, seed: int, epoch: int
) -> None:
    order = epoch_order(size, batch, seed, epoch)
    flat = [index for indices in order for index in indices]
    assert {len(indices) for indices in order} == {batch}
    assert len(order) == math.ceil(size / batch)
    assert sorted(flat[:size]) == list(range(size))
    assert flat[size:] == (flat[:size] * batch)[: len(flat) - size]
    assert epoch_order(size, batch, seed, epoch) == order


def test_orders_differ_by_epoch_and_by_seed() -> None:
    orders = [str(epoch_order(20, 4, seed, epoch)) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9


def test_training_sees_every_image_once_an_epoch(tmp_path: Path) -> None:
    model = Network()
    train(model, Pictures, recipe(epochs=2, batch_size=4), run_in(tmp_path))
    for epoch in (model.notes.labels[:2], model.notes.labels[2:]):
        seen = sorted(label for batch in epoch for label in batch)
        assert seen == sorted(i % 3 for i in range(8))
    assert model.notes.labels[:2] != model.notes.labels[2:]


def test_keys_are_64_bits_and_depend_on_every_number() -> None:
    keys = [key(a, b) for a in range(20) for b in range(20)]
    assert len(set(keys)) == 400
    assert all(0 <= k < 2**64 for k in keys)
    # Each bit is set in about half of them: 400 flips, five standard deviations.
    bits = np.array([[k >> b & 1 for b in range(64)] for k in keys]).sum(0)
    assert (abs(bits - 200) < 50).all()


# The step


def test_a_step_of_sgd_is_that_of_the_formula(tmp_path: Path) -> None:
    expected = Network()
    moved = gradients(expected)
    with torch.no_grad():
        for name, parameter in expected.named_parameters():
            decay = 0.2 if parameter.ndim > 1 else 0.0
            parameter.sub_(0.1 * (moved[name] + decay * parameter))
    model = Network()
    fit = train(model, Pictures, recipe(weight_decay=0.2), run_in(tmp_path))
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter, expected.get_parameter(name), atol=1e-6), name
    total = fit.losses["loss_class"] + fit.losses["size"]
    assert fit.losses["loss"] == pytest.approx(total, abs=1e-5), "six digits are kept"
    assert list(fit.losses) == ["loss", "loss_class", "size"]


def test_a_first_step_of_adamw_is_that_of_the_formula(tmp_path: Path) -> None:
    """Loshchilov & Hutter (2019), algorithm 2: the first step is the rate times the sign."""
    start, moved = Network(), gradients(Network())
    model = Network()
    given = recipe(optimizer="adamw", learning_rate=0.01, weight_decay=0.5)
    train(model, Pictures, given, run_in(tmp_path))
    for name, parameter in model.named_parameters():
        before, gradient = start.get_parameter(name), moved[name]
        decay = 0.5 * before if before.ndim > 1 else 0
        expected = before - 0.01 * (gradient / (gradient.abs() + 1e-8) + decay)
        clear = gradient.abs() > 1e-5
        assert clear.any()
        assert torch.allclose(parameter[clear], expected[clear], atol=1e-5), name


def test_micro_batches_add_up_to_the_batch(tmp_path: Path) -> None:
    models, fits = [], []
    for micro in (None, 4, 1):
        model = Network()
        given = recipe(epochs=3, micro_batch=micro, momentum=0.9, clip_norm=1.0)
        fits.append(train(model, Pictures, given, run_in(tmp_path / str(micro))))
        models.append(model)
    assert [len(model.notes.labels) for model in models] == [3, 6, 24]
    for model, fit in zip(models[1:], fits[1:], strict=True):
        assert fit.losses == pytest.approx(fits[0].losses, abs=1e-6)
        for name, parameter in model.named_parameters():
            assert torch.allclose(parameter, models[0].get_parameter(name), atol=1e-6), name


def test_weights_decay_and_nothing_else() -> None:
    model = Network()
    model.conv.requires_grad_(False)
    optimizer = make_optimizer(model, recipe(weight_decay=0.3, momentum=0.7, nesterov=True))
    decays = {
        id(parameter): group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    names = {name: decays.get(id(p)) for name, p in model.named_parameters()}
    assert names == {
        "conv.weight": None,
        "conv.bias": None,
        "norm.weight": 0.0,
        "norm.bias": 0.0,
        "linear.weight": 0.3,
        "linear.bias": 0.0,
    }
    assert optimizer.defaults["momentum"] == 0.7
    assert optimizer.defaults["nesterov"]


def test_gradients_are_clipped_to_their_norm(tmp_path: Path) -> None:
    start = Network()
    norm = math.sqrt(sum(g.square().sum().item() for g in gradients(start).values()))
    for limit, expected in ((norm / 2, norm / 2), (norm * 2, norm)):
        model = Network()
        train(model, Pictures, recipe(clip_norm=limit), run_in(tmp_path / str(limit)))
        moved = [p - start.get_parameter(n) for n, p in model.named_parameters()]
        length = math.sqrt(sum(m.square().sum().item() for m in moved))
        assert length == pytest.approx(0.1 * expected, rel=1e-4)


def test_a_data_set_smaller_than_the_batch_is_repeated(tmp_path: Path) -> None:
    model = Network()
    fit = train(model, lambda epoch: Pictures(epoch, 3), recipe(), run_in(tmp_path))
    assert (fit.steps, fit.images) == (1, 8)
    assert sorted(model.notes.labels[0].count(label) for label in range(3)) == [2, 3, 3]


def test_an_empty_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the training set is empty: no image of its splits"):
        train(Network(), lambda epoch: Pictures(epoch, 0), recipe(), run_in(tmp_path))


class Planted:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("fault", ["code", "cut"])
def test_a_foreign_checkpoint_is_refused_and_not_executed(tmp_path: Path, fault: str) -> None:
    here, planted = run_in(tmp_path), tmp_path / "executed"
    here.state.mkdir(parents=True, exist_ok=True)
    checkpoint = here.state / training.CHECKPOINT
    torch.save({"model": Planted(planted)}, checkpoint)
    if fault == "cut":
        checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    with pytest.raises(InputError, match=r"checkpoint\.pt: the checkpoint is damaged"):
        train(Network(), Pictures, recipe(), here)
    assert not planted.exists()


def test_memory_layout_changes_nothing_but_the_layout(tmp_path: Path) -> None:
    models = {}
    for layout in (True, False):
        models[layout] = Network()
        train(
            models[layout], Pictures, recipe(channels_last=layout), run_in(tmp_path / str(layout))
        )
    assert models[True].conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert not models[False].conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(models[True].conv.weight, models[False].conv.weight, atol=1e-6)


def test_only_the_backbone_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = timm.create_model(
                "resnet10t", num_classes=0, channels=(8, 16, 24, 32), stem_width=8
            )

        def forward(self, images: Tensor, targets: list[Any]) -> dict[str, Tensor]:
            return {"loss": conv5(self.backbone, images).square().mean()}

    compiled, calls = [], []

    def fake_compile(function: Any) -> Any:
        def call(*arguments: Tensor) -> Any:
            calls.append(arguments[0].shape)
            return function(*arguments)

        compiled.append(function.__name__)
        return call

    monkeypatch.setattr(torch, "compile", fake_compile)
    train(Detector(), Pictures, recipe(batch_size=4), run_in(tmp_path / "a"))
    assert (compiled, calls) == ([], [])
    model = Detector()
    names = list(model.state_dict())
    train(model, Pictures, recipe(batch_size=4, compile=True), run_in(tmp_path / "b"))
    assert compiled == ["forward_features", "forward_intermediates"]
    assert calls == [(4, 3, 8, 8)] * 2
    assert list(model.state_dict()) == names


# What goes wrong


class Exploding(Network):
    """Its loss is infinite, or only its gradient, once it meets a class for the n-th time."""

    def __init__(self, at: int, loss: bool) -> None:
        super().__init__()
        self.at, self.loss = at, loss

    def forward(self, images: Tensor, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        losses = super().forward(images, targets)
        if len(self.notes.labels) == self.at:
            # The square root has no slope at 0: a finite loss, and gradients that are not.
            poison = (self.linear.weight * 0).sum()
            losses["size"] = poison / 0 if self.loss else poison.sqrt()
        return losses


@pytest.mark.parametrize("every", [1, 100])
def test_a_loss_that_is_not_finite_names_step_and_images(tmp_path: Path, every: int) -> None:
    order = epoch_order(8, 4, 3, 1)[0]  # the third step is the first of epoch 1
    with pytest.raises(InputError) as caught:
        train(
            Exploding(3, loss=True),
            Pictures,
            recipe(epochs=3, batch_size=4, log_every=every),
            run_in(tmp_path),
        )
    message = str(caught.value)
    assert message.startswith("step 3: the loss is not finite ({'loss_class': ")
    assert "'size': nan" in message
    assert f"images of the batch: {', '.join(f'picture{i}.jpg' for i in order)}. " in message
    assert "Last good checkpoint: none yet. A lower training.learning_rate" in message
    assert [row["step"] for row in rows(tmp_path)] == (["1", "2"] if every == 1 else [])


@pytest.mark.parametrize("loss", [True, False])
def test_the_last_checkpoint_is_good_whatever_explodes(tmp_path: Path, loss: bool) -> None:
    path = tmp_path / "state" / CHECKPOINT
    message = "the loss is" if loss else r"(conv|linear)\.weight is"
    with pytest.raises(Diverged, match=f"step 3: {message} not finite.*checkpoint: {path}"):
        train(
            Exploding(3, loss),
            Pictures,
            recipe(epochs=3, batch_size=4, checkpoint_minutes=ALWAYS),
            run_in(tmp_path),
        )
    content = torch.load(path, weights_only=True)
    assert content["progress"]["step"] == 2
    assert all(value.isfinite().all() for value in content["model"].values())


def test_final_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"step 2: .* is not finite after the step.*none yet"):
        train(Exploding(2, loss=False), Pictures, recipe(batch_size=4), run_in(tmp_path))


# SIGTERM


def test_sigterm_at_any_moment_saves_before_it_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after the loop has asked whether to stop, when the step is being logged."""
    write = TrainingLog.write

    def write_and_be_stopped(self: TrainingLog, progress: Progress, *rest: Any) -> None:
        write(self, progress, *rest)
        if progress.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(TrainingLog, "write", write_and_be_stopped)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        train(Network(), Pictures, recipe(epochs=9), run_in(tmp_path))
    assert caught.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    content = torch.load(tmp_path / "state" / CHECKPOINT, weights_only=True)
    assert content["progress"]["step"] == 3


def test_after_training_sigterm_ends_the_program_again(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    train(Network(), Pictures, recipe(), run_in(tmp_path))
    assert signal.getsignal(signal.SIGTERM) == before
    with pytest.raises(InputError):
        train(Exploding(1, loss=True), Pictures, recipe(), run_in(tmp_path / "b"))
    assert signal.getsignal(signal.SIGTERM) == before


# Logs


def test_rows_are_means_over_the_steps_since_the_last(tmp_path: Path) -> None:
    fits = [
        train(
            Network(),
            Pictures,
            recipe(epochs=7, batch_size=4, log_every=every),
            run_in(tmp_path / str(every)),
        )
        for every in (1, 4)
    ]
    single, fourth = rows(tmp_path / "1"), rows(tmp_path / "4")
    assert [int(row["step"]) for row in single] == list(range(1, 15))
    assert [int(row["step"]) for row in fourth] == [4, 8, 12, 14]
    for name in ("loss", "loss_class", "size"):
        each = [float(row[name]) for row in single]
        means = [np.mean(each[i:j]) for i, j in ((0, 4), (4, 8), (8, 12), (12, 14))]
        assert [float(row[name]) for row in fourth] == pytest.approx(means, rel=1e-5)
        assert fits[1].losses[name] == float(fourth[-1][name])


def test_tensorboard_shows_what_the_table_holds(tmp_path: Path) -> None:
    train(Network(), Pictures, recipe(epochs=3, batch_size=4, log_every=2), run_in(tmp_path))
    board = EventAccumulator(str(tmp_path / "state" / "tensorboard")).Reload()
    table = rows(tmp_path)
    for name in ("loss", "loss_class", "size", "learning_rate"):
        events = board.Scalars(f"train/{name}")
        assert [event.step for event in events] == [int(row["step"]) for row in table]
        values = [float(row[name]) for row in table]
        assert [event.value for event in events] == pytest.approx(values, rel=1e-5)


def test_a_resumed_log_drops_what_the_checkpoint_does_not_know(tmp_path: Path) -> None:
    header = "step,steps,epoch,learning_rate,images_per_second,seconds,loss,other\n"
    good = "".join(f"{step},9,0,0.1,5.00,1.0,0.{step},1\n" for step in (2, 4, 6))
    (tmp_path / LOG).write_text(header + good + "1")  # the last row was cut by a full disk
    log = TrainingLog(tmp_path, Progress(step=4))
    assert (tmp_path / LOG).read_text() == header + good[: good.index("6,9")]
    assert log.last_losses() == {"loss": 0.4, "other": 1.0}
    log.close()
    empty = TrainingLog(tmp_path / "new", Progress())
    assert empty.last_losses() == {}
    empty.close()


def test_more_than_a_day_left_is_said_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), closing(TrainingLog(tmp_path, Progress())) as log:
        log.write(Progress(step=4), 0.1, {"loss": 1.0}, 2.0, 8, 4 + 2 * 30 * 3600)
    assert caplog.messages == ["step 4/216004 epoch 0 loss 1.0000  16.0 images/s  1d06h left"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's ever full device")
def test_a_log_on_a_full_disk_is_explained(tmp_path: Path) -> None:
    with closing(TrainingLog(tmp_path, Progress())) as log:
        log.path = Path("/dev/full")
        expected = r"/dev/full: step 4 could not be logged \(.*No space left.* last checkpoint\."
        with pytest.raises(InputError, match=expected):
            log.write(Progress(step=4), 0.1, {"loss": 1.0}, 1.0, 8, 9)


def test_workers_change_nothing(tmp_path: Path) -> None:
    states = []
    for workers in (0, 2):
        model = Network()
        train(
            model,
            Pictures,
            recipe(epochs=2, batch_size=4),
            run_in(tmp_path / str(workers), workers),
        )
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_unequal_images_lie_at_the_upper_left_of_one_canvas() -> None:
    images = [torch.full((3, *size), 7, dtype=torch.uint8) for size in ((2, 5), (4, 3))]
    targets = [torch.zeros(2, 5), torch.zeros(4, 3)]
    batch = collate([Example(i, t, n) for i, t, n in zip(images, targets, ("a", "b"), strict=True)])
    assert batch.images.shape == (2, 3, 4, 5) and batch.images.dtype == torch.uint8
    assert torch.equal(batch.images[0, :, :2], images[0]) and not batch.images[0, :, 2:].any()
    assert torch.equal(batch.images[1, :, :, :3], images[1]) and not batch.images[1, :, :, 3:].any()
    assert batch.targets == targets and batch.names == ["a", "b"]
    equal = collate([Pictures(0)[i] for i in range(3)])
    assert torch.equal(equal.images, torch.stack([Pictures(0)[i].image for i in range(3)]))


def test_targets_of_any_shape_reach_the_device() -> None:
    device = torch.device("meta")
    target = {"boxes": torch.zeros(2, 4), "inner": {"x": torch.zeros(1)}, "id": 7}
    moved = training._to(target, device)
    assert moved["boxes"].device == moved["inner"]["x"].device == device
    assert moved["id"] == 7
    assert training._to(torch.zeros(1), device).device == device
