"""All recipes of a study, read and held against one another before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from detransfer.console import InputError
from detransfer.recipes.classification import ClassificationRecipe, FeatureRecipe, ProbeRecipe
from detransfer.recipes.detection import DetectionRecipe, Rfcn3000Recipe
from detransfer.recipes.evaluation import InferenceRecipe, VocRecipe
from detransfer.recipes.segmentation import SegmentationRecipe
from detransfer.strict import Strict, load_file
from detransfer.study import Study

REPORTED_IOUS = tuple(tenth / 10 for tenth in range(1, 10))  # by Figure 1; Table 2: two of them


def load_recipes(study: Study) -> dict[str, Strict]:
    """Return every recipe that the study's networks use, by stage.

    Raises InputError at the first that is missing, wrong, or for another task, and at one that
    leaves out a threshold that a table or figure shows.
    """
    training: dict[str, type[Strict]] = {
        "classification": ClassificationRecipe,
        "detection": DetectionRecipe,
        "segmentation": SegmentationRecipe,
    }
    wanted = {f"pretrain_{name}": training[p.kind] for name, p in study.trained.items()}
    wanted |= {f"finetune_{name}": training[t.task] for name, t in study.targets.items()}
    for name in (*study.detectors, *study.targets_of("detection")):
        wanted[f"evaluate_{name}"] = InferenceRecipe
    recipes = {stage: load_file(study.recipe(stage), model) for stage, model in wanted.items()}
    for stage, recipe in recipes.items():
        _check_stage(study.recipe(stage), stage, recipe)
        _check_split(study.recipe(stage), recipe, max(1, study.resources.train.gpu))
    grouped = any(superclasses(recipe) > 1 for recipe in recipes.values())
    if grouped or study.targets_of("classification"):
        recipes["features"] = load_file(study.recipe("features"), FeatureRecipe)
    if study.targets_of("classification"):
        recipes["probe"] = load_file(study.recipe("probe"), ProbeRecipe)
    for name in study.targets_of("detection"):
        evaluation = recipes[f"evaluate_{name}"]
        assert isinstance(evaluation, InferenceRecipe)
        if isinstance(evaluation.metric, VocRecipe):
            _check_thresholds(study.recipe(f"evaluate_{name}"), evaluation.metric)
    for name in study.targets_of("segmentation"):
        _check_offsets(study, recipes, name)
    return recipes


def superclasses(recipe: Strict) -> int:
    """Return into how many super-classes a recipe groups the classes; 1 where it groups none."""
    grouped = isinstance(recipe, DetectionRecipe) and isinstance(recipe.head, Rfcn3000Recipe)
    return recipe.head.superclasses if grouped else 1  # type: ignore[attr-defined]


def _check_stage(path: Path, stage: str, recipe: Strict) -> None:
    """Raise InputError for what only a pre-training, or only a fine-tuning, can have."""
    if stage.startswith("finetune_") and superclasses(recipe) > 1:
        raise InputError(
            f"{path}: head.superclasses: only a pre-training's classes are clustered; give 1"
        )
    searching = isinstance(recipe, ClassificationRecipe) and recipe.search is not None
    if stage.startswith("pretrain_") and searching:
        raise InputError(f"{path}: search: is for targets; a pre-training takes one rate as given")


def _check_split(path: Path, recipe: Strict, devices: int) -> None:
    """Raise InputError where a training's batch cannot be split among the devices of its job."""
    training = getattr(recipe, "training", None)
    if training is not None and not training.splits_among(devices):
        raise InputError(
            f"{path}: training.batch_size {training.batch_size} (micro_batch "
            f"{training.micro_batch or 'null'}) cannot be split among {devices} GPUs "
            "(resources.train.gpu), so that each holds whole micro-batches or an equal part of one"
        )


def _check_thresholds(path: Path, recipe: VocRecipe) -> None:
    missing = [f"{iou:g}" for iou in REPORTED_IOUS if iou not in recipe.ious]
    if missing:
        raise InputError(
            f"{path}: metric.ious: Table 2 and Figure 1 show the overlaps 0.1, 0.2, ..., 0.9; add "
            f"{', '.join(missing)}"
        )


def _check_offsets(study: Study, recipes: Mapping[str, Strict], target: str) -> None:
    """Raise InputError where a segmenter keeps offsets of another number of groups than its own."""
    recipe, path = recipes[f"finetune_{target}"], study.recipe(f"finetune_{target}")
    assert isinstance(recipe, SegmentationRecipe)
    if recipe.offsets == "zero":
        return
    wanted = recipe.backbone.deformable_groups
    for name in [each for each in study.fine_tuned(target) if each in study.detectors]:
        source = recipes[f"pretrain_{name}"]
        assert isinstance(source, DetectionRecipe)
        given = source.backbone.deformable_groups
        if given != wanted:
            raise InputError(
                f"{path}: offsets: keep needs backbone.deformable_groups {given} as in "
                f"{study.recipe(f'pretrain_{name}')}, not {wanted}; make them equal, or give "
                "offsets: zero"
            )
