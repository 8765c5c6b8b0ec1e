"""The training loop, for every task: steps, schedule, precision, checkpoints, resume, progress.

A model in training mode maps ``(images, targets)`` to named losses, each a mean over the images;
a data set is made anew for every epoch, and its item i depends on (seed, epoch, i) alone. Together
with random numbers that are seeded at every step this makes a resumed run equal to an
uninterrupted one, bit for bit on the CPU.

Several processes hold neighbouring parts of every batch, and all take the same step. What images
share (statistics of batch normalisation, the number of sampled RoIs) they share within one
micro-batch of the recipe, whoever holds it, so that the outcome does not depend on the number of
processes but for rounding (and for random layers, such as dropout).
"""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from detransfer.batch_norm import follow, running_statistics, synchronise
from detransfer.batches import Batch, Epoch, LoaderDied, Part, epoch_order, key, load, split_batch
from detransfer.checkpoints import CHECKPOINT, read_checkpoint, write_checkpoint
from detransfer.console import InputError
from detransfer.device_faults import device_faults
from detransfer.ranks import add_up, first, gather, largest, rank, sharing, world_size
from detransfer.recipes.training import TrainingRecipe
from detransfer.training_log import Progress, TrainingLog, device_name, peak_memory_mb

log = logging.getLogger(__name__)


