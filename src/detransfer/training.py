"""The training loop, for every task: steps, schedule, precision, checkpoints, resume, progress.

A model in training mode maps ``(images, targets)`` to named losses; a data set is made anew for
every epoch, and its item i depends on (seed, epoch, i) alone. Together with random numbers that
are seeded at every step this makes a resumed run equal to an uninterrupted one, bit for bit on
the CPU.
"""

from __future__ import annotations

import logging
import math
import pickle
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from detransfer.console import InputError
from detransfer.files import atomic
from detransfer.recipes import TrainingRecipe
from detransfer.training_log import Progress, TrainingLog, device_name, peak_memory_mb

log = logging.getLogger(__name__)
CHECKPOINT = "checkpoint.pt"


class Example(NamedTuple):
    """One training example: a uint8 image (3, h, w), its target, and a name for messages."""

    image: Tensor
    target: Any
    name: str


class Batch(NamedTuple):
    """Images (n, 3, h, w) uint8, a list of n targets, and n names (see :func:`collate`)."""

    images: Tensor
    targets: list[Any]
    names: list[str]


Epoch = Callable[[int], Dataset[Example]]


@dataclass(frozen=True)
class Run:
    """Where a training keeps its state, what its randomness starts from, and what it runs on."""

    state: Path
    seed: int
    device: torch.device
    workers: int = 0


@dataclass(frozen=True)
class Fit:
    """What a training came to: length, speed, memory, and mean losses of the last log interval."""

    steps: int
    images: int
    seconds: float
    images_per_second: float
    peak_memory_mb: float
    device: str
    world_size: int
    losses: dict[str, float]


@dataclass
class _Window:
    """What happened since the last log line; looking at it costs a synchronisation."""

    steps: list[int] = field(default_factory=list)
    names: list[list[str]] = field(default_factory=list)
    losses: list[dict[str, Tensor]] = field(default_factory=list)

    def add(self, step: int, names: list[str], losses: dict[str, Tensor]) -> None:
        self.steps.append(step)
        self.names.append(names)
        self.losses.append(losses)


def train(model: nn.Module, examples: Epoch, recipe: TrainingRecipe, run: Run) -> Fit:
    """Train ``model`` in place, resuming from the run's state folder where it holds a checkpoint.

    ``examples(epoch)`` gives the data set of an epoch; the length of the first fixes the schedule
    (as in the authors' code, where the number of chips varies). Raises InputError when a loss is
    not finite (naming the images), when the data set is empty, and when the disk is full (the
    previous checkpoint stays). SIGTERM writes a checkpoint and exits with status 143.
    """
    epoch_steps, total = _length(examples, recipe)
    _place(model, recipe, run)
    optimizer = make_optimizer(model, recipe)
    progress, window = _restore(run, model, optimizer)
    before, started, saved = progress, time.monotonic(), time.monotonic()
    with closing(TrainingLog(run.state, progress)) as logger, _StopOnSignal() as stop:
        model.train()
        for batch, here in _batches(examples, recipe, run, before, total):
            rate = learning_rate(recipe, here.step, epoch_steps, total)
            parts = _step(model, optimizer, batch, recipe, rate, run)
            progress = replace(
                here,
                step=here.step + 1,
                step_of_epoch=here.step_of_epoch + 1,
                seconds=before.seconds + time.monotonic() - started,
            )
            window.add(progress.step, batch.names, parts)
            stopping = stop.requested  # asked once: what leaves has been saved
            due = stopping or time.monotonic() - saved > recipe.checkpoint_minutes * 60
            if due or progress.step == total:
                _check(window, model, run.state)
            if progress.step % recipe.log_every == 0 or progress.step == total:
                losses = _look(window, run.state)
                speed = (progress.step - before.step) / max(progress.seconds - before.seconds, 1e-9)
                logger.write(progress, rate, losses, speed, recipe.batch_size, total)
                window = _Window()
            if due:
                _save(run.state, model, optimizer, progress, window)
                saved = time.monotonic()
            if stopping:
                stop.leave(run.state)
    return _fit(progress, recipe, run, logger.last_losses())


