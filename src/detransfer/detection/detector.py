"""A detector: backbone, region proposals and one of the paper's two heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from detransfer.backbone import conv4_and_conv5, conv5, hold_still, stage_channels
from detransfer.detection.heads import FasterRcnnHead, Rfcn3000Head
from detransfer.detection.rpn import ScaleAwareRpn, Targets
from detransfer.recipes.detection import DetectionRecipe, FasterRcnnRecipe, NegativeRecipe
from detransfer.recipes.evaluation import InferenceRecipe


class Detector(nn.Module):
    """A detector of ``classes`` object classes around a timm model without classifier.

    Without ``classes`` it has no head and only proposes regions (for the mining of negatives).
    Images are uint8 (n, 3, H, W), padded to a common size at the right and at the bottom.

    In training, each target holds, in pixels of its chip: ``boxes`` (m, 4), ``labels`` (m,) from 1
    on or IGNORED, ``valid`` (m,) bool, ``valid_range`` (2,) as lowest and highest sqrt(area),
    ``size`` as height and width without padding, and ``key``, the number that determines which
    anchors and RoIs are sampled, both as plain numbers, since reading a tensor waits for the GPU;
    the result is a dict of losses. Otherwise ``sizes`` gives the heights and widths, and the result
    is a list of dicts: boxes, scores and labels from 0 on, without suppression, so that several
    scales can be put together first; or the proposals' boxes and scores where there is no head.
    """

    def __init__(self, backbone: nn.Module, classes: int | None, recipe: DetectionRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.backbone = backbone
        conv4, channels = stage_channels(backbone)
        read = channels + conv4 if recipe.features == "conv4+conv5" else channels
        self.rpn = ScaleAwareRpn(read, recipe.rpn)
        self.head = None if classes is None else _head(read, channels, classes, recipe)

    def forward(
        self,
        images: Tensor,
        targets: Targets | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> Any:
        if targets is not None:
            sizes = [target["size"] for target in targets]
        assert sizes is not None
        features = self.features(images)
        padded = ImageList(images, list(sizes))
        proposals, rpn_losses = self.rpn(padded, {"features": features}, targets)
        if self.head is None:
            found = zip(proposals, self.rpn.objectness, strict=True)
            return rpn_losses if self.training else [{"boxes": b, "scores": s} for b, s in found]
        detections, head_losses = self.head(features, proposals, sizes, targets)
        return {**rpn_losses, **head_losses} if self.training else detections

    def features(self, images: Tensor, precision: str | None = None) -> Tensor:
        """Return the float32 map (n, c, h / stride, w / stride) that proposals and head read.

        ``precision`` is that of the training if not given.
        """
        read = conv5 if self.recipe.features == "conv5" else conv4_and_conv5
        return read(self.backbone, images, precision or self.recipe.training.precision)

    def train(self, mode: bool = True) -> Detector:
        super().train(mode)
        hold_still(self.backbone, self.recipe.backbone)
        return self

    def prepare_inference(self, recipe: InferenceRecipe | NegativeRecipe) -> None:
        """Set how many proposals and which scores inference keeps, and switch to evaluation."""
        self.rpn._pre_nms_top_n["testing"] = recipe.proposals_before
        self.rpn._post_nms_top_n["testing"] = recipe.proposals
        if self.head is not None and isinstance(recipe, InferenceRecipe):
            rois: Any = self.head.rois
            rois.score_thresh = recipe.score_threshold
        self.eval()

    def merge_classes(self, meaning: Sequence[int], classes: int) -> None:
        """Detect other classes: the probabilities of all that mean one of them are added up.

        ``meaning`` has the new class of each own class, or -1 where it means none.
        """
        assert self.head is not None
        rois: Any = self.head.rois
        rois.merge = torch.zeros(len(meaning), classes)
        for own, new in enumerate(meaning):
            if new >= 0:
                rois.merge[own, new] = 1


def _head(channels: int, last: int, classes: int, recipe: DetectionRecipe) -> nn.Module:
    """Return the recipe's head on so many channels, of which Conv5 has the ``last``."""
    stride = recipe.backbone.output_stride
    if isinstance(recipe.head, FasterRcnnRecipe):
        return FasterRcnnHead(channels, classes, stride, recipe.head)
    return Rfcn3000Head(channels, last, classes, stride, recipe.head)
