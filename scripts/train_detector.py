"""Train a detector on SNIPER chips: a pre-training, or the fine-tuning of one.

Writes model.safetensors (the whole network, with what rebuilds it in the header) and fit.json.
"""

from __future__ import annotations

from pathlib import Path

from detransfer.console import run
from detransfer.detection.detector import Detector
from detransfer.detection.proposals import training_proposals
from detransfer.detection.train import chip_epochs
from detransfer.recipes import DetectionRecipe
from detransfer.study import load_recipe_file
from detransfer.training import train
from detransfer.training_run import open_job, training_arguments


def main() -> None:
    parser = training_arguments(str(__doc__))
    parser.add_argument("--proposals", type=Path, help="proposals.parquet, for negative chips")
    arguments = parser.parse_args()
    recipe = load_recipe_file(arguments.recipe, DetectionRecipe)
    job = open_job(arguments, Path(__file__), [arguments.proposals] if arguments.proposals else [])
    proposals = training_proposals(
        arguments.proposals, recipe.chips, arguments.recipe, job.identity["data_digest"]
    )
    backbone = job.backbone(0, recipe.backbone)
    chips = chip_epochs(job.index, recipe.chips, backbone, job.run.seed, proposals)
    classes = job.index.classes["name"].tolist()
    detector = Detector(backbone, len(classes), recipe)
    fit = train(detector, chips, recipe.training, job.run)
    header = {
        "task": "detection",
        "classes": classes,
        "source_ids": job.index.classes["source_id"].tolist(),
        "recipe": recipe.model_dump(mode="json"),
    }
    job.finish(detector, header, fit, None)


if __name__ == "__main__":
    run(main)
