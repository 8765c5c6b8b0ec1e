"""Predictions of a classifier."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from detransfer.batches import Batch, collate
from detransfer.classification.finetune import LabelledImages
from detransfer.ranks import in_turn, own

BATCH = 64  # images at once; the result does not depend on it
REMEDY = (
    f"{BATCH} images were on it at once: use a GPU with more memory, or lower images.size in the "
    "recipe and train anew"
)


@torch.inference_mode()
def predict(
    model: nn.Module,
    images: LabelledImages,
    device: torch.device,
    workers: int = 0,
    batch_size: int = BATCH,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the predicted class (n,) int64 and the probability of the true one (n,) float32.

    The rows are in the order of ``images``; the model is put into evaluation mode. Several
    processes share the batches; each gets all rows.
    """
    model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    rows = range(len(images))
    batches = [list(rows[start : start + batch_size]) for start in rows[::batch_size]]
    loader: DataLoader[Any] = DataLoader(
        images,
        batch_sampler=own(batches),
        collate_fn=collate,
        num_workers=workers,
        pin_memory=device.type == "cuda",
    )

    def in_batch(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        shares = model(batch.images.to(device, non_blocking=True)).softmax(1)
        targets = torch.stack(batch.targets).to(device)
        probability = shares.gather(1, targets[:, None])[:, 0]
        return shares.argmax(1).cpu().numpy(), probability.cpu().numpy()

    found = list(in_turn(map(in_batch, loader), len(batches)))
    return np.concatenate([p for p, _ in found]), np.concatenate([p for _, p in found])
