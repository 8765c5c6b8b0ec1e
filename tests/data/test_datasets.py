"""The data sets of a study: the catalog's with changes, new ones, and what is refused."""

from __future__ import annotations

import ast
import subprocess
import sys
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
    "options": {
        "classes": ["cat", "dog"],
        "sets": {"train": "VOC2007/train", "test": "VOC2007/test"},
    },
}
WORLD = Path(__file__).parents[2] / "config/recipes/demo/world.yaml"


def datasets(
    changes: dict[str, Any],
    target: str = "caltech256",
    source: str = "coco",
    task: str = "classification",
    kind: str = "detection",
    **more: Any,
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
            "boxes": {"kind": kind, "dataset": source, "start": "random"},
        },
        "targets": {"things": {"task": task, "dataset": target}},
        "datasets": changes,
        "resources": {"train": JOB, "predict": JOB, "data": JOB},
        **more,
    }
    return study_datasets(load_study(study, "small.yaml"))


def refusal(changes: dict[str, Any], **names: Any) -> str:
    with pytest.raises(InputError) as caught:
        datasets(changes, **names)
    return str(caught.value)


def test_an_unchanged_data_set_is_the_catalogs() -> None:
    catalog = load_catalog().datasets
    assert datasets({}) == {name: catalog[name] for name in ("caltech256", "coco")}


def test_occlusion_levels_come_from_the_catalog_a_folder_or_nowhere(tmp_path: Path) -> None:
    def voc(**change: str | None) -> Dataset:
        changes = {"voc_detection": change} if change else {}
        return datasets(changes, target="voc_detection", task="detection")["voc_detection"]

    archive = "detectionAnalysis_eccv12_v2.zip"
    assert voc().occlusion == archive and voc().fetched[-1] == archive
    given = voc(occlusion=str(tmp_path))
    assert given.occlusion == str(tmp_path) and given.fetched == given.archives
    assert voc(occlusion=None).occlusion is None
    assert voc(occlusion=None).fetched == voc().archives
    message = refusal(
        {"voc_detection": {"occlusion": "no.zip"}}, target="voc_detection", task="detection"
    )
    assert message.startswith("datasets.voc_detection.occlusion: no.zip is neither an archive")


def test_options_are_merged_key_by_key_and_null_is_a_value() -> None:
    catalog = load_catalog().datasets["caltech256"]
    changed = datasets({"caltech256": {"options": {"train_per_class": 7, "eval_total": None}}})
    assert changed["caltech256"].options == {"train_per_class": 7, "eval_total": None, "seed": 0}
    assert changed["caltech256"].archives == catalog.archives
    assert changed["caltech256"].train_splits == catalog.train_splits
    assert load_catalog().datasets["caltech256"] == catalog


def test_everything_else_that_is_given_replaces_the_catalogs() -> None:
    sets = {name: {"annotations": f"{name}.json", "images": name} for name in "abc"}
    change = {
        "archives": ["val2017.zip"],
        "train_splits": ["a", "b"],
        "eval_split": "c",
        "options": {"sets": sets},
    }
    changed = datasets({"coco": change})["coco"]
    assert changed.archives == ("val2017.zip",)
    assert (changed.train_splits, changed.eval_split) == (("a", "b"), "c")
    assert changed.reader == "coco"


def test_a_new_data_set_is_described_by_the_configuration_alone() -> None:
    found = datasets({"pets": NEW}, target="pets", task="detection")
    assert found["pets"] == Dataset.model_validate(NEW)
    assert set(found) == {"pets", "coco"}


def test_a_folder_takes_the_place_of_archives(tmp_path: Path) -> None:
    own = {key: value for key, value in NEW.items() if key != "archives"}
    pets = {"pets": {**own, "folder": str(tmp_path)}}
    found = datasets(pets, target="pets", task="detection")["pets"]
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
            {"voc_detection": {"eval_split": "voc2007_test"}},
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
        (
            {"coco": {"eval_split": "val2071"}},
            {},
            "datasets.coco: there is no split 'val2071'; did you mean 'val2017'?",
        ),
        (
            {"caltech256": {"train_splits": ["train", "trainval"]}},
            {},
            "datasets.caltech256: there is no split 'trainval'; did you mean 'train'?",
        ),
        (
            {},
            {"target": "coco"},
            "targets.things.task: classification needs a class for each image, and the data set "
            "'coco' (reader 'coco') has boxes",
        ),
        (
            {},
            {"task": "detection"},
            "targets.things.task: detection needs boxes, and the data set 'caltech256' (reader "
            "'caltech256') has a class for each image",
        ),
        (
            {},
            {"target": "voc_segmentation", "task": "detection"},
            "targets.things.task: detection needs boxes, and the data set 'voc_segmentation' "
            "(reader 'voc_segmentation') has masks",
        ),
        (
            {},
            {"source": "flowers102"},
            "pretrainings.boxes.kind: detection needs boxes, and the data set 'flowers102' (reader "
            "'flowers102') has a class for each image",
        ),
        (
            {},
            {"kind": "classification"},
            "pretrainings.boxes.kind: classification needs a class for each image, and the data "
            "set 'coco' (reader 'coco') has boxes",
        ),
        (
            {"flowers102": {"train_splits": ["train", "test"]}},
            {"target": "flowers102"},
            "targets.things.dataset: 'flowers102' is trained on the split 'test' and would be "
            "evaluated on it; change `train_splits` or `eval_split` of datasets.flowers102",
        ),
        (
            {},
            {"target": "imagenet_loc", "task": "detection"},
            "targets.things.dataset: 'imagenet_loc' is trained on the split 'train' and would be "
            "evaluated on it; change `train_splits` or `eval_split` of datasets.imagenet_loc",
        ),
        (
            {},
            {"source": "imagenet_det"},
            "pretrainings.boxes.dataset: 'imagenet_det' has no split to train on; name some by "
            "`train_splits` of datasets.imagenet_det",
        ),
        (
            {},
            {"target": "imagenet_det", "task": "detection"},
            "targets.things.dataset: 'imagenet_det' has no split to train on; name some by "
            "`train_splits` of datasets.imagenet_det",
        ),
        (
            {"coco": {"train_splits": ["train2017", "val2017"]}},
            {},
            "pretrainings.boxes.dataset: 'coco' is trained on the split 'val2017' and would be "
            "evaluated on it; change `train_splits` or `eval_split` of datasets.coco",
        ),
        (
            {},
            {"described": ["voc_detectoin"]},
            "described.voc_detectoin: there is no data set 'voc_detectoin'; "
            "did you mean 'voc_detection'?",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    changes: dict[str, Any], names: dict[str, str], message: str
) -> None:
    assert refusal(changes, **names) == message


