"""The search of learning rate and weight decay: its points, and its outcome."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from detransfer.classification.finetune import LabelledImages
from detransfer.console import InputError
from detransfer.files import atomic
from detransfer.recipes.classification import ClassificationRecipe

COLUMNS = ["learning_rate", "weight_decay", "top1", "images", "chosen"]


def points(recipe: ClassificationRecipe) -> list[ClassificationRecipe]:
    """Return the recipe at every point of its search, in the order in which ties are decided."""
    search = recipe.search
    assert search is not None
    pairs = itertools.product(search.learning_rates, search.weight_decays)
    epochs = search.epochs or recipe.training.epochs
    return [at(recipe, rate, decay, epochs) for rate, decay in pairs]


def at(
    recipe: ClassificationRecipe, rate: float, decay: float, epochs: float
) -> ClassificationRecipe:
    changes = {"learning_rate": rate, "weight_decay": decay, "epochs": epochs}
    training = recipe.training.model_copy(update=changes)
    return recipe.model_copy(update={"training": training})


def part(images: LabelledImages, chosen: np.ndarray) -> LabelledImages:
    """Return the images with a true value in ``chosen`` (n,)."""
    paths = [path for path, kept in zip(images.paths, chosen, strict=True) if kept]
    return replace(images, paths=paths, class_ids=images.class_ids[chosen])


def best(scores: list[float], source: Path) -> int:
    """Return the place of the highest score, the first of equals; NaN is worse than any.

    Raises InputError where the training diverged at every point of the search of ``source``.
    """
    if np.isnan(scores).all():
        raise InputError(
            f"{source}: the training diverged at all {len(scores)} points of its search; put lower "
            "rates into search.learning_rates, or set training.warmup_steps or training.clip_norm"
        )
    return int(np.nanargmax(scores))


def write_search(
    path: Path, tried: list[ClassificationRecipe], scores: list[float], chosen: int, images: int
) -> None:
    """Write what was tried, top-1 in percent on so many held-out images, and what is chosen.

    A score of NaN, of a training that diverged, is an empty cell.
    """
    table = pd.DataFrame(
        {
            "learning_rate": [recipe.training.learning_rate for recipe in tried],
            "weight_decay": [recipe.training.weight_decay for recipe in tried],
            "top1": scores,
            "images": images,
        }
    )
    table["chosen"] = table.index == chosen
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False)


def chosen_recipe(
    recipe: ClassificationRecipe, path: Path | None, source: Path
) -> ClassificationRecipe:
    """Return the recipe with what its search chose; as it is where it searches nothing.

    Raises InputError where the outcome is missing, or is that of another search.
    """
    if recipe.search is None:
        if path is not None:
            raise InputError(f"{source}: has no search, so --search {path} has no use")
        return recipe
    if path is None:
        raise InputError(
            f"{source}: searches its learning rate; give --search, the table that "
            "scripts/search_classifier.py writes"
        )
    try:
        table = pd.read_csv(path)[COLUMNS]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not a readable table of a search ({error})") from error
    tried = list(zip(table["learning_rate"], table["weight_decay"], strict=True))
    wanted = [(p.training.learning_rate, p.training.weight_decay) for p in points(recipe)]
    if tried != wanted or table["chosen"].sum() != 1:
        raise InputError(f"{path}: is the outcome of another search than {source} asks for")
    rate, decay = tried[int(table["chosen"].to_numpy().argmax())]
    return at(recipe, rate, decay, recipe.training.epochs)
