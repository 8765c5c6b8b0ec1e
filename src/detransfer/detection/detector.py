"""Faster R-CNN on Conv5 as the paper describes it (section 4, "Architecture").

Conv5 -> RPN; Conv5 -> ConvProj (1x1) -> RoI blob -> FC1 -> FC2 -> class scores and one box
regression shared by all classes. The region proposal network and the RoI head are torchvision's;
what SNIPER adds is written here: objects that are invalid at a chip's scale neither train the RPN
nor count as background for it, and the head sees proposals of the chip's size range alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import box_iou, clip_boxes_to_image

from detransfer.backbone import conv5, hold_still
from detransfer.detection.roi_blob import RoiBlob
from detransfer.recipes import DetectionRecipe, HeadRecipe, InferenceRecipe, RpnRecipe

IGNORED = -1  # label of objects that are neither learnt nor background (difficult, crowd)
Targets = list[dict[str, Tensor]]


class Detector(nn.Module):
    """A detector of ``classes`` object classes around a timm model without classifier.

    Images are uint8 (n, 3, H, W), padded to a common size at the right and at the bottom.

    In training, each target holds, in pixels of its chip: ``boxes`` (m, 4), ``labels`` (m,) from 1
    on or IGNORED, ``valid`` (m,) bool, ``valid_range`` (2,) as lowest and highest sqrt(area), and
    ``size`` (2,) as height and width without padding; the result is a dict of losses. Otherwise
    ``sizes`` gives the heights and widths, and the result is a list of dicts of boxes, scores and
    labels from 0 on, without suppression, so that several scales can be put together first.
    """

    def __init__(self, backbone: nn.Module, classes: int, recipe: DetectionRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.backbone = backbone
        network: Any = backbone
        channels = int(network.num_features)
        stride = recipe.backbone.output_stride
        self.rpn = ScaleAwareRpn(channels, stride, recipe.rpn)
        self.conv_proj = nn.Conv2d(channels, recipe.head.conv_proj, 1)
        self.head = ScaleAwareHead(classes, stride, recipe.head)

    def forward(
        self,
        images: Tensor,
        targets: Targets | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> Any:
        if targets is not None:
            sizes = [(int(h), int(w)) for h, w in (target["size"].tolist() for target in targets)]
        assert sizes is not None
        features = conv5(self.backbone, images, self.recipe.training.precision)
        padded = ImageList(images, list(sizes))
        proposals, rpn_losses = self.rpn(padded, {"conv5": features}, targets)
        projected = {"conv_proj": torch.relu(self.conv_proj(features))}
        detections, head_losses = self.head(projected, proposals, list(sizes), targets)
        return {**rpn_losses, **head_losses} if self.training else detections

    def train(self, mode: bool = True) -> Detector:
        super().train(mode)
        hold_still(self.backbone, self.recipe.backbone)
        return self

    def prepare_inference(self, recipe: InferenceRecipe) -> None:
        """Set how many proposals and which scores inference keeps, and switch to evaluation."""
        self.rpn._pre_nms_top_n["testing"] = recipe.proposals_before
        self.rpn._post_nms_top_n["testing"] = recipe.proposals
        self.head.score_thresh = recipe.score_threshold
        self.eval()


class ScaleAwareRpn(RegionProposalNetwork):
    """torchvision's RPN with SNIPER's treatment of objects and proposals of the wrong size."""

    def __init__(self, channels: int, stride: int, recipe: RpnRecipe) -> None:
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
        self._targets: Targets | None = None

    def forward(self, images: ImageList, features: Any, targets: Any = None) -> Any:
        self._targets = targets  # the parent hands them to one of the two methods below only
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
            height, width = target["size"].tolist()
            limit = anchor.new_tensor([width, height, width, height]) + self.recipe.border
            outside = (anchor < -self.recipe.border).any(1) | (anchor > limit).any(1)
            label[outside] = -1.0
        return labels, matched

    def filter_proposals(
        self, proposals: Tensor, objectness: Tensor, image_shapes: Any, num_anchors_per_level: Any
    ) -> tuple[list[Tensor], list[Tensor]]:
        """In training, drop the proposals whose size a chip of this scale must not answer for."""
        if self.training and self._targets is not None:
            objectness = objectness.detach().reshape(len(proposals), -1).clone()
            for boxes, scores, size, target in zip(
                proposals, objectness, image_shapes, self._targets, strict=True
            ):
                clipped = clip_boxes_to_image(boxes, size)
                scores[~in_range(clipped, target["valid_range"])] = -1e4
        return super().filter_proposals(proposals, objectness, image_shapes, num_anchors_per_level)


class ScaleAwareHead(RoIHeads):
    """torchvision's RoI head with one box regression, and objects added by size range."""

    def __init__(self, classes: int, stride: int, recipe: HeadRecipe) -> None:
        super().__init__(
            box_roi_pool=RoiBlob(recipe.roi_size, stride),
            box_head=TwoMLPHead(recipe.conv_proj * recipe.roi_size**2, recipe.hidden),
            box_predictor=OneBoxPredictor(recipe.hidden, classes),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=recipe.rois_per_chip,
            positive_fraction=recipe.positive_share,
            bbox_reg_weights=(10.0, 10.0, 5.0, 5.0),
            score_thresh=0.001,
            nms_thresh=1.0,
            detections_per_img=-1,
        )

    def select_training_samples(self, proposals: list[Tensor], targets: Any) -> Any:
        """Add the objects within the chip's range to its proposals, then sample and label them.

        A chip left without any gets itself as one (the authors fill up with arbitrary boxes).
        """
        rois = []
        for boxes, target in zip(proposals, targets, strict=True):
            objects = target["boxes"]
            boxes = torch.cat([boxes, objects[in_range(objects, target["valid_range"])]])
            height, width = target["size"].tolist()
            rois.append(boxes if len(boxes) else boxes.new_tensor([[0, 0, width, height]]))
        return super().select_training_samples(rois, targets)

    def add_gt_proposals(self, proposals: list[Tensor], gt_boxes: list[Tensor]) -> list[Tensor]:
        return proposals  # select_training_samples has added those of the right size

    def postprocess_detections(
        self, class_logits: Tensor, box_regression: Tensor, proposals: Any, image_shapes: Any
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return each image's boxes, scores and labels above the score threshold, unsuppressed."""
        counts = [len(boxes) for boxes in proposals]
        boxes = self.box_coder.decode(box_regression[:, :4], proposals).reshape(-1, 4)
        scores = torch.softmax(class_logits, -1)[:, 1:]
        result: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        for box, score, size in zip(
            boxes.split(counts), scores.split(counts), image_shapes, strict=True
        ):
            row, label = torch.nonzero(score > self.score_thresh, as_tuple=True)
            clipped = clip_boxes_to_image(box, size)[row]
            solid = ((clipped[:, 2:] - clipped[:, :2]) > 0.01).all(1)
            result[0].append(clipped[solid])
            result[1].append(score[row, label][solid])
            result[2].append(label[solid])
        return result


class OneBoxPredictor(nn.Module):
    """Class scores with background first, and one box regression for all classes.

    The regression is repeated for every class, which is the form that torchvision's loss takes.
    """

    def __init__(self, hidden: int, classes: int) -> None:
        super().__init__()
        self.scores = nn.Linear(hidden, classes + 1)
        self.box = nn.Linear(hidden, 4)
        nn.init.normal_(self.scores.weight, std=0.01)
        nn.init.normal_(self.box.weight, std=0.001)
        nn.init.zeros_(self.scores.bias)
        nn.init.zeros_(self.box.bias)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        scores: Tensor = self.scores(hidden)
        return scores, self.box(hidden).repeat(1, scores.shape[1])


def in_range(boxes: Tensor, valid_range: Tensor) -> Tensor:
    """Return which boxes (m, 4) have lowest <= sqrt(area) < highest."""
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