def test_a_split_without_truth_is_neither_trained_nor_evaluated_on() -> None:
    sets = {
        name: {"annotations": f"{name}.json", "images": name, "labelled": name != "hidden"}
        for name in ("train", "val", "hidden")
    }
    change = {"train_splits": ["train", "val"], "eval_split": "hidden", "options": {"sets": sets}}
    # A pre-training is not evaluated there: train on all, as for COCO's test server.
    assert datasets({"coco": change})["coco"].eval_split == "hidden"
    line = refusal({"coco": change}, target="coco", task="detection")
    assert line == "targets.things.task: the split 'hidden' of 'coco' has no boxes"
    change = {**change, "train_splits": ["hidden"], "eval_split": "val"}
    line = refusal({"coco": change})
    assert line == "pretrainings.boxes.kind: the split 'hidden' of 'coco' has no boxes"


def test_a_source_of_one_split_is_evaluated_on_another_data_set() -> None:
    assert datasets({}, source="imagenet_loc")["imagenet_loc"].eval_split == "train"


def test_folders_of_ones_own_tell_their_splits_later(tmp_path: Path) -> None:
    birds = {
        "reader": "image_folder",
        "folder": str(tmp_path),
        "train_splits": ["seen"],
        "eval_split": "unseen",
    }
    assert datasets({"birds": birds}, target="birds")["birds"].eval_split == "unseen"
    named = {**birds, "options": {"splits": ["seen", "hidden"]}}
    line = refusal({"birds": named}, target="birds")
    assert line == "datasets.birds: there is no split 'unseen'; did you mean 'seen'?"


def test_a_world_is_checked_before_it_is_rendered(tmp_path: Path) -> None:
    world = {"render_world": True, "mirror": "world", "recipes": str(tmp_path)}
    path = tmp_path / "small" / "world.yaml"
    assert refusal({}, **world) == f"{path}: there is no such file; write one or correct its name"
    path.parent.mkdir()
    path.write_text(WORLD.read_text())
    assert set(datasets({}, **world)) == {"caltech256", "coco"}
    for old, new, message in (
        ("image_size: 128", "image_sice: 128", "unknown key 'image_sice'; did you mean"),
        ("contrast: 1.0", "contrast: 2", "contrast: Input should be less than or equal to 1"),
        (
            "rotation: 20",
            "rotation: 20\ndistinction: part_only",
            "key 'distinction' stands there twice",
        ),
        ("classes: 20  ", "classes: 37  ", "openimages.classes is 37, but a body_and_part world"),
    ):
        path.write_text(WORLD.read_text().replace(old, new, 1))
        assert message in refusal({}, **world)
    path.write_text(WORLD.read_text())
    line = refusal({}, source="coco2014", **world)
    assert line.startswith(
        "render_world: the miniature world has no archive 'train2014.zip', which the data set "
        "'coco2014' needs"
    )
    own = {"coco2014": {"folder": str(tmp_path)}}
    assert datasets(own, source="coco2014", **world)["coco2014"].folder == tmp_path


def test_a_study_is_checked_without_what_reads_or_renders_it(repository: Path) -> None:
    """Every plan begins with this check; what it imports is waited for each time."""
    program = """
import sys, yaml
from pathlib import Path
from detransfer.data.datasets import study_datasets
from detransfer.data.formats import READERS
from detransfer.data.readers import check_options
from detransfer.recipes.loading import load_recipes
from detransfer.study import load_study
for name in ("config", "demo"):
    study = load_study(yaml.safe_load(Path(f"config/{name}.yaml").read_text()), name)
    study_datasets(study)
    load_recipes(study)
for reader in READERS:
    check_options(reader, {})
print(sorted({name.partition(".")[0] for name in sys.modules}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=repository,
        env={"PYTHONPATH": str(repository / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(ast.literal_eval(done.stdout))
    heavy = {"torch", "torchvision", "timm", "numpy", "pandas", "pyarrow", "scipy", "cv2", "PIL"}
    assert "pydantic" in loaded and loaded & heavy == set()


@pytest.mark.parametrize("name", ["config", "demo", "sample"])
def test_the_studies_of_the_repository_name_archives_and_readers_that_exist(
    repository: Path, name: str
) -> None:
    content = yaml.safe_load((repository / "config" / f"{name}.yaml").read_text())
    study = load_study(content, name)
    used = {target.dataset for target in study.targets.values()}
    used |= {pretraining.dataset for pretraining in study.trained.values()}
    assert set(study_datasets(study)) == used | set(study.described)
