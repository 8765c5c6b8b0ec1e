"""The recipe of the pictures of what a frozen network looks at (the paper's section 4.4)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from detransfer.console import InputError
from detransfer.recipes.classification import FeatureRecipe
from detransfer.strict import Strict, load_file
from detransfer.study import Study

STAGE = "visualization"


class VisualizationRecipe(Strict):
    """Activation maps and mask-out maps, both of the view that the features are recorded of."""

    task: Literal["visualization"]
    mask: int = Field(gt=0, description="side of the blank square, pixels of the view")
    stride: int = Field(gt=0, description="step of the grid of its centres, pixels of the view")
    images: int | None = Field(
        gt=0, description="test images that are masked out, spread over the split; null: all"
    )
    precision: Literal["fp32", "bf16"] = Field(description="of the network's numbers")
    batch_size: int = Field(gt=0, description="masked images at once; changes nothing but speed")


def load_visualization(study: Study, view: FeatureRecipe) -> VisualizationRecipe:
    """Return the study's recipe; raises InputError where its square does not fit into the view."""
    path = study.recipe(STAGE)
    recipe = load_file(path, VisualizationRecipe)
    for key in ("mask", "stride"):
        if getattr(recipe, key) >= view.size:
            raise InputError(
                f"{path}: {key}: {getattr(recipe, key)} pixels do not fit into a view of "
                f"{view.size} (size in {study.recipe('features')}); give less"
            )
    return recipe
