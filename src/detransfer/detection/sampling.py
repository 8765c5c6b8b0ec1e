"""Which anchors and RoIs of a chip are learnt from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detransfer.batches import key


class KeyedSampler:
    """torchvision's balanced sampler, except that a chip's choice depends on its key alone.

    So the other chips of a batch change nothing, nor does the process that holds it. ``stream``
    keeps two samplers of one chip apart.
    """

    def __init__(self, count: int, positive_share: float, stream: int) -> None:
        self.count, self.positives = count, max(1, int(count * positive_share))
        self.stream = stream
        self.keys: Sequence[int] = ()  # of the chips that come next

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return of each chip's labels (n,) two masks (n,): chosen objects, chosen background.

        Labels above zero are objects, zero is background, the others are never chosen.
        """
        masks = []
        for label, own in zip(labels, self.keys, strict=True):
            generator = keyed_generator(own, self.stream, label.device)
            objects = some(torch.nonzero(label >= 1).flatten(), self.positives, generator)
            free = self.count - len(objects)
            background = some(torch.nonzero(label == 0).flatten(), free, generator)
            pair = torch.zeros(2, len(label), dtype=torch.uint8, device=label.device)
            pair[0, objects] = 1
            pair[1, background] = 1
            masks.append(pair)
        return [pair[0] for pair in masks], [pair[1] for pair in masks]


def keyed_generator(own: int, stream: int, device: torch.device) -> torch.Generator:
    """Return a source of random numbers that a chip's key and a stream determine."""
    return torch.Generator(device).manual_seed(key(own, stream))


def some(rows: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Return at most so many of the rows (n,), all equally likely."""
    order = torch.randperm(len(rows), generator=generator, device=rows.device)
    return rows[order[:most]]
