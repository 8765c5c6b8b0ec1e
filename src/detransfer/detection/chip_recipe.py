"""What a recipe says of chips, in the form that planning and inference take."""

from __future__ import annotations

import math

from detransfer.detection.chips import ChipPlan, ChipScale
from detransfer.recipes.detection import ChipRecipe, ScaleRecipe


def chip_scale(recipe: ScaleRecipe) -> ChipScale:
    """Return a recipe's scale in the form the chips use; an open end becomes infinity."""
    low, high = recipe.valid_range
    valid = (low, math.inf if high is None else high)
    return ChipScale(recipe.short, recipe.long, recipe.factor, valid)


def chip_plan(recipe: ChipRecipe) -> ChipPlan:
    """Return a recipe's chips in the form that the planner takes."""
    negatives = recipe.negatives
    return ChipPlan(
        scales=tuple(chip_scale(scale) for scale in recipe.scales),
        size=recipe.size,
        stride=recipe.stride,
        minimum_side=recipe.minimum_side,
        coarsest_takes_rest=recipe.coarsest_takes_rest,
        negatives_per_image=negatives.per_image if negatives else 0,
        minimum_proposals=negatives.minimum_proposals if negatives else (),
    )
