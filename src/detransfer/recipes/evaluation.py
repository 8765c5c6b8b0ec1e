"""Recipes of a detector at work: how it is run on images, and how its detections are scored."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from detransfer.recipes.detection import ScaleRecipe, check_ranges
from detransfer.strict import Distinct, Share, Strict


class VocRecipe(Strict):
    """The convention of VOC's average precision (definitions: VOCevaldet.m, VOCdevkit 2007)."""

    kind: Literal["voc"] = Field(description="which metric")
    ious: Annotated[tuple[Share, ...], Distinct] = Field(
        min_length=1, description="overlap thresholds; a study's tables need 0.1, 0.2, ..., 0.9"
    )
    convention: Literal["AP07", "AP10"] = Field(description="the headline; both are computed")
    strict_overlap: bool = Field(False, description="IoU must exceed the threshold (authors)")
    round_scores: int | None = Field(None, ge=0, description="decimals kept (authors: 3)")
    round_boxes: int | None = Field(None, ge=0, description="decimals kept (authors: 1)")

    @model_validator(mode="after")
    def _thresholds(self) -> VocRecipe:
        if 0.5 not in self.ious:
            raise ValueError("ious: 0.5 must be among them")
        return self


class CocoRecipe(Strict):
    """COCO's average precisions: overlaps .5 to .95, 101 points, 100 detections an image."""

    kind: Literal["coco"] = Field(description="which metric")


class OpenImagesRecipe(Strict):
    """Open Images' average precision at overlap 0.5: groups count once, verified classes only."""

    kind: Literal["open_images"] = Field(description="which metric")


class DiagnosisRecipe(Strict):
    """The error analysis of detections (Hoiem et al., ECCV 2012)."""

    similar_classes: tuple[tuple[str, ...], ...] | None = Field(
        None, description="sets of classes that are taken for each other; null: of one superclass"
    )


class InferenceRecipe(Strict):
    """How a detector is run and scored."""

    task: Literal["detection"]
    scales: tuple[ScaleRecipe, ...] = Field(min_length=1, description="images are run at each")
    batch_size: int = Field(gt=0, description="images of one shape at once")
    proposals_before: int = Field(6000, gt=0, description="proposals kept before suppression")
    proposals: int = Field(300, gt=0, description="proposals kept a scale")
    score_threshold: float = Field(
        0.001, ge=0, lt=1, description="detections below are dropped, before and after suppression"
    )
    soft_nms_sigma: float = Field(
        0.55, gt=0, description="width of the Gaussian by which a class suppresses itself"
    )
    per_image: int = Field(200, gt=0, description="detections kept an image")
    training_images: int = Field(200, gt=0, description="training images scored to see the fit")
    metric: Annotated[VocRecipe | CocoRecipe | OpenImagesRecipe, Field(discriminator="kind")] = (
        Field(description="VOC's, COCO's or Open Images' average precision")
    )
    diagnosis: DiagnosisRecipe = DiagnosisRecipe()

    @model_validator(mode="after")
    def _scales_meet(self) -> InferenceRecipe:
        check_ranges(self.scales)
        return self