def learning_rate(recipe: TrainingRecipe, step: int, epoch_steps: int, total: int) -> float:
    """Return the rate of step ``step`` (0-based): linear warm-up, then constant, steps or cosine.

    Warm-up multiplies the schedule's value; steps fall at ``step_epochs`` epochs of
    ``epoch_steps`` steps each; the cosine reaches zero after ``total`` steps.
    """
    rate = recipe.learning_rate
    if recipe.schedule == "step":
        rate *= recipe.step_factor ** sum(step >= e * epoch_steps for e in recipe.step_epochs)
    elif recipe.schedule == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * step / total))
    if step < recipe.warmup_steps:
        share = step / recipe.warmup_steps
        rate *= recipe.warmup_factor + (1 - recipe.warmup_factor) * share
    return rate


def make_optimizer(model: nn.Module, recipe: TrainingRecipe) -> torch.optim.Optimizer:
    """Return the recipe's optimiser over what requires a gradient; weights alone decay.

    Biases and normalisation scales do not decay, as in the authors' MXNet defaults for biases.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate)
    return torch.optim.SGD(
        groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.nesterov
    )


def key(*numbers: int) -> int:
    """Mix numbers such as (seed, epoch, index) into one 64-bit seed, well spread."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _length(examples: Epoch, recipe: TrainingRecipe) -> tuple[int, int]:
    """Return the steps of the first epoch and of the whole training."""
    size = len(examples(0))  # type: ignore[arg-type]
    if size == 0:
        raise InputError("the training set is empty: no image of its splits has what is trained on")
    epoch_steps = math.ceil(size / recipe.batch_size)
    return epoch_steps, max(1, round(recipe.epochs * epoch_steps))


def _place(model: nn.Module, recipe: TrainingRecipe, run: Run) -> None:
    """Put the model where and how the recipe wants it."""
    model.to(run.device)
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if recipe.compile:  # the backbone is one graph; the heads would break into many
        backbone: Any = model.backbone
        for entrance in ("forward_features", "forward_intermediates"):  # compiled when first used
            setattr(backbone, entrance, torch.compile(getattr(backbone, entrance)))


def _fit(progress: Progress, recipe: TrainingRecipe, run: Run, losses: dict[str, float]) -> Fit:
    images = progress.step * recipe.batch_size
    return Fit(
        steps=progress.step,
        images=images,
        seconds=round(progress.seconds, 3),
        images_per_second=round(images / max(progress.seconds, 1e-9), 3),
        peak_memory_mb=round(peak_memory_mb(run.device), 1),
        device=device_name(run.device),
        world_size=1,
        losses=losses,
    )


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    recipe: TrainingRecipe,
    rate: float,
    run: Run,
) -> dict[str, Tensor]:
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    total: dict[str, Tensor] = {}
    size = recipe.micro_batch or recipe.batch_size
    for start in range(0, recipe.batch_size, size):
        images = batch.images[start : start + size].to(run.device, non_blocking=True)
        targets = [_to(target, run.device) for target in batch.targets[start : start + size]]
        losses = model(images, targets)
        share = size / recipe.batch_size
        torch.stack(list(losses.values())).sum().mul(share).backward()
        for name, loss in losses.items():
            total[name] = (
                total.get(name, torch.zeros((), device=run.device)) + loss.detach() * share
            )
    if recipe.clip_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
    optimizer.step()
    return total


def _batches(
    examples: Epoch, recipe: TrainingRecipe, run: Run, progress: Progress, total: int
) -> Iterator[tuple[Batch, Progress]]:
    """Yield the batches from ``progress`` to the last step, each with the progress before it."""
    while progress.step < total:
        dataset = examples(progress.epoch)
        order = epoch_order(len(dataset), recipe.batch_size, run.seed, progress.epoch)  # type: ignore[arg-type]
        left = order[progress.step_of_epoch :][: total - progress.step]
        loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=left,
            collate_fn=collate,
            num_workers=run.workers,
            pin_memory=run.device.type == "cuda",
            worker_init_fn=_outlive_sigterm,
        )
        for number, batch in enumerate(loader):
            here = replace(
                progress,
                step=progress.step + number,
                step_of_epoch=progress.step_of_epoch + number,
            )
            torch.manual_seed(key(run.seed, here.step))
            yield batch, here
        progress = replace(
            progress, step=progress.step + len(left), epoch=progress.epoch + 1, step_of_epoch=0
        )


