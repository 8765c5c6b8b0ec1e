"""Predicted masks of a trained segmenter, at the size that the network sees."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from detransfer.batches import Batch, collate
from detransfer.ranks import in_turn, own
from detransfer.segmentation.deeplab import Segmenter
from detransfer.segmentation.images import MaskedImages

BATCH = 8  # images at once; the result does not depend on it
REMEDY = (
    f"{BATCH} images were on it at once: use a GPU with more memory, or lower images.short and "
    "images.long in the recipe and train anew"
)


def predict(
    model: Segmenter, images: MaskedImages, device: torch.device, workers: int = 0
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield (row, predicted mask, true mask) for every image, both masks uint8 (h, w).

    Only images of one size share a batch, so that none is padded: the rows come in the order of
    their sizes. The model is put into evaluation mode. Several processes share the batches; each
    gets all masks.
    """
    model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    batches = batches_by_size(images.sizes, BATCH)
    mine = own(batches)
    loader: DataLoader[Any] = DataLoader(
        images,
        batch_sampler=mine,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=device.type == "cuda",
    )

    def in_batch(rows: list[int], batch: Batch) -> list[tuple[int, np.ndarray, np.ndarray]]:
        with torch.inference_mode():
            scores = model(batch.images.to(device, non_blocking=True))
            labels = scores.argmax(1).to(torch.uint8).cpu().numpy()
        truths = [truth.numpy() for truth in batch.targets]
        return list(zip(rows, labels, truths, strict=True))

    for found in in_turn(map(in_batch, mine, loader), len(batches)):
        yield from found


def batches_by_size(sizes: np.ndarray, batch: int) -> list[list[int]]:
    """Group the rows of ``sizes`` (n, 2) into batches of one size, rows rising within a size."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, size in enumerate(sizes.tolist()):
        groups.setdefault(tuple(size), []).append(row)
    return [
        rows[start : start + batch]
        for _, rows in sorted(groups.items())
        for start in range(0, len(rows), batch)
    ]
