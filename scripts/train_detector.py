"""Train a detector on SNIPER chips: a pre-training, or the fine-tuning of one.

Writes model.safetensors (the whole network, with what rebuilds it in the header) and fit.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from detransfer.console import InputError, run
from detransfer.detection.detector import Detector
from detransfer.detection.limits import check_inference
from detransfer.detection.proposals import training_proposals
from detransfer.detection.train import chip_epochs
from detransfer.recipes.detection import DetectionRecipe
from detransfer.recipes.loading import superclasses
from detransfer.strict import load_file
from detransfer.training import train
from detransfer.training_run import open_job, training_arguments


def group_classes(detector: Detector, path: Path | None, recipe: Path) -> None:
    """Tell the head which super-class each class belongs to, where the recipe groups them.

    Raises InputError where the super-classes are missing, needless, unreadable or of other classes.
    """
    groups = superclasses(detector.recipe)
    if path is None and groups == 1:
        return
    if path is None:
        raise InputError(
            f"{recipe}: head.superclasses is {groups}; give --superclasses, the CSV that "
            "scripts/cluster_superclasses.py writes"
        )
    if groups == 1:
        raise InputError(f"{recipe}: groups no classes, so --superclasses {path} has no use")
    try:
        table = pd.read_csv(path)
        known = table["class_id"].tolist() == list(range(len(table)))
        given = table["superclass"].tolist()
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not a readable table of super-classes ({error})") from error
    if not known:
        raise InputError(f"{path}: class ids are not 0, 1, 2, ... in order; cluster them again")
    head: Any = detector.head
    head.group(given)


def main() -> None:
    parser = training_arguments(str(__doc__))
    parser.add_argument("--proposals", type=Path, help="proposals.parquet, for negative chips")
    parser.add_argument("--superclasses", type=Path, help="CSV of cluster_superclasses.py")
    parser.add_argument("--inference", type=Path, help="recipe of the inference that follows")
    arguments = parser.parse_args()
    recipe = load_file(arguments.recipe, DetectionRecipe)
    further = [path for path in (arguments.proposals, arguments.superclasses) if path]
    job = open_job(arguments, Path(__file__), further)
    proposals = training_proposals(
        arguments.proposals, recipe.chips, arguments.recipe, job.identity["data_digest"]
    )
    backbone = job.backbone(0, recipe.backbone)
    chips = chip_epochs(job.index, recipe.chips, backbone, job.run.seed, proposals)
    classes = job.index.classes["name"].tolist()
    detector = Detector(backbone, len(classes), recipe)
    group_classes(detector, arguments.superclasses, arguments.recipe)
    check_inference(arguments.inference, arguments.index, detector, job.run)
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
