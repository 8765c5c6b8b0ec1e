"""The two detection heads of the paper (section 4, "Architecture").

**Faster R-CNN** (COCO, OpenImages, VOC): ConvProj (1x1) -> RoI blob -> FC1 -> FC2 -> class scores
and one box regression shared by all classes.

**R-FCN-3000** (ImageNet-LOC): detection and classification are decoupled. Super-classes are
detected by position-sensitive pooling of maps on a 1024-channel projection of Conv5; the classes
inside them are told apart by a classifier on average-pooled Conv5 through one hidden layer; the
score of a class is the product of both probabilities.

Both map features, proposals and targets to ``(detections, losses)``, one of which is empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import clip_boxes_to_image, ps_roi_align

from detransfer.console import InputError
from detransfer.detection.roi_blob import SAMPLES, RoiBlob
from detransfer.detection.rpn import Targets, in_range
from detransfer.detection.sampling import KeyedSampler, keyed_generator, some
from detransfer.ranks import mean_count
from detransfer.recipes.detection import FasterRcnnRecipe, Rfcn3000Recipe

Detections = list[dict[str, Tensor]]
Sizes = Sequence[tuple[int, int]]
Output = tuple[Detections, dict[str, Tensor]]


class FasterRcnnHead(nn.Module):
    """Layers by the names of Table 7: ``conv_proj``, ``fc1``, ``fc2``, ``scores``, ``box``."""

    def __init__(self, channels: int, classes: int, stride: int, recipe: FasterRcnnRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.rois = Rois(recipe)
        self.conv_proj = nn.Conv2d(channels, recipe.conv_proj, 1)
        self.blob = RoiBlob(recipe.roi_size, stride)
        self.fc1 = nn.Linear(recipe.conv_proj * recipe.roi_size**2, recipe.hidden)
        self.fc2 = nn.Linear(recipe.hidden, recipe.hidden)
        self.scores = nn.Linear(recipe.hidden, classes + 1)  # background first
        self.box = nn.Linear(recipe.hidden, 4)
        _initialise(self.scores, 0.01)
        _initialise(self.box, 0.001)

    def forward(
        self, features: Tensor, proposals: list[Tensor], sizes: Sizes, targets: Targets | None
    ) -> Output:
        sample = self.rois.sample(proposals, targets) if targets is not None else None
        rois = sample.rois if sample else proposals
        _, _, hidden = self._hidden(features, rois)
        scores, box = self.scores(hidden), self.box(hidden)
        if sample:
            return [], _losses(scores, box, torch.cat(sample.labels), torch.cat(sample.regression))
        return self.rois.detections(scores.softmax(-1)[:, 1:], box, rois, sizes), {}

    def layers(self, features: Tensor, rois: list[Tensor]) -> dict[str, Tensor]:
        """Return what :attr:`FasterRcnnRecipe.layers` names, each (k, dimension), of all RoIs."""
        blob, fc1, fc2 = self._hidden(features, rois)
        grids = [functional.adaptive_avg_pool2d(blob, side) for side in self.recipe.grids]
        values = [*(grid.flatten(1) for grid in grids), blob.mean((2, 3)), fc1, fc2]
        return dict(zip(self.recipe.layers, values, strict=True))

    def _hidden(self, features: Tensor, rois: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the RoI blobs (k, c, side, side) of ConvProj, FC1 and FC2 (k, hidden)."""
        blob = self.blob(torch.relu(self.conv_proj(features)), rois)
        fc1 = torch.relu(self.fc1(blob.flatten(1)))
        return blob, fc1, torch.relu(self.fc2(fc1))