class Diverged(InputError):
    """A loss, or a weight, is no longer a finite number."""


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
    (as in the authors' code, where the number of chips varies). Raises Diverged, in
    every process, when a loss is not finite (naming the images). Raises InputError when the data
    set is empty, when the batch cannot be split among the processes, when a GPU is out of memory
    or fails, and when the disk is full (the previous checkpoint stays). SIGTERM to any process, or
    a first SIGINT, writes a checkpoint, and all exit with status 143 or 130.
    """
    part = split_batch(recipe)
    epoch_steps, total = _length(examples, recipe)
    with contextlib.ExitStack() as stack:
        stack.enter_context(device_faults(run.device, str(run.state), _remedy(part)))
        _place(model, recipe, run)
        optimizer = make_optimizer(model, recipe)
        progress, window = _restore(run, model, optimizer)
        before, started, saved = progress, time.monotonic(), time.monotonic()
        logger = stack.enter_context(contextlib.closing(TrainingLog(run.state, progress, first())))
        stop = stack.enter_context(_StopOnSignal())
        stack.enter_context(sharing(part.sharing))
        model.train()
        for batch, here in _batches(examples, recipe, run, before, total):
            rate = learning_rate(recipe, here.step, epoch_steps, total)
            parts = _step(model, optimizer, batch, recipe, part, rate, run)
            progress = replace(
                here,
                step=here.step + 1,
                step_of_epoch=here.step_of_epoch + 1,
                seconds=before.seconds + time.monotonic() - started,
            )
            window.add(progress.step, batch.names, parts)
            late = time.monotonic() - saved > recipe.checkpoint_minutes * 60
            # Asked once, of all processes: what leaves has been saved.
            stopping, due = largest(stop.requested, late or progress.step == total)
            if stopping or due:
                _check(window, model, run.state)
            if progress.step % recipe.log_every == 0 or progress.step == total:
                losses = _look(window, run.state)
                speed = (progress.step - before.step) / max(progress.seconds - before.seconds, 1e-9)
                logger.write(progress, rate, losses, speed, recipe.batch_size, total)
                window = _Window()
            if stopping or due:
                _save(run, model, optimizer, progress, window)
                saved = time.monotonic()
            if stopping:
                stop.leave(run.state, signal.Signals(stopping))
    return _fit(progress, recipe, run, logger.last_losses())


def _remedy(part: Part) -> str:
    return (
        f"{part.piece} images were on it at once: lower training.micro_batch in the recipe (it "
        "divides training.batch_size), or ask for more GPUs (resources.train.gpu)"
    )


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
    if world_size() > 1:
        synchronise(model)
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if recipe.precision == "bf16":  # what is left in float32: as cuDNN's convolutions by default
        torch.backends.cuda.matmul.allow_tf32 = True
    if recipe.compile:  # the backbone is one graph; the heads would break into many
        compile_backbone(model.backbone)


def compile_backbone(backbone: Any) -> None:
    """Let a timm model's features be compiled when they are first used, and for new shapes again.

    Trainings do so where their recipe says it, and a network that was just trained proposes with
    it. Other inference does not: it meets many shapes, a few times each.
    """
    for entrance in ("forward_features", "forward_intermediates"):
        setattr(backbone, entrance, torch.compile(getattr(backbone, entrance)))


def _fit(progress: Progress, recipe: TrainingRecipe, run: Run, losses: dict[str, float]) -> Fit:
    images = progress.step * recipe.batch_size
    return Fit(
        steps=progress.step,
        images=images,
        seconds=round(progress.seconds, 3),
        images_per_second=round(images / max(progress.seconds, 1e-9), 3),
        peak_memory_mb=round(_peak(progress, run), 1),
        device=device_name(run.device),
        world_size=world_size(),
        losses=losses,
    )


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    recipe: TrainingRecipe,
    part: Part,
    rate: float,
    run: Run,
) -> dict[str, Tensor]:
    """Take one step on the whole batch, of which this process has its part; return its losses."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    total: dict[str, Tensor] = {}
    before = running_statistics(model) if world_size() > part.sharing else []
    share = part.piece / recipe.batch_size
    for start in range(0, part.images, part.piece):
        piece = slice(start, start + part.piece)
        images = batch.images[piece].to(run.device, non_blocking=True)
        targets = [_to(target, run.device) for target in batch.targets[piece]]
        losses = model(images, targets)
        torch.stack(list(losses.values())).sum().mul(share).backward()
        for name, loss in losses.items():
            total[name] = (
                total.get(name, torch.zeros((), device=run.device)) + loss.detach() * share
            )
    add_up([*_gradients(model), *total.values()])
    follow(before, part.images // part.piece, part.sharing)
    if recipe.clip_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
    optimizer.step()
    return total


def _gradients(model: nn.Module) -> list[Tensor]:
    """Return all gradients; zeros where other processes have one and this one has none."""
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    somewhere = largest(*(parameter.grad is not None for parameter in learnt))
    for parameter, there in zip(learnt, somewhere, strict=True):
        if there and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return [parameter.grad for parameter in learnt if parameter.grad is not None]


def _batches(
    examples: Epoch, recipe: TrainingRecipe, run: Run, progress: Progress, total: int
) -> Iterator[tuple[Batch, Progress]]:
    """Yield this process's part of the batches from ``progress`` to the last step.

    With each comes the progress before it. A loader's process that dies is replaced, unless it
    dies again before it has given anything: the batch depends on no one's state.
    """
    died: Progress | None = None
    while progress.step < total:
        dataset = examples(progress.epoch)
        order = epoch_order(len(dataset), recipe.batch_size, run.seed, progress.epoch)  # type: ignore[arg-type]
        left = order[progress.step_of_epoch :][: total - progress.step]
        try:
            for batch in load(dataset, left, run.workers, run.device.type == "cuda"):
                torch.manual_seed(key(run.seed, progress.step, *([rank()] if rank() else [])))
                yield batch, progress
                progress = replace(
                    progress, step=progress.step + 1, step_of_epoch=progress.step_of_epoch + 1
                )
        except LoaderDied as error:
            if died == progress:
                raise InputError(
                    f"step {progress.step + 1}: a loader's process died twice ({error}); mostly "
                    "the main memory is full: give the job more (resources.train.mem_mb) or fewer "
                    "threads (resources.train.threads)"
                ) from error
            log.warning("a loader's process died (%s); others take its place", error)
            died = progress
            continue
        progress = replace(progress, epoch=progress.epoch + 1, step_of_epoch=0)


def _to(target: Any, device: torch.device) -> Any:
    if isinstance(target, Tensor):
        return target.to(device, non_blocking=True)
    if isinstance(target, dict):
        return {name: _to(value, device) for name, value in target.items()}
    return target


def _look(window: _Window, state: Path) -> dict[str, float]:
    """Return the mean losses of a window; raises Diverged at the first that is not finite."""
    names = list(window.losses[0])
    table = torch.stack([torch.stack([step[n] for n in names]) for step in window.losses]).cpu()
    bad = (~torch.isfinite(table).all(1)).nonzero().flatten().tolist()
    if bad:
        losses = {n: float(v) for n, v in zip(names, table[bad[0]], strict=True)}
        raise _not_finite(f"the loss is not finite ({losses})", window, bad[0], state)
    means = table.double().mean(0).tolist()
    return {"loss": sum(means), **dict(zip(names, means, strict=True))}


def _check(window: _Window, model: nn.Module, state: Path) -> None:
    """Raise Diverged unless losses and weights are finite, so that each checkpoint is good."""
    _look(window, state)
    for name, value in model.state_dict().items():
        if not torch.isfinite(value).all():
            raise _not_finite(f"{name} is not finite after the step", window, -1, state)


def _not_finite(what: str, window: _Window, position: int, state: Path) -> Diverged:
    kept = state / CHECKPOINT
    names = [name for of_process in gather(window.names[position]) for name in of_process]
    return Diverged(
        f"step {window.steps[position]}: {what}; images of the batch: "
        f"{', '.join(dict.fromkeys(names))}. Last good checkpoint: "
        f"{kept if kept.exists() else 'none yet'}. A lower training.learning_rate, a longer "
        "training.warmup_steps or training.clip_norm usually helps."
    )


def _peak(progress: Progress, run: Run) -> float:
    """Return the peak memory in MB, of this process and of those that trained before it."""
    return max(progress.peak_memory_mb, peak_memory_mb(run.device))


def _save(
    run: Run,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    window: _Window,
) -> None:
    """Let the first process write a checkpoint; none goes on before it is written."""
    if first():
        content = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "progress": asdict(replace(progress, peak_memory_mb=_peak(progress, run))),
            "window": asdict(window),
        }
        write_checkpoint(run.state, content, progress.step)
    largest(0)


def _restore(
    run: Run, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Progress, _Window]:
    largest(0)  # all read the same one, also where the first process has waited for another job
    content = read_checkpoint(run.state)
    if content is None:
        return Progress(), _Window()
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    window = _Window(**content["window"])
    window.losses = [_to(losses, run.device) for losses in window.losses]
    return Progress(**content["progress"]), window


class _StopOnSignal:
    """Turns SIGTERM and SIGINT (Ctrl-C) into a checkpoint at the next border between steps.

    A second SIGINT ends the process at once. Where SIGINT is ignored, as in a script's background,
    it stays so. ``requested`` is the number of the signal, 0 before one came.
    """

    def __init__(self) -> None:
        self.requested = 0

    def __enter__(self) -> _StopOnSignal:
        heard = [signal.SIGTERM]
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            heard.append(signal.SIGINT)
        self.before = {number: signal.signal(number, self._request) for number in heard}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)

    def leave(self, state: Path, by: signal.Signals) -> NoReturn:
        log.info("stopped by %s; %s holds the state to go on from", by.name, state / CHECKPOINT)
        raise SystemExit(128 + by)
