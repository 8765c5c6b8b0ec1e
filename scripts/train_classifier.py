"""Train a classifier, the whole network, on the labelled images of an index."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from detransfer.classification.accuracy import accuracy, permuted
from detransfer.classification.evaluate import REMEDY, predict
from detransfer.classification.finetune import Classifier, labelled_images
from detransfer.classification.search import chosen_recipe
from detransfer.console import run
from detransfer.data.index import Index
from detransfer.device_faults import device_faults
from detransfer.recipes.classification import ClassificationRecipe
from detransfer.strict import load_file
from detransfer.training import train
from detransfer.training_run import TrainingJob, open_job, training_arguments

DESCRIPTION = """\
Train a classifier, the whole network, on the labelled images of an index. Writes model.safetensors
(backbone and classifier, with all that rebuilds them) and fit.json (length, speed, memory, losses,
and top-1 in percent on training images seen as at test time). Started again after an interruption
it goes on from its last checkpoint.
"""
SCORED = 1000  # training images that the training score rests on, at most


def training_score(model: Classifier, job: TrainingJob) -> float:
    """Return top-1 in percent on a fixed sample of the training images, in the test view."""
    shown = labelled_images(job.index.sample(SCORED), model.recipe.images)
    with device_faults(job.run.device, f"scoring {job.output}", REMEDY):
        predicted, _ = predict(model, shown, job.run.device, job.run.workers)
    return accuracy(shown.class_ids, predicted).top1


def with_permuted_labels(index: Index, seed: int) -> Index:
    """Return the index with its classes dealt out among the images anew: a control."""
    class_ids = permuted(index.images["class_id"].to_numpy(), seed)
    return replace(index, images=index.images.assign(class_id=class_ids))


def main() -> None:
    parser = training_arguments(DESCRIPTION)
    parser.add_argument("--search", type=Path, help="search.csv, where the recipe searches")
    parser.add_argument(
        "--shuffle-labels", action="store_true", help="a control: permute the training labels"
    )
    arguments = parser.parse_args()
    recipe = load_file(arguments.recipe, ClassificationRecipe)
    inputs = [arguments.search] if arguments.search else []
    control = partial(with_permuted_labels, seed=arguments.seed)
    job = open_job(arguments, Path(__file__), inputs, control if arguments.shuffle_labels else None)
    recipe = chosen_recipe(recipe, arguments.search, arguments.recipe)
    classes = job.index.classes["name"].tolist()
    images = labelled_images(job.index, recipe.images)
    model = Classifier(job.backbone(len(classes), recipe.backbone), recipe)
    fit = train(
        model,
        lambda epoch: replace(images, randomness=(job.run.seed, epoch)),
        recipe.training,
        job.run,
    )
    header = {
        "task": "classification",
        "classes": classes,
        "recipe": recipe.model_dump(mode="json"),
    }
    job.finish(model, header, fit, training_score(model, job))


if __name__ == "__main__":
    run(main)
