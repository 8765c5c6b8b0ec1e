"""Recording features: every image once through a frozen network, all its layers at once."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from detransfer.backbone import build, conv5, fit_backbone, read_weights
from detransfer.console import InputError
from detransfer.data.views import CentralViews
from detransfer.features.store import FeatureWriter
from detransfer.ranks import first, in_turn, own
from detransfer.recipes.classification import FeatureRecipe
from detransfer.training_run import architecture_of

log = logging.getLogger(__name__)
PREFIX = "backbone."  # of a backbone's parameters in the model file of a training


class BackboneFeatures(nn.Module):
    """Maps uint8 images (n, 3, h, w) to ``conv5``, average-pooled: (n, channels)."""

    def __init__(self, backbone: nn.Module, precision: str) -> None:
        super().__init__()
        self.backbone, self.precision = backbone, precision

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"conv5": conv5(self.backbone, images, self.precision).mean((2, 3))}


def load_frozen(
    path: Path, output_stride: int, architecture: Path | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the backbone of a weight file at a stride, and the file's header.

    The file is a backbone.safetensors, or the model.safetensors of a training, whose deformable
    layers keep their offsets; ``architecture`` is the file that defines its network, where timm
    does not. Raises InputError for offsets that were learnt at another stride.
    """
    state, header = read_weights(path)
    network = header.get("recipe", {}).get("backbone", {})
    own = {k.removeprefix(PREFIX): v for k, v in state.items() if k.startswith(PREFIX)}
    groups = network.get("deformable_groups", 0) if own else 0  # a backbone file has no offsets
    check_stride(path, network.get("output_stride"), output_stride, fixed=bool(groups))
    backbone = build(architecture_of(header, path, architecture), 0, output_stride, groups)
    fit_backbone(backbone, own or state, str(path))
    if groups:  # which a fine-tuning would start without
        backbone.load_state_dict({name: own[name] for name in backbone.state_dict()})
    return backbone, header


def check_stride(path: Path, trained: int | None, wanted: int, fixed: bool) -> None:
    """Raise InputError where a network only works at the stride that it was trained at."""
    if fixed and trained != wanted:
        raise InputError(
            f"{path}: was trained at output_stride {trained}, and its layers mean nothing at "
            f"{wanted}; set output_stride to {trained} in the recipe of the features"
        )


@torch.inference_mode()
def record(
    network: nn.Module,
    views: CentralViews,
    recipe: FeatureRecipe,
    state: Path,
    device: torch.device,
    workers: int = 0,
) -> FeatureWriter:
    """Record what the network says of every view, going on where ``state`` ends.

    The network maps uint8 images to float32 (n, dimension) a layer. Returns the writer, to be
    finished; of several processes, which share the batches, the first one writes. Raises
    InputError at features that are not finite, naming the image and the layer.
    """
    network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    writer = FeatureWriter(state, len(views))
    if writer.rows:
        log.info("going on after image %d of %d", writer.rows, len(views))
    marked = started = time.monotonic()
    batches = _batches(range(writer.rows, len(views)), recipe.batch_size)
    mine = own(batches)

    def in_batch(rows: range, images: Tensor) -> dict[str, np.ndarray]:
        found = network(images.to(device, non_blocking=True))
        _check_finite(found, views, rows.start)
        return {name: values.float().cpu().numpy() for name, values in found.items()}

    loader = _loader(views, mine, device, workers)
    for found in in_turn(map(in_batch, mine, loader), len(batches)):
        if not first():
            continue
        writer.append(found)
        if time.monotonic() - marked > recipe.checkpoint_seconds:
            writer.mark()
            marked = time.monotonic()
    count = sum(map(len, batches))
    log.info("%d images at %.1f images/s", count, count / max(time.monotonic() - started, 1e-9))
    return writer


def _batches(rows: range, size: int) -> list[range]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _loader(
    views: CentralViews, batches: Sequence[range], device: torch.device, workers: int
) -> DataLoader[Any]:
    pinned = device.type == "cuda"
    return DataLoader(views, batch_sampler=batches, num_workers=workers, pin_memory=pinned)  # type: ignore[arg-type]


def _check_finite(found: dict[str, Tensor], views: CentralViews, start: int) -> None:
    for name, values in found.items():
        finite = torch.isfinite(values).all(1)
        if not finite.all():
            path = views.root / views.paths[start + int((~finite).nonzero()[0])]
            raise InputError(
                f"{path}: its {name} features are not finite; are the weights sound, and is the "
                "precision enough?"
            )
