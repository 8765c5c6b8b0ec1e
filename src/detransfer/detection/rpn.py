"""The region proposal network with SNIPER's treatment of sizes.

It is torchvision's; what SNIPER adds is written here: objects that are invalid at a chip's scale
are neither learnt nor background, and in training the proposals of a chip have its size range.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import box_iou, clip_boxes_to_image

from detransfer.detection.sampling import KeyedSampler
from detransfer.ranks import mean_count
from detransfer.recipes.detection import RpnRecipe

IGNORED = -1  # label of objects that are neither learnt nor background (difficult, crowd)
Targets = list[dict[str, Any]]


class ScaleAwareRpn(RegionProposalNetwork):
    """torchvision's RPN with SNIPER's treatment of objects and proposals of the wrong size."""

    def __init__(self, channels: int, recipe: RpnRecipe) -> None:
        anchors = AnchorGenerator((recipe.anchor_sizes,), (recipe.anchor_ratios,))
        head = RPNHead(channels, anchors.num_anchors_per_location()[0])
        if recipe.channels != channels:
            head = _narrow(head, channels, recipe.channels)
        super().__init__(
            anchors,
            head,
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.4,
            batch_size_per_image=recipe.batch_per_chip,
            positive_fraction=0.5,
            pre_nms_top_n={"training": recipe.train_before, "testing": 6000},
            post_nms_top_n={"training": recipe.train_proposals, "testing": 300},
            nms_thresh=0.7,
            # Above zero: proposals of the wrong size get probability zero and are dropped here.
            score_thresh=1e-9,
        )
        self.recipe = recipe
        self.fg_bg_sampler = KeyedSampler(recipe.batch_per_chip, 0.5, stream=0)
        self.objectness: list[Tensor] = []  # of the proposals last returned, one tensor an image
        self._targets: Targets | None = None

    def forward(self, images: ImageList, features: Any, targets: Any = None) -> Any:
        self._targets = targets  # the parent hands them to one of the two methods below only
        self.fg_bg_sampler.keys = [target["key"] for target in targets or ()]
        return super().forward(images, features, targets)

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: Targets
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Match anchors with valid objects; leave out those near invalid ones or far outside.

        An anchor that overlaps an invalid object by more than ``ignore_iou`` gets label -1 even
        where it also matches a valid one (authors' anchor worker).
        """
        valid: Targets = [{"boxes": t["boxes"][t["valid"]]} for t in targets]
        labels, matched = super().assign_targets_to_anchors(anchors, valid)
        for label, anchor, target in zip(labels, anchors, targets, strict=True):
            invalid = target["boxes"][~target["valid"]]
            if len(invalid):
                label[box_iou(anchor, invalid).amax(1) > self.recipe.ignore_iou] = -1.0
            height, width = target["size"]
            limit = anchor.new_tensor([width, height, width, height]) + self.recipe.border
            outside = (anchor < -self.recipe.border).any(1) | (anchor > limit).any(1)
            label[outside] = -1.0
        return labels, matched

    def compute_loss(
        self,
        objectness: Tensor,
        pred_bbox_deltas: Tensor,
        labels: list[Tensor],
        regression_targets: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return torchvision's losses of objectness and boxes, means over all sampled anchors.

        Those of other processes with a part of the same micro-batch count, too.
        """
        masks = self.fg_bg_sampler(labels)
        positive, negative = (torch.nonzero(torch.cat(mask)).flatten() for mask in masks)
        sampled = torch.cat([positive, negative])
        count = mean_count(len(sampled))
        boxes = functional.smooth_l1_loss(
            pred_bbox_deltas[positive],
            torch.cat(regression_targets)[positive],
            beta=1 / 9,
            reduction="sum",
        )
        objects = functional.binary_cross_entropy_with_logits(
            objectness.flatten()[sampled], torch.cat(labels)[sampled], reduction="sum"
        )
        return objects / count, boxes / count

    def filter_proposals(
        self, proposals: Tensor, objectness: Tensor, image_shapes: Any, num_anchors_per_level: Any
    ) -> tuple[list[Tensor], list[Tensor]]:
        """In training, drop the proposals whose size a chip of this scale must not answer for.

        The objectness of those that stay is kept, since the parent does not hand it on.
        """
        if self.training and self._targets is not None:
            objectness = objectness.detach().reshape(len(proposals), -1).clone()
            for boxes, scores, size, target in zip(
                proposals, objectness, image_shapes, self._targets, strict=True
            ):
                clipped = clip_boxes_to_image(boxes, size)
                scores[~in_range(clipped, target["valid_range"])] = -1e4
        boxes, self.objectness = super().filter_proposals(
            proposals, objectness, image_shapes, num_anchors_per_level
        )
        return boxes, self.objectness


def in_range(boxes: Tensor, valid_range: Tensor) -> Tensor:
    """Return which boxes (m, 4) have lowest <= sqrt(area) < highest.

    As in the authors' training (``multi_proposal_target.cu``); in inference it is the other border
    that belongs to a range (:func:`detransfer.detection.predict.in_valid_range`).
    """
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp(min=0).sqrt()
    return (side >= valid_range[0]) & (side < valid_range[1])


def _narrow(head: RPNHead, channels: int, width: int) -> RPNHead:
    """Give torchvision's RPN head, whose convolution keeps the width, another width."""
    head.conv[0][0] = nn.Conv2d(channels, width, 3, padding=1)
    head.cls_logits = nn.Conv2d(width, head.cls_logits.out_channels, 1)
    head.bbox_pred = nn.Conv2d(width, head.bbox_pred.out_channels, 1)
    for layer in (head.conv[0][0], head.cls_logits, head.bbox_pred):
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)
    return head
