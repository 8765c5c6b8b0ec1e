"""Recipes of classifiers, of frozen features and of their probes (the paper's section 4.3)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from detransfer.recipes.training import BackboneRecipe, TrainingRecipe
from detransfer.strict import Distinct, Positive, Strict


class ImageRecipe(Strict):
    """How a classifier sees an image, in training and at test time."""

    size: int = Field(gt=0, description="side of the square input, pixels")
    resize: int = Field(gt=0, description="shorter side before the central test crop, pixels")
    minimum_area: float = Field(
        0.08, gt=0, le=1, description="smallest share of the image in a random training crop"
    )
    flip: bool = Field(True, description="mirror half of the training images")

    @model_validator(mode="after")
    def _crop_fits(self) -> ImageRecipe:
        if self.resize < self.size:
            raise ValueError("resize: must be at least `size`")
        return self


class SearchRecipe(Strict):
    """Which learning rate and weight decay to train with: all pairs, on a held-out fifth."""

    learning_rates: Annotated[tuple[Positive, ...], Distinct] = Field(
        min_length=1, description="peak rates to try, instead of training.learning_rate"
    )
    weight_decays: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Distinct] = Field(
        min_length=1, description="to try with each of them, instead of training.weight_decay"
    )
    epochs: float | None = Field(
        None, gt=0, description="passes over the other four fifths; null: training.epochs"
    )


class ClassificationRecipe(Strict):
    """Training of a classifier (the paper's section 4.3; silent points after Kornblith et al.)."""

    task: Literal["classification"]
    training: TrainingRecipe
    backbone: BackboneRecipe
    images: ImageRecipe
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share spread over all classes")
    search: SearchRecipe | None = Field(
        None, description="choose learning rate and weight decay for each pre-training; null: as is"
    )


class FeatureRecipe(Strict):
    """How frozen features are recorded: of one central view of each image."""

    task: Literal["features"]
    size: int = Field(gt=0, description="side of the square input, pixels")
    resize: int = Field(gt=0, description="shorter side before the central crop, pixels")
    output_stride: Literal[8, 16, 32] = Field(
        description="input pixels a step of Conv5, for every network (a detector's: its own)"
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="autocast of the backbone")
    batch_size: int = Field(gt=0, description="images at once; changes nothing but speed")
    checkpoint_seconds: float = Field(30, gt=0, description="time between marks of progress")

    @model_validator(mode="after")
    def _crop_fits(self) -> FeatureRecipe:
        if self.resize < self.size:
            raise ValueError("resize: must be at least `size`")
        return self


class ProbeRecipe(Strict):
    """Linear and nearest-neighbour probes of frozen features (the paper's section 4.3)."""

    task: Literal["probe"]
    penalties: Annotated[tuple[Positive, ...], Distinct] = Field(
        min_length=1,
        description="weights of half the squared norm beside the mean cross-entropy, falling",
    )
    tolerance: float = Field(
        gt=0, lt=1, description="gradient norm at the end, relative to that of zero weights"
    )
    iterations: int = Field(gt=0, description="most steps of L-BFGS for one penalty")
    shots: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Distinct] = Field(
        description="training images a class of the few-shot probes"
    )
    neighbours: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Distinct] = Field(
        description="nearest training images that vote"
    )

    @model_validator(mode="after")
    def _check(self) -> ProbeRecipe:
        if not self.shots and not self.neighbours:
            raise ValueError("shots, neighbours: give one of them, for the curves of few_shot.csv")
        if list(self.penalties) != sorted(self.penalties, reverse=True):
            raise ValueError("penalties: the largest comes first, where the path starts")
        return self
