"""The data sets of a study: the catalog's with changes, new ones, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from detransfer.console import InputError
from detransfer.data.catalog import Dataset, load_catalog
from detransfer.data.datasets import study_datasets
from detransfer.study import load_study

JOB = {"gpu": 0, "threads": 1, "mem_mb": 1000, "runtime": 10}
NEW = {
    "reader": "voc",
    "archives": ["VOCtest_06-Nov-2007.tar"],
    "train_splits": ["train"],
    "eval_split": "test",
    "options": {"classes": ["cat", "dog"]},
}


def datasets(
    changes: dict[str, Any], target: str = "caltech256", source: str = "coco"
) -> dict[str, Dataset]:
    """Return the data sets of a study with one target and one trained pre-training."""
    study = {
        "study": "small",
        "results": "results",
        "data": "data",
        "state": "state",
        "seeds": [0],
        "backbone": {"name": "resnet18"},
        "pretrainings": {
            "random": {"kind": "untrained"},
            "boxes": {"kind": "detection", "dataset": source, "start": "random"},
        },
        "targets": {"things": {"task": "classification", "dataset": target}},
        "datasets": changes,
        "resources": {"train": JOB, "predict": JOB, "data": JOB},
    }
    return study_datasets(load_study(study, "small.yaml"))


def refusal(changes: dict[str, Any], **names: str) -> str:
    with pytest.raises(InputError) as caught:
        datasets(changes, **names)
    return str(caught.value)


def test_an_unchanged_data_set_is_the_catalogs() -> None:
    catalog = load_catalog().datasets
    assert datasets({}) == {name: catalog[name] for name in ("caltech256", "coco")}


def test_occlusion_levels_come_from_the_catalog_a_folder_or_nowhere(tmp_path: Path) -> None:
    def voc(**change: str | None) -> Dataset:
        changes = {"voc_detection": change} if change else {}
        return datasets(changes, target="voc_detection")["voc_detection"]

    archive = "detectionAnalysis_eccv12_v2.zip"
    assert voc().occlusion == archive and voc().fetched[-1] == archive
    given = voc(occlusion=str(tmp_path))
    assert given.occlusion == str(tmp_path) and given.fetched == given.archives
    assert voc(occlusion=None).occlusion is None
    assert voc(occlusion=None).fetched == voc().archives
    message = refusal({"voc_detection": {"occlusion": "no.zip"}}, target="voc_detection")
    assert message.startswith("datasets.voc_detection.occlusion: no.zip is neither an archive")


def test_options_are_merged_key_by_key_and_null_is_a_value() -> None:
    catalog = load_catalog().datasets["caltech256"]
    changed = datasets({"caltech256": {"options": {"train_per_class": 7, "eval_total": None}}})
    assert changed["caltech256"].options == {"train_per_class": 7, "eval_total": None, "seed": 0}
    assert changed["caltech256"].archives == catalog.archives
    assert changed["caltech256"].train_splits == catalog.train_splits
    assert load_catalog().datasets["caltech256"] == catalog


def test_everything_else_that_is_given_replaces_the_catalogs() -> None:
    change = {"archives": ["val2017.zip"], "train_splits": ["a", "b"], "eval_split": "c"}
    changed = datasets({"coco": change})["coco"]
    assert changed.archives == ("val2017.zip",)
    assert (changed.train_splits, changed.eval_split) == (("a", "b"), "c")
    assert changed.reader == "coco"


def test_a_new_data_set_is_described_by_the_configuration_alone() -> None:
    found = datasets({"pets": NEW}, target="pets")
    assert found["pets"] == Dataset.model_validate(NEW)
    assert set(found) == {"pets", "coco"}


def test_a_folder_takes_the_place_of_archives(tmp_path: Path) -> None:
    own = {key: value for key, value in NEW.items() if key != "archives"}
    found = datasets({"pets": {**own, "folder": str(tmp_path)}}, target="pets")["pets"]
    assert (found.folder, found.archives) == (tmp_path, ())
    changed = datasets({"coco": {"folder": str(tmp_path)}})["coco"]
    assert (changed.folder, changed.archives, changed.reader) == (tmp_path, (), "coco")
    either = "datasets.pets: give either `archives` or the `folder` of an extracted data set"
    assert refusal({"pets": {**NEW, "folder": str(tmp_path)}}, target="pets") == either
    assert refusal({"pets": own}, target="pets") == either
    missing = {"pets": {**own, "folder": str(tmp_path / "x")}}
    assert (
        refusal(missing, target="pets")
        == f"datasets.pets.folder: there is no folder {tmp_path / 'x'}"
    )


@pytest.mark.parametrize("key", ["reader", "train_splits", "eval_split"])
def test_a_new_data_set_needs_every_key(key: str) -> None:
    part = {name: value for name, value in NEW.items() if name != key}
    assert refusal({"pets": part}, target="pets") == f"datasets.pets: key '{key}' is missing"


@pytest.mark.parametrize(
    ("changes", "names", "message"),
    [
        (
            {},
            {"target": "caltech265"},
            "targets.things.dataset: there is no data set 'caltech265'; did you mean 'caltech256'?",
        ),
        (
            {},
            {"source": "cocoa"},
            "pretrainings.boxes.dataset: there is no data set 'cocoa'; did you mean 'coco'?",
        ),
        (
            {"voc_detection": {"eval_split": "test"}},
            {},
            "datasets.voc_detection: nothing in the study uses it; known: caltech256, coco",
        ),
        (
            {"cocoa": NEW},
            {},
            "datasets.cocoa: nothing in the study uses it; did you mean 'coco'?",
        ),
        (
            {"pets": {**NEW, "reader": "vok"}},
            {"target": "pets"},
            "datasets.pets: unknown reader 'vok'; did you mean 'voc'?",
        ),
        (
            {"coco": {"archives": ["val2016.zip"]}},
            {},
            "datasets.coco.archives: unknown archive 'val2016.zip'; did you mean 'val2017.zip'?",
        ),
        (
            {"caltech256": {"options": {"train_per_klass": 3}}},
            {},
            "options of reader 'caltech256': unknown key 'train_per_klass'; "
            "did you mean 'train_per_class'?",
        ),
        (
            {"caltech256": {"options": {"train_per_class": 0}}},
            {},
            "options of reader 'caltech256': train_per_class: Input should be greater than 0 "
            "(got 0)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    changes: dict[str, Any], names: dict[str, str], message: str
) -> None:
    assert refusal(changes, **names) == message


@pytest.mark.parametrize("name", ["config", "demo", "sample"])
def test_the_studies_of_the_repository_name_archives_and_readers_that_exist(
    repository: Path, name: str
) -> None:
    content = yaml.safe_load((repository / "config" / f"{name}.yaml").read_text())
    study = load_study(content, name)
    used = {target.dataset for target in study.targets.values()}
    used |= {pretraining.dataset for pretraining in study.trained.values()}
    assert set(study_datasets(study)) == used | set(study.described)
