"""The data sets of a study: the catalog's, with what the configuration changes or adds."""

from __future__ import annotations

from detransfer.console import InputError
from detransfer.data.catalog import Catalog, Dataset, load_catalog
from detransfer.data.readers import check_options
from detransfer.study import DatasetChange, Study, suggest, validate


def study_datasets(study: Study) -> dict[str, Dataset]:
    """Return the data sets that the study's pre-trainings and targets use, by name.

    Raises InputError for a data set that neither the catalog nor the configuration describes, an
    unknown reader, archive or option, and a change to a data set that nothing uses.
    """
    catalog = load_catalog()
    used = {
        **{f"pretrainings.{name}.dataset": p.dataset for name, p in study.trained.items()},
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
    return {name: _dataset(catalog, study, name) for name in sorted(set(used.values()))}


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
    check_options(dataset.reader, dataset.options)
    return dataset