class Rfcn3000Head(nn.Module):
    """The decoupled head; :meth:`group` says which super-class each class belongs to.

    ``channels`` are those of the features, of which the last ``conv5`` are Conv5's.
    """

    superclass: Tensor

    def __init__(
        self, channels: int, conv5: int, classes: int, stride: int, recipe: Rfcn3000Recipe
    ) -> None:
        super().__init__()
        self.recipe, self.stride, self.conv5 = recipe, stride, conv5
        self.rois = Rois(recipe)
        cells = recipe.roi_size**2
        self.projection = nn.Conv2d(channels, recipe.projection, 1)
        self.superclass_maps = nn.Conv2d(recipe.projection, (recipe.superclasses + 1) * cells, 1)
        self.box_maps = nn.Conv2d(recipe.projection, 4 * cells, 1)
        self.blob = RoiBlob(recipe.roi_size, stride)
        self.hidden = nn.Linear(conv5, recipe.hidden)
        self.classifier = nn.Linear(recipe.hidden, classes)
        for layer in (self.superclass_maps, self.box_maps, self.classifier):
            _initialise(layer, 0.01)
        self.register_buffer("superclass", torch.zeros(classes, dtype=torch.long))

    def group(self, superclasses: Sequence[int]) -> None:
        """Set the super-class (from 0 on) of each class.

        Raises InputError unless there is one for each class, and none beyond the recipe's number.
        """
        given = torch.as_tensor(superclasses, dtype=torch.long)
        count, highest = len(self.superclass), self.recipe.superclasses - 1
        if len(given) != count or not ((given >= 0) & (given <= highest)).all():
            raise InputError(
                f"super-classes: {count} numbers from 0 to {highest} are needed, one a class "
                f"(head.superclasses), not {len(given)} from {min(given, default=0)} to "
                f"{max(given, default=0)}; cluster the classes again"
            )
        self.superclass.copy_(given)

    def forward(
        self, features: Tensor, proposals: list[Tensor], sizes: Sizes, targets: Targets | None
    ) -> Output:
        sample = self.rois.sample(proposals, targets) if targets is not None else None
        rois = sample.rois if sample else proposals
        projected = self.projection(features)  # read before any relu, as in the authors' code
        scores = self._vote(self.superclass_maps(projected), rois)
        box = self._vote(self.box_maps(projected), rois)
        if sample:
            labels = torch.cat(sample.labels)
            parents = torch.where(labels > 0, self.superclass[labels - 1] + 1, labels)
            losses = _losses(scores, box, parents, torch.cat(sample.regression))
            return [], {**losses, "loss_class": self._class_loss(features, sample)}
        share = self.classify(features, rois).softmax(-1)
        scores = scores.softmax(-1)[:, 1:][:, self.superclass] * share
        return self.rois.detections(scores, box, rois, sizes), {}

    def classify(self, features: Tensor, rois: list[Tensor]) -> Tensor:
        """Return the logits (k, classes) of all RoIs, from their average-pooled Conv5."""
        logits: Tensor = self.classifier(self._hidden(features, rois))
        return logits

    def layers(self, features: Tensor, rois: list[Tensor]) -> dict[str, Tensor]:
        """Return what :attr:`Rfcn3000Recipe.layers` names, each (k, dimension), of all RoIs."""
        projected = self.blob(self.projection(features), rois).mean((2, 3))
        values = (projected, self._hidden(features, rois))
        return dict(zip(self.recipe.layers, values, strict=True))

    def _hidden(self, features: Tensor, rois: list[Tensor]) -> Tensor:
        """Return the classifier's hidden layer (k, hidden)."""
        conv5 = features[:, features.shape[1] - self.conv5 :]
        return torch.relu(self.hidden(self.blob(conv5, rois).mean((2, 3))))

    def _vote(self, maps: Tensor, rois: list[Tensor]) -> Tensor:
        """Return the mean over the position-sensitive cells of each RoI (k, c)."""
        side = self.recipe.roi_size
        pooled: Tensor = ps_roi_align(maps, rois, side, 1 / self.stride, SAMPLES)
        return pooled.mean((2, 3))

    def _class_loss(self, features: Tensor, sample: Sample) -> Tensor:
        """Return the loss of the classifier on objects, on some of each chip at most."""
        rois, labels = [], []
        for boxes, label, own in zip(sample.rois, sample.labels, sample.keys, strict=True):
            objects = torch.nonzero(label > 0).flatten()
            generator = keyed_generator(own, 2, label.device)
            chosen = some(objects, self.recipe.class_rois_per_chip, generator)
            rois.append(boxes[chosen])
            labels.append(label[chosen] - 1)
        loss = functional.cross_entropy(
            self.classify(features, rois), torch.cat(labels), reduction="sum"
        )
        return loss / mean_count(sum(len(label) for label in labels))


