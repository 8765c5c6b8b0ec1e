"""Choose learning rate and weight decay of a fine-tuning, on a fifth of the training images.

Every pair of the recipe's `search` is trained on the other four fifths; the pair with the highest
top-1 on the held-out images is chosen (the first of equals). A training that diverges has no top-1
and is not chosen. Writes search.csv. No image outside the training splits is looked at. Started
again after an interruption it goes on where it ended.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.data import Dataset

from detransfer.batches import Example
from detransfer.checkpoints import drop_checkpoints
from detransfer.classification.accuracy import accuracy, held_out
from detransfer.classification.evaluate import REMEDY, predict
from detransfer.classification.finetune import Classifier, LabelledImages, labelled_images
from detransfer.classification.search import best, part, points, write_search
from detransfer.console import InputError, run
from detransfer.device_faults import device_faults
from detransfer.files import write_json
from detransfer.ranks import first
from detransfer.recipes.classification import ClassificationRecipe
from detransfer.strict import load_file
from detransfer.training import Diverged, train
from detransfer.training_run import TrainingJob, open_job, training_arguments

log = logging.getLogger("search_classifier")
SCORE = "score.json"


def views(images: LabelledImages, seed: int) -> Callable[[int], Dataset[Example]]:
    """Return the training views of an epoch."""
    return lambda epoch: replace(images, randomness=(seed, epoch))


def name_of(recipe: ClassificationRecipe) -> str:
    """Return the name of a point of the search, that of the folder of its state."""
    training = recipe.training
    return f"rate{training.learning_rate:g}_decay{training.weight_decay:g}"


def score_point(
    recipe: ClassificationRecipe, job: TrainingJob, learnt: LabelledImages, held: LabelledImages
) -> float:
    """Train at one point of the search and return top-1 in percent on the held-out images.

    NaN where the training diverges.
    """
    training, name = recipe.training, name_of(recipe)
    place = replace(job.run, state=job.run.state / name)
    done = place.state / SCORE
    if done.is_file():
        top1 = json.loads(done.read_text())["top1"]
        return math.nan if top1 is None else float(top1)
    torch.manual_seed(place.seed)
    classes = len(job.index.classes)
    model = Classifier(job.backbone(classes, recipe.backbone), recipe)
    try:
        train(model, views(learnt, place.seed), training, place)
    except Diverged as error:
        log.warning("%s: diverged, so it is not chosen (%s)", name, error)
        return settle(place.state, math.nan)
    with device_faults(place.device, f"scoring {place.state}", REMEDY):
        predicted, _ = predict(model, held, place.device, place.workers)
    top1 = accuracy(held.class_ids, predicted).top1
    log.info("%s: %.2f %%", name, top1)
    return settle(place.state, top1)


def settle(state: Path, top1: float) -> float:
    """Keep what a point came to in place of its checkpoints, and return it."""
    if first():
        write_json(state / SCORE, {"top1": None if math.isnan(top1) else top1})
        drop_checkpoints(state)
    return top1


def main() -> None:
    arguments = training_arguments(str(__doc__)).parse_args()
    recipe = load_file(arguments.recipe, ClassificationRecipe)
    if recipe.search is None:
        raise InputError(f"{arguments.recipe}: has no search, so there is nothing to choose")
    job = open_job(arguments, Path(__file__))
    images = labelled_images(job.index, recipe.images)
    held = held_out(images.class_ids, job.run.seed)
    tried = points(recipe)
    for each in tried:  # all of them at once, for scripts/status.py to count
        (job.run.state / name_of(each)).mkdir(parents=True, exist_ok=True)
    parts = part(images, ~held), part(images, held)
    scores = [score_point(each, job, *parts) for each in tried]
    chosen = best(scores, arguments.recipe)
    if first():
        write_search(arguments.output / "search.csv", tried, scores, chosen, int(held.sum()))
    job.settle()


if __name__ == "__main__":
    run(main)
