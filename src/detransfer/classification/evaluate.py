"""Predictions of a classifier, and their accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from detransfer.classification.finetune import LabelledImages
from detransfer.training import collate

BATCH = 64  # images at once; the result does not depend on it


@dataclass(frozen=True)
class Accuracy:
    """Accuracies in percent, each with that of the best constant answer as its floor."""

    top1: float
    top1_floor: float
    mean_class: float
    mean_class_floor: float


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


def accuracy(class_ids: np.ndarray, predicted: np.ndarray) -> Accuracy:
    """Return the accuracies of ``predicted`` (n,) against the true ``class_ids`` (n,).

    Top-1 is the share of right answers; the mean over classes weighs each class that occurs in
    ``class_ids`` alike. The floor of top-1 is the share of the largest class, that of the mean one
    over the number of classes.
    """
    present, place, counts = np.unique(class_ids, return_inverse=True, return_counts=True)
    right = predicted == class_ids
    recall = np.bincount(place, weights=right) / counts
    return Accuracy(
        top1=float(100 * right.mean()),
        top1_floor=float(100 * counts.max() / counts.sum()),
        mean_class=float(100 * recall.mean()),
        mean_class_floor=100 / len(present),
    )
