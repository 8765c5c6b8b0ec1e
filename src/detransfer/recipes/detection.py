"""Recipes of a detector's training: scales, chips, proposals, heads (the paper's section 4.1)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from detransfer.recipes.training import BackboneRecipe, TrainingRecipe
from detransfer.strict import Distinct, Positive, Strict

Range = tuple[float, float | None]
POOLED_SIDES = (4, 2)  # of the RoI blob, in Table 7


class ScaleRecipe(Strict):
    """One scale: shorter side with the longer one capped, or a factor; and what it is good for."""

    short: int | None = Field(None, gt=0, description="shorter side, pixels; null: fit `long`")
    long: int | None = Field(None, gt=0, description="largest longer side, pixels")
    factor: float | None = Field(None, gt=0, description="plain factor instead of both")
    valid_range: Range = Field(
        (0, None),
        description="sqrt(area) of objects it handles, original pixels; null: no end. The lower "
        "border belongs to it in training, the upper one in inference",
    )

    @model_validator(mode="after")
    def _one_form(self) -> ScaleRecipe:
        if (self.long is None) == (self.factor is None):
            raise ValueError("give either `long` (with or without `short`) or `factor`")
        if self.short is not None and (self.long is None or self.short > self.long):
            raise ValueError("short: needs `long`, and must not exceed it")
        low, high = self.valid_range
        if low < 0:
            raise ValueError(f"valid_range: begins at {low:g}; sizes are 0 or more")
        if high is not None and high <= low:
            raise ValueError(f"valid_range: {low} to {high} is empty")
        return self

    def finer_than(self, other: ScaleRecipe) -> bool:
        """Return whether every image is made larger than at ``other``; False if it depends."""
        if self.factor is not None and other.factor is not None:
            return self.factor > other.factor
        if self.long is None or other.long is None:
            return False
        mine, its = ((scale.short or math.inf, scale.long) for scale in (self, other))
        return mine != its and mine[0] >= its[0] and self.long >= other.long


def check_ranges(scales: Sequence[ScaleRecipe]) -> None:
    """Raise ValueError if there are sizes that no scale's valid range has."""
    top = 0.0
    for low, high in sorted((s.valid_range[0], s.valid_range[1] or math.inf) for s in scales):
        if low > top:
            raise ValueError(f"scales: no valid_range has the sizes from {top:g} to {low:g}")
        top = max(top, high)
    if top < math.inf:
        raise ValueError(f"scales: no valid_range has the sizes above {top:g}; end one with null")


def _check_order(scales: Sequence[ScaleRecipe]) -> None:
    """Raise ValueError unless the scales rise from the finest, for the smallest objects."""
    for place, (one, other) in enumerate(itertools.pairwise(scales)):
        first, second = ((s.valid_range[0], s.valid_range[1] or math.inf) for s in (one, other))
        if second[0] < first[0] or second[1] < first[1] or other.finer_than(one):
            raise ValueError(
                f"scales: the finest comes first, for the smallest objects; scales.{place + 1} is "
                f"finer than scales.{place}, or for smaller ones"
            )


class NegativeRecipe(Strict):
    """Negative chips: crops full of proposals that no object explains (SNIPER, box_assigner)."""

    rpn_epochs: float = Field(
        2, gt=0, description="a proposal network is trained so long first, by the same recipe"
    )
    proposals_before: int = Field(6000, gt=0, description="its proposals before suppression")
    proposals: int = Field(300, gt=0, description="its proposals kept a scale")
    per_image: int = Field(
        2, gt=0, description="at most so many an epoch, of each image as it is and mirrored"
    )
    minimum_proposals: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (25, 10, 10), description="a negative chip holds more proposals than this, for each scale"
    )


class ChipRecipe(Strict):
    """SNIPER's chips: the crops that a detector is trained on."""

    size: int = Field(gt=0, description="side of a chip, pixels")
    stride: tuple[int, int] = Field(description="range of the random grid step, pixels")
    minimum_side: float = Field(gt=0, description="objects cut smaller are dropped, chip pixels")
    scales: tuple[ScaleRecipe, ...] = Field(min_length=1, description="finest first")
    coarsest_takes_rest: bool = Field(
        False, description="objects that suit no scale count at the coarsest (authors: OpenImages)"
    )
    negatives: NegativeRecipe | None = Field(
        None, description="chips of background, which need proposals; null: none"
    )

    @model_validator(mode="after")
    def _stride_fits(self) -> ChipRecipe:
        low, high = self.stride
        if not 0 < low <= high < self.size - 1:
            raise ValueError("stride: needs 0 < lowest <= highest < size - 1")
        _check_order(self.scales)
        if not self.coarsest_takes_rest:
            check_ranges(self.scales)
        return self

    @model_validator(mode="after")
    def _a_number_each_scale(self) -> ChipRecipe:
        given = len(self.negatives.minimum_proposals) if self.negatives else len(self.scales)
        if given != len(self.scales):
            raise ValueError(
                f"negatives.minimum_proposals: has {given} numbers for {len(self.scales)} scales"
            )
        return self


