"""Train a detector on SNIPER chips: a pre-training, or the fine-tuning of one.

Writes model.safetensors (the whole network, with what rebuilds it in the header) and fit.json.
"""

from __future__ import annotations

import functools
from pathlib import Path

from torch.utils.data import Dataset

from detransfer.backbone import mean_colour
from detransfer.console import run
from detransfer.detection.detector import Detector
from detransfer.detection.train import ChipDataset, chip_plan, scenes
from detransfer.recipes import DetectionRecipe
from detransfer.study import load_recipe_file
from detransfer.training import Example, train
from detransfer.training_run import open_job, training_arguments


def main() -> None:
    arguments = training_arguments(str(__doc__)).parse_args()
    recipe = load_recipe_file(arguments.recipe, DetectionRecipe)
    job = open_job(arguments, Path(__file__))
    backbone = job.backbone(0, recipe.backbone)
    classes = job.index.classes["name"].tolist()
    detector = Detector(backbone, len(classes), recipe)
    images, plan, pad = scenes(job.index), chip_plan(recipe.chips), mean_colour(backbone)

    @functools.lru_cache(maxsize=1)  # the first epoch is asked for its length, then for its chips
    def epoch(number: int) -> Dataset[Example]:
        return ChipDataset(images, plan, pad, arguments.seed, number)

    fit = train(detector, epoch, recipe.training, job.run)
    header = {
        "task": "detection",
        "classes": classes,
        "source_ids": job.index.classes["source_id"].tolist(),
        "recipe": recipe.model_dump(mode="json"),
    }
    job.finish(detector, header, fit, None)


if __name__ == "__main__":
    run(main)
