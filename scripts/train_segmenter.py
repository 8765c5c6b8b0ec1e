"""Train DeepLab, the whole network, on the masks of an index."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from detransfer.backbone import keep_offsets
from detransfer.console import InputError, run
from detransfer.device_faults import device_faults
from detransfer.recipes.segmentation import SegmentationRecipe
from detransfer.segmentation.confusion import confusion
from detransfer.segmentation.deeplab import Segmenter
from detransfer.segmentation.images import masked_images
from detransfer.segmentation.predict import REMEDY, predict
from detransfer.segmentation.scores import class_counts, mean_iou
from detransfer.strict import load_file
from detransfer.training import train
from detransfer.training_run import TrainingJob, open_job, training_arguments

DESCRIPTION = """\
Train DeepLab, the whole network, on the masks of an index. Writes model.safetensors (backbone and
head, with all that rebuilds them) and fit.json (length, speed, memory, losses, and mean IoU in
percent on training images, at the size that the network sees). Started again after an interruption
it goes on from its last checkpoint.
"""
SCORED = 200  # training images that the training score rests on, at most


def training_score(model: Segmenter, job: TrainingJob) -> float:
    """Return the mean IoU in percent on a fixed sample of the training images."""
    shown = masked_images(job.index.sample(SCORED), model.recipe.images)
    total = np.zeros((shown.classes, shown.classes), np.int64)
    with device_faults(job.run.device, f"scoring {job.output}", REMEDY):
        for _, found, truth in predict(model, shown, job.run.device, job.run.workers):
            total += confusion(truth, found, shown.classes)
    return float(100 * mean_iou(class_counts(total)))


def main() -> None:
    parser = training_arguments(DESCRIPTION)
    parser.add_argument(
        "--offsets", type=Path, help="model.safetensors of the detector whose offsets are kept"
    )
    arguments = parser.parse_args()
    recipe = load_file(arguments.recipe, SegmentationRecipe)
    if arguments.offsets and recipe.offsets == "zero":
        raise InputError(f"--offsets: {arguments.recipe} says that offsets start at zero")
    job = open_job(arguments, Path(__file__), [arguments.offsets] if arguments.offsets else [])
    classes = job.index.classes["name"].tolist()
    images = masked_images(job.index, recipe.images, mirrored=recipe.images.flip)
    backbone = job.backbone(0, recipe.backbone)
    if arguments.offsets:
        keep_offsets(backbone, arguments.offsets)
    model = Segmenter(backbone, len(classes), recipe)
    fit = train(model, lambda epoch: images, recipe.training, job.run)
    header = {"task": "segmentation", "classes": classes, "recipe": recipe.model_dump(mode="json")}
    job.finish(model, header, fit, training_score(model, job))


if __name__ == "__main__":
    run(main)
