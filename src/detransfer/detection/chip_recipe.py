"""What a recipe says of chips, in the form that planning and inference take."""

from __future__ import annotations

import math
from pathlib import Path

from detransfer.console import InputError
from detransfer.data.index import Index, read_index
from detransfer.detection.chips import ChipPlan, ChipScale
from detransfer.recipes.detection import ChipRecipe, ScaleRecipe
from detransfer.recipes.evaluation import InferenceRecipe
from detransfer.strict import load_file

LARGEST_SIDE = 8_000  # pixels of a resized image; of that square a ResNet's first map takes 4 GB


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


def check_scales(index: Index, scales: tuple[ScaleRecipe, ...]) -> None:
    """Raise InputError for an image that a scale would enlarge beyond what memory holds."""
    if index.images.empty:
        return
    sizes = index.images[["width", "height"]].to_numpy()
    for number, scale in enumerate(scales):
        sides = sizes.max(1) * chip_scale(scale).resize_factors(sizes)
        row = int(sides.argmax())
        if sides[row] > LARGEST_SIDE:
            raise InputError(
                f"{index.root / index.images['path'].iloc[row]}: {sizes[row, 0]} x {sizes[row, 1]} "
                f"pixels become {sides[row]:.0f} at scales[{number}], more than {LARGEST_SIDE}; "
                "give that scale as a short and a long side"
            )


def check_inference(recipe: Path | None, folder: Path) -> None:
    """Refuse before a training what would end the inference after it: see :func:`check_scales`.

    ``recipe`` is that of the inference, where one follows, and ``folder`` that of the index.
    """
    if recipe is not None:
        check_scales(read_index(folder), load_file(recipe, InferenceRecipe).scales)
