"""The RoI blob on one processor thread, forward and backward, beside torchvision's operator."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.ops import roi_align

from detransfer.detection.roi_blob import separable_roi_align

SIZES = ((16, 64, 8, 32, 7), (4, 256, 32, 128, 7), (2, 256, 32, 300, 14))
RUNS = 5


def seconds(operator: Callable[[Tensor, list[Tensor]], Tensor], maps: Tensor, boxes: list) -> float:
    """Return the median processor time of a forward and a backward pass."""
    times = []
    for _ in range(RUNS + 1):
        started = time.process_time()
        operator(maps, boxes).sum().backward()
        times.append(time.process_time() - started)
    return statistics.median(times[1:])


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("images x channels x side, RoIs an image, blob side: ours, torchvision, ratio")
    for images, channels, side, rois, blob in SIZES:
        maps = torch.randn(images, channels, side, side).to(memory_format=torch.channels_last)
        maps.requires_grad_()
        corners = [torch.rand(rois, 2) * 8 * side for _ in range(images)]
        boxes = [torch.cat([c, c + 16 + torch.rand(rois, 2) * 8 * side], 1) for c in corners]
        ours = seconds(lambda m, b, s=blob: separable_roi_align(m, b, s, 16), maps, boxes)
        theirs = seconds(lambda m, b, s=blob: roi_align(m, b, s, 1 / 16, 2, True), maps, boxes)
        print(
            f"{images} x {channels} x {side}, {rois}, {blob}: "
            f"{ours * 1e3:.1f} ms, {theirs * 1e3:.1f} ms, {theirs / ours:.1f}"
        )


if __name__ == "__main__":
    main()
