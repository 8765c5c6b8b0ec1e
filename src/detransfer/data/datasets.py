"""The data sets of a study: the catalog's, with what the configuration changes or adds."""

from __future__ import annotations

from detransfer.console import InputError
from detransfer.data.catalog import Catalog, Dataset, load_catalog
from detransfer.data.miniature.recipe import RENDERED, WorldRecipe
from detransfer.data.readers import check_options
from detransfer.strict import load_file, suggest, validate
from detransfer.study import DatasetChange, Study, Target, Trained

# What a task learns from; a reader's options say for which one a data set is.
TRUTH = {
    "classification": "a class for each image",
    "detection": "boxes",
    "segmentation": "masks",
}


def study_datasets(study: Study) -> dict[str, Dataset]:
    """Return the data sets that the study's pre-trainings and targets use, by name.

    Raises InputError for a data set that neither the catalog nor the configuration describes, an
    unknown reader, archive, option or split, a change to a data set that nothing uses, a training
    on a data set that has no split for it, a task for which a data set has no truth, a split that
    is for training and for evaluation, and a world to render whose recipe is wrong or which lacks a
    data set.
    """
    catalog = load_catalog()
    used = {
        **{f"pretrainings.{name}.dataset": p.dataset for name, p in study.trained.items()},
        **{
            f"pretrainings.{name}.evaluated_on": p.evaluated_on
            for name, p in study.trained.items()
            if p.evaluated_on
        },
        **{f"targets.{name}.dataset": target.dataset for name, target in study.targets.items()},
        **{f"described.{name}": name for name in study.described},
    }
    known = {**catalog.datasets, **study.datasets}
    for place, name in used.items():
        if name not in known:
            raise InputError(f"{place}: there is no data set {name!r}{suggest(name, known)}")
    for name in study.datasets:
        if name not in used.values():
            hint = suggest(name, set(used.values()))
            raise InputError(f"datasets.{name}: nothing in the study uses it{hint}")
    found = {name: _dataset(catalog, study, name) for name in sorted(set(used.values()))}
    for name, target in study.targets.items():
        _check_target(f"targets.{name}", target, found[target.dataset])
    for name, trained in study.trained.items():
        _check_source(f"pretrainings.{name}", trained, found[trained.dataset])
    if study.render_world:
        _check_world(study, catalog, found)
    return found


def _check_target(place: str, target: Target, dataset: Dataset) -> None:
    _check_trainable(place, target.dataset, dataset)
    splits = (*dataset.train_splits, dataset.eval_split)
    _check_truth(f"{place}.task", target.task, target.dataset, dataset, splits)
    if dataset.eval_split in dataset.train_splits:
        raise InputError(_leak(place, target.dataset, dataset))


def _check_source(place: str, trained: Trained, dataset: Dataset) -> None:
    _check_trainable(place, trained.dataset, dataset)
    _check_truth(f"{place}.kind", trained.kind, trained.dataset, dataset, dataset.train_splits)
    # A data set with one split, such as imagenet_loc, leaves the evaluation to another.
    if dataset.eval_split in dataset.train_splits and len(dataset.train_splits) > 1:
        raise InputError(_leak(place, trained.dataset, dataset))


def _check_trainable(place: str, name: str, dataset: Dataset) -> None:
    if not dataset.train_splits:
        raise InputError(
            f"{place}.dataset: {name!r} has no split to train on; name some by `train_splits` of "
            f"datasets.{name}"
        )


def _check_truth(
    place: str, task: str, name: str, dataset: Dataset, splits: tuple[str, ...]
) -> None:
    """Raise InputError unless splits of a data set have what a task learns from."""
    options = check_options(dataset.reader, dataset.options)
    if options.provides != task:
        raise InputError(
            f"{place}: {task} needs {TRUTH[task]}, and the data set {name!r} (reader "
            f"{dataset.reader!r}) has {TRUTH[options.provides]}"
        )
    labelled = options.split_names()
    for split in splits:
        if labelled is not None and not labelled[split]:
            raise InputError(f"{place}: the split {split!r} of {name!r} has no {TRUTH[task]}")


def _leak(place: str, name: str, dataset: Dataset) -> str:
    return (
        f"{place}.dataset: {name!r} is trained on the split {dataset.eval_split!r} and would be "
        f"evaluated on it; change `train_splits` or `eval_split` of datasets.{name}"
    )


def _check_world(study: Study, catalog: Catalog, datasets: dict[str, Dataset]) -> None:
    """Raise InputError for a world that cannot be rendered, or not for all data sets."""
    load_file(study.world_recipe, WorldRecipe)
    rendered = {name for known in RENDERED for name in catalog.datasets[known].fetched}
    for name, dataset in datasets.items():
        for archive in dataset.fetched:
            if archive not in rendered:
                raise InputError(
                    f"render_world: the miniature world has no archive {archive!r}, which the data "
                    f"set {name!r} needs; leave it out, or give it another `folder`"
                )


def _dataset(catalog: Catalog, study: Study, name: str) -> Dataset:
    change = study.datasets.get(name, DatasetChange())
    base = catalog.datasets.get(name)
    content = base.model_dump() if base else {"options": {}}
    given = change.model_dump(exclude_none=True, exclude={"options"})
    if change.folder is not None and change.archives is None:
        given["archives"] = ()  # the folder takes the place of the catalog's archives
    if "occlusion" in change.model_fields_set:
        given["occlusion"] = change.occlusion  # null: without those of the catalog
    options = {**content["options"], **change.options}
    dataset = validate(Dataset, {**content, **given, "options": options}, f"datasets.{name}")
    for archive in dataset.archives:
        if archive not in catalog.archives:
            raise InputError(
                f"datasets.{name}.archives: unknown archive {archive!r}"
                f"{suggest(archive, catalog.archives)}"
            )
    if unknown := [archive for archive in dataset.fetched if archive not in catalog.archives]:
        raise InputError(
            f"datasets.{name}.occlusion: {unknown[0]} is neither an archive of the catalog nor a "
            "folder; give one of them, or null"
        )
    if dataset.folder is not None and not dataset.folder.is_dir():
        raise InputError(f"datasets.{name}.folder: there is no folder {dataset.folder}")
    known = check_options(dataset.reader, dataset.options).split_names()
    for split in (*dataset.train_splits, dataset.eval_split):
        if known is not None and split not in known:
            raise InputError(f"datasets.{name}: there is no split {split!r}{suggest(split, known)}")
    return dataset