@dataclass(frozen=True)
class Sample:
    """The RoIs of a batch that a head is trained on, each a list with one tensor a chip.

    ``rois`` (k, 4); ``labels`` (k,) with 0 for background; ``regression`` (k, 4) towards the
    matched object. ``keys`` determine what is random in each chip.
    """

    rois: list[Tensor]
    labels: list[Tensor]
    regression: list[Tensor]
    keys: list[int]


class Rois(RoIHeads):
    """torchvision's sampling and decoding of RoIs, with objects added by size range."""

    def __init__(self, recipe: FasterRcnnRecipe | Rfcn3000Recipe) -> None:
        super().__init__(
            box_roi_pool=None,
            box_head=None,
            box_predictor=None,
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=recipe.rois_per_chip,
            positive_fraction=recipe.positive_share,
            bbox_reg_weights=(10.0, 10.0, 5.0, 5.0),
            score_thresh=0.001,
            nms_thresh=1.0,
            detections_per_img=-1,
        )
        self.fg_bg_sampler = KeyedSampler(recipe.rois_per_chip, recipe.positive_share, stream=1)
        self.merge: Tensor | None = None  # (classes, other classes), 1 where one means the other

    def sample(self, proposals: list[Tensor], targets: Targets) -> Sample:
        """Add the objects within the chip's range to its proposals, then sample and label them.

        A chip left without any gets itself as one (the authors fill up with arbitrary boxes).
        """
        rois = []
        for boxes, target in zip(proposals, targets, strict=True):
            objects = target["boxes"]
            boxes = torch.cat([boxes, objects[in_range(objects, target["valid_range"])]])
            height, width = target["size"]
            rois.append(boxes if len(boxes) else boxes.new_tensor([[0, 0, width, height]]))
        keys = [target["key"] for target in targets]
        self.fg_bg_sampler.keys = keys
        chosen, _, labels, regression = self.select_training_samples(rois, targets)
        return Sample(chosen, labels, list(regression), keys)

    def add_gt_proposals(self, proposals: list[Tensor], gt_boxes: list[Tensor]) -> list[Tensor]:
        return proposals  # `sample` has added those of the right size

    def detections(
        self, scores: Tensor, box: Tensor, proposals: list[Tensor], sizes: Sizes
    ) -> Detections:
        """Return each image's boxes, scores and labels above the score threshold, unsuppressed.

        ``scores`` (k, classes) and ``box`` (k, 4) are of all proposals, one image after another.
        """
        if self.merge is not None:
            scores = scores @ self.merge.to(scores)
        counts = [len(boxes) for boxes in proposals]
        boxes = self.box_coder.decode(box, proposals).reshape(-1, 4)
        result: Detections = []
        for of_image, score, size in zip(
            boxes.split(counts), scores.split(counts), sizes, strict=True
        ):
            row, label = torch.nonzero(score > self.score_thresh, as_tuple=True)
            clipped = clip_boxes_to_image(of_image, size)[row]
            solid = ((clipped[:, 2:] - clipped[:, :2]) > 0.01).all(1)
            result.append(
                {
                    "boxes": clipped[solid],
                    "scores": score[row, label][solid],
                    "labels": label[solid],
                }
            )
        return result


def _losses(scores: Tensor, box: Tensor, labels: Tensor, regression: Tensor) -> dict[str, Tensor]:
    """Return the losses of scores (k, 1 + classes) and of one box regression (k, 4).

    torchvision's ``fastrcnn_loss`` for boxes that all classes share: smooth L1 with beta 1/9 over
    the objects, divided by the number of RoIs, of which other processes may have some.
    """
    count = mean_count(len(labels))
    objects = labels > 0
    apart = functional.smooth_l1_loss(
        box[objects], regression[objects], beta=1 / 9, reduction="sum"
    )
    return {
        "loss_classifier": functional.cross_entropy(scores, labels, reduction="sum") / count,
        "loss_box_reg": apart / count,
    }


def _initialise(layer: nn.Linear | nn.Conv2d, deviation: float) -> None:
    nn.init.normal_(layer.weight, std=deviation)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
