"""Predictions of a classifier."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from detransfer.classification.finetune import LabelledImages
from detransfer.training import collate

BATCH = 64  # images at once; the result does not depend on it


@torch.inference_mode()
def predict(
    model: nn.Module,
    images: LabelledImages,
    device: torch.device,
    workers: int = 0,
    batch_size: int = BATCH,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the predicted class (n,) int64 and the probability of the true one (n,) float32.

    The rows are in the order of ``images``; the model is put into evaluation mode.
    """
    model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    loader: DataLoader[Any] = DataLoader(
        images,
        batch_size=batch_size,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=device.type == "cuda",
    )
    predicted, probability = [], []
    for batch in loader:
        shares = model(batch.images.to(device, non_blocking=True)).softmax(1)
        targets = torch.stack(batch.targets).to(device)
        predicted.append(shares.argmax(1).cpu())
        probability.append(shares.gather(1, targets[:, None])[:, 0].cpu())
    return torch.cat(predicted).numpy(), torch.cat(probability).numpy()
