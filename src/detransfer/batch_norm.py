"""Batch normalisation over the images of several processes, on any device.

torch's own does not run on processors. Here a module's forward pass stays what it is (timm's fuse
an activation), and only the normalisation inside it is replaced where processes share a batch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from detransfer.ranks import add_up, rank, together, world_size


def synchronise(model: nn.Module) -> None:
    """Let the batch normalisations of a model ask the processes that share its micro-batches."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            # What waits for other processes cannot be compiled.
            forward = torch.compiler.disable(functools.partial(_forward, module.forward))
            setattr(module, "forward", forward)  # noqa: B010 (mypy refuses the assignment)


def _forward(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if together() is None:
        return forward(x)
    with _Replaced():
        return forward(x)


class _Replaced(TorchFunctionMode):
    """Within, ``functional.batch_norm`` is :func:`batch_norm`."""

    def __torch_function__(
        self, function: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        called = batch_norm if function is functional.batch_norm else function
        return called(*arguments, **(named or {}))


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Do what ``functional.batch_norm`` does to (n, c, ...), with the statistics of all images."""
    if not training:
        return functional.batch_norm(
            x, running_mean, running_var, weight, bias, training, momentum, eps
        )
    result, mean, variance, count = _Normalised.apply(x, weight, bias, eps)
    with torch.no_grad():
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance * (count / (count - 1)), momentum)
    normalised: Tensor = result
    return normalised


class _Normalised(torch.autograd.Function):
    """The normalised input with the mean, the variance and the count that it rests on."""

    @staticmethod
    def forward(
        context: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        variance, mean = torch.var_mean(x.float(), _others(x), correction=0)
        count = mean.new_full((1,), x.numel() / len(mean))
        parts = torch.cat([mean, variance, count])
        gathered = [torch.empty_like(parts) for _ in range(dist.get_world_size(together()))]
        dist.all_gather(gathered, parts, group=together())
        means, variances, counts = torch.stack(gathered).split([len(mean), len(mean), 1], 1)
        count = counts.sum(0)
        mean = (means * counts).sum(0) / count
        variance = ((variances + (means - mean) ** 2) * counts).sum(0) / count
        context.save_for_backward(x, weight, mean, (variance + eps).rsqrt(), count)
        context.mark_non_differentiable(mean, variance, count)
        result = functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)
        return result, mean, variance, count

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients: of x by all images' statistics, of weight and bias by own images.

        Ioffe & Szegedy (2015), section 3, with the two means over the batch taken over all.
        """
        x, weight, mean, scale, count = context.saved_tensors
        others, shape = _others(x), (-1, *[1] * (x.ndim - 2))
        given = gradients[0].float()
        normal = (x.float() - mean.view(shape)) * scale.view(shape)
        of_bias, of_weight = given.sum(others), (given * normal).sum(others)
        sums = torch.cat([of_bias, of_weight])
        dist.all_reduce(sums, group=together())
        level, slope = (sums / count).view(2, *mean.shape, *shape[1:])
        factor = scale if weight is None else scale * weight
        of_x = (given - level - normal * slope) * factor.view(shape)
        if weight is None:
            return of_x.to(x.dtype), None, None, None
        return of_x.to(x.dtype), of_weight, of_bias, None


@dataclass(frozen=True)
class Statistics:
    """The running statistics of one module, and what they were before a step."""

    module: nn.modules.batchnorm._BatchNorm
    before: tuple[Tensor, Tensor]

    @property
    def now(self) -> tuple[Tensor, Tensor]:
        assert self.module.running_mean is not None and self.module.running_var is not None
        return self.module.running_mean, self.module.running_var

    def fade(self, batches: int) -> float:
        """Return what is left of a value after so many batches."""
        assert self.module.momentum is not None  # None would be the mean over all of the past
        return float((1 - self.module.momentum) ** batches)


def running_statistics(model: nn.Module) -> list[Statistics]:
    """Return the running statistics that a step of training will move, and where they stand."""
    return [
        Statistics(module, (module.running_mean.clone(), module.running_var.clone()))
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
        if module.running_mean is not None and module.running_var is not None
    ]


def follow(statistics: list[Statistics], batches: int, sharing: int) -> None:
    """Move running statistics as if one process had seen all micro-batches in their order.

    Each process has seen ``batches`` neighbouring ones; so many processes share one of them.
    """
    groups, own = world_size() // sharing, rank() // sharing
    for each in statistics:
        for value, old in zip(each.now, each.before, strict=True):
            value.sub_(old, alpha=each.fade(batches))  # what the own ones have added
            value.mul_(each.fade(batches * (groups - 1 - own)) / sharing)
    if statistics:
        add_up([value for each in statistics for value in each.now])
    for each in statistics:
        for value, old in zip(each.now, each.before, strict=True):
            value.add_(old, alpha=each.fade(batches * groups))
        if each.module.num_batches_tracked is not None:
            each.module.num_batches_tracked += batches * (groups - 1)


def _others(x: Tensor) -> list[int]:
    """Return all dimensions but that of the channels."""
    return [dimension for dimension in range(x.ndim) if dimension != 1]
