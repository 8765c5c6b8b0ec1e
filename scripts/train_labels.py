"""Train a backbone on the classes of a detector's chips, without its boxes.

The control of a detection pre-training: the same recipe, chips, order and steps. Writes
model.safetensors and fit.json.
"""

from __future__ import annotations

from pathlib import Path

from detransfer.console import run
from detransfer.detection.labels import LabelClassifier
from detransfer.detection.proposals import training_proposals
from detransfer.detection.train import chip_epochs
from detransfer.recipes.detection import DetectionRecipe
from detransfer.strict import load_file
from detransfer.training import train
from detransfer.training_run import open_job, training_arguments


def main() -> None:
    parser = training_arguments(str(__doc__))
    parser.add_argument("--proposals", type=Path, help="proposals.parquet, for negative chips")
    arguments = parser.parse_args()
    recipe = load_file(arguments.recipe, DetectionRecipe)
    job = open_job(arguments, Path(__file__), [arguments.proposals] if arguments.proposals else [])
    proposals = training_proposals(
        arguments.proposals, recipe.chips, arguments.recipe, job.identity["data_digest"]
    )
    backbone = job.backbone(0, recipe.backbone)
    chips = chip_epochs(job.index, recipe.chips, backbone, job.run.seed, proposals)
    classes = job.index.classes["name"].tolist()
    model = LabelClassifier(backbone, len(classes), recipe)
    fit = train(model, chips, recipe.training, job.run)
    header = {"task": "labels", "classes": classes, "recipe": recipe.model_dump(mode="json")}
    job.finish(model, header, fit, None)


if __name__ == "__main__":
    run(main)
