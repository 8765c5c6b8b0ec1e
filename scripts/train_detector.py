"""Train a detector on SNIPER chips: a pre-training, or the fine-tuning of one.

Writes model.safetensors (the whole network, with what rebuilds it in the header) and fit.json.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

from torch.utils.data import Dataset

from detransfer.backbone import mean_colour
from detransfer.console import InputError, run
from detransfer.detection.chip_recipe import chip_plan
from detransfer.detection.detector import Detector
from detransfer.detection.proposals import Proposals, read_proposals
from detransfer.detection.train import ChipDataset, scenes
from detransfer.recipes import DetectionRecipe
from detransfer.study import load_recipe_file
from detransfer.training import Example, train
from detransfer.training_run import open_job, training_arguments


def wanted_proposals(
    arguments: argparse.Namespace, recipe: DetectionRecipe, digest: str
) -> Proposals | None:
    """Read the proposals that the recipe's negative chips need.

    Raises InputError where the recipe wants negative chips and there are no proposals, or the
    reverse, and for proposals of other images.
    """
    if (recipe.chips.negatives is None) != (arguments.proposals is None):
        raise InputError(
            f"{arguments.recipe}: chips.negatives and --proposals go together: give a file of "
            "proposals where the recipe asks for negative chips, and none elsewhere"
        )
    return None if arguments.proposals is None else read_proposals(arguments.proposals, digest)


def main() -> None:
    parser = training_arguments(str(__doc__))
    parser.add_argument("--proposals", type=Path, help="proposals.parquet, for negative chips")
    arguments = parser.parse_args()
    recipe = load_recipe_file(arguments.recipe, DetectionRecipe)
    job = open_job(arguments, Path(__file__), [arguments.proposals] if arguments.proposals else [])
    proposals = wanted_proposals(arguments, recipe, job.identity["data_digest"])
    backbone = job.backbone(0, recipe.backbone)
    classes = job.index.classes["name"].tolist()
    detector = Detector(backbone, len(classes), recipe)
    images = scenes(job.index, background=proposals is not None)
    plan, pad = chip_plan(recipe.chips), mean_colour(backbone)

    @functools.lru_cache(maxsize=1)  # the first epoch is asked for its length, then for its chips
    def epoch(number: int) -> Dataset[Example]:
        return ChipDataset(images, plan, pad, arguments.seed, number, proposals)

    fit = train(detector, epoch, recipe.training, job.run)
    header = {"task": "detection", "classes": classes, "recipe": recipe.model_dump(mode="json")}
    job.finish(detector, header, fit, None)


if __name__ == "__main__":
    run(main)