def _outlive_sigterm(worker: int) -> None:
    """Let a loader's worker serve the last batch when a scheduler signals the whole job."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def epoch_order(size: int, batch: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the shuffled batches of an epoch, the last filled up from the order's beginning."""
    order = np.random.default_rng((seed, epoch)).permutation(size)
    padded = np.resize(order, math.ceil(size / batch) * batch)
    return padded.reshape(-1, batch).tolist()


def collate(examples: Sequence[Example]) -> Batch:
    """Put images into one tensor, smaller ones at the upper left of zeros; list the rest."""
    height, width = (max(e.image.shape[side] for e in examples) for side in (1, 2))
    images = examples[0].image.new_zeros((len(examples), 3, height, width))
    for canvas, (image, _, _) in zip(images, examples, strict=True):
        canvas[:, : image.shape[1], : image.shape[2]] = image
    return Batch(images, [e.target for e in examples], [e.name for e in examples])


def _to(target: Any, device: torch.device) -> Any:
    if isinstance(target, Tensor):
        return target.to(device, non_blocking=True)
    if isinstance(target, dict):
        return {name: _to(value, device) for name, value in target.items()}
    return target


def _look(window: _Window, state: Path) -> dict[str, float]:
    """Return the mean losses of a window; raises InputError at the first that is not finite."""
    names = list(window.losses[0])
    table = torch.stack([torch.stack([step[n] for n in names]) for step in window.losses]).cpu()
    bad = (~torch.isfinite(table).all(1)).nonzero().flatten().tolist()
    if bad:
        losses = {n: float(v) for n, v in zip(names, table[bad[0]], strict=True)}
        raise _not_finite(f"the loss is not finite ({losses})", window, bad[0], state)
    means = table.double().mean(0).tolist()
    return {"loss": sum(means), **dict(zip(names, means, strict=True))}


def _check(window: _Window, model: nn.Module, state: Path) -> None:
    """Raise InputError unless losses and weights are finite, so that each checkpoint is good."""
    _look(window, state)
    for name, value in model.state_dict().items():
        if not torch.isfinite(value).all():
            raise _not_finite(f"{name} is not finite after the step", window, -1, state)


def _not_finite(what: str, window: _Window, position: int, state: Path) -> InputError:
    kept = state / CHECKPOINT
    return InputError(
        f"step {window.steps[position]}: {what}; images of the batch: "
        f"{', '.join(window.names[position])}. Last good checkpoint: "
        f"{kept if kept.exists() else 'none yet'}. A lower training.learning_rate, a longer "
        "training.warmup_steps or training.clip_norm usually helps."
    )


def _save(
    state: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    window: _Window,
) -> None:
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "progress": asdict(progress),
        "window": asdict(window),
    }
    try:
        with atomic(state / CHECKPOINT) as temporary:
            torch.save(content, temporary)
    except (OSError, RuntimeError) as error:
        kept = state / CHECKPOINT
        raise InputError(
            f"{kept}: the checkpoint of step {progress.step} could not be written ({error}); "
            f"{'the previous one is kept' if kept.exists() else 'there is none before it'}. "
            "Free some disk space and start again: the training goes on from there."
        ) from error


def _restore(
    run: Run, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Progress, _Window]:
    path = run.state / CHECKPOINT
    for litter in run.state.glob(f".{CHECKPOINT}.*"):  # of a run killed while it was writing
        litter.unlink()
    if not path.exists():
        return Progress(), _Window()
    try:
        content = torch.load(path, map_location=run.device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise InputError(
            f"{path}: the checkpoint is damaged or no checkpoint ({error}); delete it to start "
            "this training from the beginning"
        ) from error
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    progress = Progress(**content["progress"])
    log.info("resuming after step %d from %s", progress.step, path)
    return progress, _Window(**content["window"])


class _StopOnSignal:
    """Turns SIGTERM into a checkpoint at the next border between steps, while training."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> _StopOnSignal:
        self.before = signal.signal(signal.SIGTERM, self._request)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.signal(signal.SIGTERM, self.before)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

    def leave(self, state: Path) -> NoReturn:
        log.info("stopped by SIGTERM; %s holds the state to go on from", state / CHECKPOINT)
        raise SystemExit(128 + signal.SIGTERM)