class RpnRecipe(Strict):
    """The region proposal network."""

    channels: int = Field(512, gt=0, description="width of its 3x3 convolution")
    anchor_sizes: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Distinct] = Field(
        min_length=1, description="square root of area, pixels"
    )
    anchor_ratios: Annotated[tuple[Positive, ...], Distinct] = Field(
        (0.5, 1.0, 2.0), min_length=1, description="height over width"
    )
    batch_per_chip: int = Field(256, gt=0, description="anchors sampled for the loss")
    ignore_iou: float = Field(
        0.3, ge=0, le=1, description="overlap with an invalid object at which anchors are left out"
    )
    border: float = Field(32, ge=0, description="anchors reaching further out are left out, pixels")
    train_before: int = Field(21504, gt=0, description="proposals a chip before suppression")
    train_proposals: int = Field(300, gt=0, description="proposals a chip after suppression")


class FasterRcnnRecipe(Strict):
    """The Faster R-CNN head: ConvProj, RoI blob, FC1, FC2, class scores, one box regression."""

    kind: Literal["faster_rcnn"] = Field(description="which head")
    conv_proj: int = Field(256, gt=0, description="channels of ConvProj")
    roi_size: int = Field(14, gt=0, description="side of the RoI blob (paper: 14, code: 7)")
    hidden: int = Field(1024, gt=0, description="width of FC1 and FC2")
    rois_per_chip: int = Field(300, gt=0, description="RoIs sampled for the loss")
    positive_share: float = Field(
        1.0, gt=0, le=1, description="largest share of positives (1: no balancing, as the code)"
    )

    @property
    def grids(self) -> tuple[int, ...]:
        """The sides to which Table 7 pools the RoI blob, the blob's own first."""
        return (self.roi_size, *(side for side in POOLED_SIDES if side < self.roi_size))

    @property
    def layers(self) -> tuple[str, ...]:
        """The head's layers as Table 7 calls them, from its entrance to its exit."""
        grids = [f"conv_proj_{side}x{side}" for side in self.grids]
        return (*grids, "conv_proj_avg", "fc1", "fc2")


class Rfcn3000Recipe(Strict):
    """The R-FCN-3000 head: super-classes by position-sensitive pooling, a decoupled classifier."""

    kind: Literal["rfcn3000"] = Field(description="which head")
    superclasses: int = Field(
        1, gt=0, description="groups that the classes are clustered into (code: 1, objectness)"
    )
    projection: int = Field(1024, gt=0, description="channels that position-sensitive maps read")
    roi_size: int = Field(7, gt=0, description="cells a side of position-sensitive pooling")
    hidden: int = Field(1024, gt=0, description="width of the classifier's hidden layer")
    rois_per_chip: int = Field(300, gt=0, description="RoIs sampled for the losses")
    positive_share: float = Field(
        1.0, gt=0, le=1, description="largest share of positives (1: no balancing, as the code)"
    )
    class_rois_per_chip: int = Field(
        50, gt=0, description="objects' RoIs a chip that the classifier learns from, at most"
    )

    @property
    def layers(self) -> tuple[str, ...]:
        """The head's layers that have a vector a RoI: the projection's mean, the hidden layer."""
        return ("projection_avg", "hidden")


class DetectionRecipe(Strict):
    """Training of the detector (the paper's section 4.1 and the authors' public code)."""

    task: Literal["detection"]
    training: TrainingRecipe
    backbone: BackboneRecipe
    features: Literal["conv5", "conv4+conv5"] = Field(
        "conv5",
        description="what RPN and head read (paper: conv5; code: both, one after the other)",
    )
    chips: ChipRecipe
    rpn: RpnRecipe
    head: Annotated[FasterRcnnRecipe | Rfcn3000Recipe, Field(discriminator="kind")] = Field(
        description="Faster R-CNN (COCO, OpenImages, VOC) or R-FCN-3000 (ImageNet-LOC)"
    )

    @model_validator(mode="after")
    def _maps_fit(self) -> DetectionRecipe:
        if self.features == "conv4+conv5" and self.backbone.output_stride > 16:
            raise ValueError("features: conv4+conv5 needs backbone.output_stride 16 or 8")
        if self.chips.size % self.backbone.output_stride:
            raise ValueError(
                f"chips.size: {self.chips.size} is no multiple of backbone.output_stride "
                f"({self.backbone.output_stride}), so that anchors would lie elsewhere in chips "
                "than in whole images"
            )
        return self
