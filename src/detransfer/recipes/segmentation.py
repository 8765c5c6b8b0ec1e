"""Recipes of DeepLab (the paper's section 4.2)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from detransfer.recipes.training import BackboneRecipe, TrainingRecipe
from detransfer.strict import Distinct, Strict


class ResizeRecipe(Strict):
    """The size at which a segmenter sees an image, whole, in training and at test time."""

    short: int = Field(gt=0, description="shorter side, pixels")
    long: int = Field(gt=0, description="largest longer side, pixels; it wins")
    flip: bool = Field(True, description="an epoch shows every image mirrored, too")

    @model_validator(mode="after")
    def _sides_fit(self) -> ResizeRecipe:
        if self.short > self.long:
            raise ValueError("short: must not exceed `long`")
        return self

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return an image's height and width for the network (``resize`` in DCN's image.py)."""
        scale = self.short / min(height, width)
        if round(scale * max(height, width)) > self.long:
            scale = self.long / max(height, width)
        return max(1, round(scale * height)), max(1, round(scale * width))


class PlainHeadRecipe(Strict):
    """The head of the authors' segmentation code: two 1x1 convolutions."""

    kind: Literal["plain"] = Field(description="which head")
    hidden: int = Field(1024, gt=0, description="width of fc6")


class AsppRecipe(Strict):
    """Atrous spatial pyramid pooling as in DeepLab v2: branches that are added up."""

    kind: Literal["aspp"] = Field(description="which head")
    hidden: int = Field(1024, gt=0, description="width of fc6 and fc7 of a branch")
    rates: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Distinct] = Field(
        (6, 12, 18, 24), min_length=1, description="dilation of the branches, steps of Conv5"
    )


class SegmentationRecipe(Strict):
    """Training of DeepLab (the paper's section 4.2; silent points from its code for DCN)."""

    task: Literal["segmentation"]
    training: TrainingRecipe
    backbone: BackboneRecipe
    offsets: Literal["zero", "keep"] = Field(
        "zero", description="of Conv5 at the start; keep: those of a detector trained here"
    )
    images: ResizeRecipe
    head: Annotated[PlainHeadRecipe | AsppRecipe, Field(discriminator="kind")] = Field(
        description="what reads Conv5: plain (the authors' code) or aspp"
    )

    @model_validator(mode="after")
    def _offsets_exist(self) -> SegmentationRecipe:
        if self.offsets == "keep" and not self.backbone.deformable_groups:
            raise ValueError("offsets: there are none to keep at backbone.deformable_groups 0")
        return self
