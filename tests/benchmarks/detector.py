"""One training step of the demo's detector on a processor, beside stock torchvision parts.

Both have the same backbone, anchors, widths and numbers of RoIs, and take the same random chips.
The stock detector is torchvision's RPN and RoI heads as they come: RoIAlign as an operator and one
box regression for each class.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign

from detransfer.backbone import build, conv5
from detransfer.detection.detector import Detector
from detransfer.recipes.detection import DetectionRecipe
from detransfer.strict import load_file
from detransfer.study import BackboneChoice

RECIPE = Path("config/recipes/demo/finetune_voc_detection.yaml")
BACKBONE = BackboneChoice(
    name="resnet10t", arguments={"channels": [16, 32, 64, 128], "stem_width": 8}
)
CLASSES, OBJECTS = 8, 5


class Stock(nn.Module):
    """A Faster R-CNN on Conv5 from torchvision's parts, by the same recipe."""

    def __init__(self, backbone: nn.Module, recipe: DetectionRecipe) -> None:
        super().__init__()
        self.backbone = backbone
        network: Any = backbone
        channels, head, rpn = int(network.num_features), recipe.head, recipe.rpn
        assert head.kind == "faster_rcnn"
        anchors = AnchorGenerator((rpn.anchor_sizes,), (rpn.anchor_ratios,))
        before = {"training": rpn.train_before, "testing": rpn.train_before}
        after = {"training": rpn.train_proposals, "testing": rpn.train_proposals}
        rpn_head = RPNHead(channels, anchors.num_anchors_per_location()[0])
        self.rpn = RegionProposalNetwork(
            anchors, rpn_head, 0.5, 0.4, rpn.batch_per_chip, 0.5, before, after, 0.7
        )
        self.conv_proj = nn.Conv2d(channels, head.conv_proj, 1)
        self.heads = RoIHeads(
            MultiScaleRoIAlign(["0"], head.roi_size, 2),
            TwoMLPHead(head.conv_proj * head.roi_size**2, head.hidden),
            FastRCNNPredictor(head.hidden, CLASSES + 1),
            *(0.5, 0.5, head.rois_per_chip, head.positive_share, None, 0.05, 0.5, 100),
        )

    def forward(self, images: Tensor, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        features = conv5(self.backbone, images)
        padded = ImageList(images, [(images.shape[2], images.shape[3])] * len(images))
        proposals, rpn_losses = self.rpn(padded, {"0": features}, targets)
        projected = {"0": torch.relu(self.conv_proj(features))}
        _, losses = self.heads(projected, proposals, padded.image_sizes, targets)
        return {**rpn_losses, **losses}


def chips(recipe: DetectionRecipe) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Return a batch of random chips, each with some objects."""
    size, count = recipe.chips.size, recipe.training.batch_size
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    targets = []
    for _ in range(count):
        corner = torch.rand(OBJECTS, 2, generator=generator) * size * 0.6
        side = 16 + torch.rand(OBJECTS, 2, generator=generator) * size * 0.3
        targets.append(
            {
                "boxes": torch.cat([corner, corner + side], 1),
                "labels": torch.randint(1, CLASSES + 1, (OBJECTS,), generator=generator),
                "valid": torch.ones(OBJECTS, dtype=torch.bool),
                "valid_range": torch.tensor([0.0, float("inf")]),
                "key": 0,
                "size": (size, size),
            }
        )
    return images, targets


def step(model: nn.Module, batch: tuple[Tensor, list[dict[str, Tensor]]]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def once() -> None:
        optimizer.zero_grad(set_to_none=True)
        losses = model(*batch)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()

    return once


def seconds(once: Callable[[], None]) -> float:
    """Return the processor time of one step."""
    started = time.process_time()
    once()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=15, help="steps of each, taken in turns")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recipe = load_file(RECIPE, DetectionRecipe)
    stride, batch = recipe.backbone.output_stride, chips(recipe)
    groups = recipe.backbone.deformable_groups
    torch.manual_seed(0)
    ours = step(Detector(build(BACKBONE, 0, stride, groups), CLASSES, recipe), batch)
    stock = step(Stock(build(BACKBONE, 0, stride, groups), recipe), batch)
    ours(), stock()  # warm up
    pairs = [(seconds(ours), seconds(stock)) for _ in range(arguments.steps)]
    mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"a step of {recipe.training.batch_size} chips of {recipe.chips.size} px, one thread")
    print(
        f"  ours {mine:.3f} s   stock torchvision parts {theirs:.3f} s   {theirs / mine:.2f} times"
    )


if __name__ == "__main__":
    main()
