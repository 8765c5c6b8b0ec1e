"""Batches: what an example is, in which order an epoch has them, and how they are loaded."""

from __future__ import annotations

import atexit
import math
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from detransfer.console import InputError
from detransfer.ranks import largest, rank, world_size
from detransfer.recipes.training import TrainingRecipe


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


def key(*numbers: int) -> int:
    """Mix numbers such as (seed, epoch, index) into one 64-bit seed, well spread."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


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


@dataclass(frozen=True)
class Part:
    """What one process holds of every batch: ``images``, in pieces of ``piece`` at most.

    ``sharing`` neighbouring processes put a micro-batch of the recipe together.
    """

    images: int
    piece: int
    sharing: int


def split_batch(recipe: TrainingRecipe) -> Part:
    """Return the part of each process.

    Raises InputError unless each holds whole micro-batches, or several of them one together.
    """
    batch, processes = recipe.batch_size, world_size()
    micro, images = recipe.micro_batch or batch, batch // processes
    if not recipe.splits_among(processes):
        raise InputError(
            f"training.batch_size {batch} in micro-batches of {micro} cannot be split among "
            f"{processes} processes, so that each holds whole micro-batches or an equal part of "
            "one; ask for another number of GPUs (resources.train.gpu), or change "
            "training.batch_size or training.micro_batch in the recipe"
        )
    return Part(images, min(images, micro), max(1, micro // images))


class LoaderDied(Exception):
    """A loader's process ended before it gave its batch."""


def load(
    dataset: Dataset[Example], batches: Sequence[Sequence[int]], workers: int, pinned: bool
) -> Iterator[Batch]:
    """Yield this process's neighbouring part of every batch, on one canvas for all processes.

    Raises LoaderDied when a loader's process dies, and only when the next batch is asked for:
    never in the midst of a step.
    """
    size = len(batches[0]) // world_size() if batches else 0
    mine = slice(rank() * size, (rank() + 1) * size)
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=[list(batch[mine]) for batch in batches],
        collate_fn=collate,
        num_workers=workers,
        pin_memory=pinned,
        worker_init_fn=_outlive_signals,
    )
    waiting = iter(loader)
    if workers:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises anywhere
        atexit.unregister(_end_loaders)
        atexit.register(_end_loaders)  # last in, first out: before others wait for them
    for batch in _received(waiting):
        yield same_canvas(batch)


def _received(waiting: Iterator[Batch]) -> Iterator[Batch]:
    """Yield what the loader's processes send; raises LoaderDied where one is gone."""
    while True:
        try:
            batch = next(waiting)
        except StopIteration:
            return
        except (RuntimeError, ConnectionError, EOFError) as error:
            if "in DataLoader worker process" in str(error):  # the data set's own error, sent here
                raise
            if isinstance(error, RuntimeError) and "DataLoader worker (pid" not in str(error):
                raise
            # A process that dies while it hands over a batch leaves a broken connection.
            raise LoaderDied(str(error) or "it ended in the midst of a batch") from error
        yield batch


def same_canvas(batch: Batch) -> Batch:
    """Return a batch whose canvas is as large as the largest that any process has."""
    height, width = batch.images.shape[2:]
    largest_height, largest_width = largest(height, width)
    more = (0, largest_width - width, 0, largest_height - height)
    return batch._replace(images=nn.functional.pad(batch.images, more)) if any(more) else batch


def _end_loaders() -> None:
    """End the loaders' processes that a failed training leaves: they outlive signals."""
    for process in multiprocessing.active_children():
        process.kill()


def _outlive_signals(worker: int) -> None:
    """Let a loader's worker serve the last batch when a scheduler or Ctrl-C signals a whole job."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
