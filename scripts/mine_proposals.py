"""Train a region proposal network for a few epochs and let it propose on the training images.

What it takes for objects where there are none becomes negative chips of the detector's training by
the same recipe. Writes proposals.parquet. Started again after an interruption it goes on from its
last checkpoint.
"""

from __future__ import annotations

from pathlib import Path

from detransfer.console import InputError, run
from detransfer.detection.detector import Detector
from detransfer.detection.limits import check_inference, check_scales
from detransfer.detection.mining import propose
from detransfer.detection.proposals import write_proposals
from detransfer.detection.train import chip_epochs
from detransfer.device_faults import device_faults
from detransfer.ranks import first
from detransfer.recipes.detection import DetectionRecipe
from detransfer.strict import load_file
from detransfer.training import train
from detransfer.training_run import open_job, training_arguments


def main() -> None:
    parser = training_arguments(str(__doc__))
    parser.add_argument("--inference", type=Path, help="recipe of the inference that follows")
    arguments = parser.parse_args()
    recipe = load_file(arguments.recipe, DetectionRecipe)
    negatives = recipe.chips.negatives
    if negatives is None:
        raise InputError(f"{arguments.recipe}: has no chips.negatives, so nothing is to be mined")
    job = open_job(arguments, Path(__file__))
    check_scales(job.index, recipe.chips.scales)
    detector = Detector(job.backbone(0, recipe.backbone), None, recipe)
    check_inference(arguments.inference, arguments.index, detector, job.run)
    chips = chip_epochs(job.index, recipe.chips, detector.backbone, job.run.seed)
    training = recipe.training.model_copy(update={"epochs": negatives.rpn_epochs})
    train(detector, chips, training, job.run)
    where, scales = (job.run.device, job.run.workers), recipe.chips.scales
    remedy = f"Lower the largest of chips.scales in {arguments.recipe}"
    with device_faults(job.run.device, f"proposing for {arguments.output}", remedy):
        found = propose(detector, job.index, scales, negatives, *where)
    if first():
        write_proposals(arguments.output / "proposals.parquet", found, job.index.digest())
    job.settle()


if __name__ == "__main__":
    run(main)
