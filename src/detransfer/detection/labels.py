"""Matched classification: what a detection pre-training saw, without its boxes.

The control that isolates the boxes: the same start, images, chips, order, steps and classes as a
detection pre-training, but the network is only asked which classes a chip shows. What the detector
gains beyond this is owed to the boxes and not to more images or more training.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from detransfer.backbone import conv5, hold_still
from detransfer.detection.rpn import Targets
from detransfer.recipes.detection import DetectionRecipe

PRIOR = 0.01  # probability of every class before training (Lin et al., "Focal Loss", section 4.1)


class LabelClassifier(nn.Module):
    """Average-pooled Conv5 and one linear layer, for several labels a chip.

    Takes the images and targets of :class:`~detransfer.detection.detector.Detector` and returns
    its one loss: binary cross-entropy, summed over classes and averaged over chips. A class is
    present where a valid object has it; where only objects of it do that the detector would ignore
    (of another scale, cut off, difficult), it counts neither way.
    """

    def __init__(self, backbone: nn.Module, classes: int, recipe: DetectionRecipe) -> None:
        super().__init__()
        self.backbone, self.recipe = backbone, recipe
        network: Any = backbone
        self.classifier = nn.Linear(int(network.num_features), classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.constant_(self.classifier.bias, float(torch.logit(torch.tensor(PRIOR))))

    def train(self, mode: bool = True) -> LabelClassifier:
        super().train(mode)
        hold_still(self.backbone, self.recipe.backbone)
        return self

    def forward(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        features = conv5(self.backbone, images, self.recipe.training.precision)
        logits = self.classifier(features.mean((2, 3)))
        present, known = presence(targets, logits.shape[1])
        losses = functional.binary_cross_entropy_with_logits(logits, present, reduction="none")
        return {"loss_labels": (losses * known).sum() / len(images)}


def presence(targets: Targets, classes: int) -> tuple[Tensor, Tensor]:
    """Return, each (n, classes) float32: classes that are present, and those that are known."""
    device = targets[0]["labels"].device
    present = torch.zeros(len(targets), classes, device=device)
    known = torch.ones(len(targets), classes, device=device)
    for row, target in enumerate(targets):
        learnt, places = target["valid"] & (target["labels"] > 0), target["classes"] - 1
        known[row, places[~learnt]] = 0
        known[row, places[learnt]] = present[row, places[learnt]] = 1
    return present, known
