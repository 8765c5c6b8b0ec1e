from __future__ import annotations

import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from detransfer.console import InputError
from detransfer.strict import suggest
from detransfer.study import Trained, check_files, load_study

SHA = "0" * 64
SHELL = "the commands of the workflow cannot hold a blank, a quote, ~ or another sign of the shell"
JOB = {"gpu": 1, "threads": 2, "mem_mb": 4000, "runtime": 60}
STUDY: dict[str, Any] = {
    "study": "demo",
    "results": "results",
    "data": "data",
    "state": "state",
    "seeds": [0, 1, 2],
    "backbone": {"name": "resnet18"},
    "pretrainings": {
        "random": {"kind": "untrained"},
        "imagenet_cls": {"kind": "imported", "timm": "resnet18.tv_in1k"},
        "coco": {"kind": "detection", "dataset": "coco", "start": "imagenet_cls"},
        "coco_images": {"kind": "classification", "dataset": "coco", "start": "imagenet_cls"},
        "coco_labels": {"kind": "matched", "of": "coco"},
    },
    "targets": {
        "voc_detection": {"task": "detection", "dataset": "voc"},
        "caltech256": {"task": "classification", "dataset": "caltech256"},
    },
    "datasets": {"voc": {"train_splits": ["train"]}},
    "resources": {"train": JOB, "predict": dict(JOB), "data": dict(JOB)},
}


def changed(place: str, value: Any) -> dict[str, Any]:
    """Return the valid study with one value set; ... takes the key away."""
    study = deepcopy(STUDY)
    *steps, last = place.split(".")
    section = study
    for step in steps:
        section = section[step]
    if value is ...:
        del section[last]
    else:
        section[last] = value
    return study


def refusal(content: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        load_study(content, "config/demo.yaml")
    return str(caught.value)


def test_a_valid_study_is_read() -> None:
    study = load_study(STUDY, "config/demo.yaml")
    assert list(study.trained) == ["coco", "coco_images"]
    assert list(study.matched) == ["coco_labels"]
    assert isinstance(study.pretrainings["coco"], Trained)
    assert list(study.targets_of("detection")) == ["voc_detection"]
    assert study.recipe("pretrain_coco") == Path("config/recipes/demo/pretrain_coco.yaml")
    with pytest.raises(ValueError, match="frozen"):
        study.seeds = (1,)  # type: ignore[misc]


def test_a_matched_pretraining_is_trained_on_what_it_repeats() -> None:
    study = load_study(STUDY, "config/demo.yaml")
    assert study.source("coco_labels") is study.source("coco") is study.pretrainings["coco"]


def test_a_target_is_fine_tuned_from_all_pretrainings_or_those_it_names() -> None:
    study = load_study(changed("targets.caltech256.pretrainings", ["coco", "random"]), "x")
    assert study.fine_tuned("caltech256") == ("coco", "random")
    assert study.fine_tuned("voc_detection") == tuple(STUDY["pretrainings"])


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (
            "pretrainings.coco_labels.of",
            "imagenet_cls",
            "pretrainings.coco_labels.of: 'imagenet_cls' is no detection pre-training that the "
            "study trains; known: coco",
        ),
        (
            "pretrainings.coco_labels.of",
            "coco_images",
            "'coco_images' is no detection pre-training",
        ),
        (
            "pretrainings.coco_labels.of",
            "cocoo",
            "pretrainings.coco_labels.of: there is no pre-training 'cocoo'; did you mean 'coco'?",
        ),
        (
            "pretrainings.coco.start",
            "coco_labels",
            "starts from itself (coco <- coco_labels <- coco)",
        ),
        (
            "targets.caltech256.pretrainings",
            ["coco", "cocos"],
            "targets.caltech256.pretrainings: there is no pre-training 'cocos'; did you mean",
        ),
        ("targets.caltech256.pretrainings", [], "targets.caltech256.pretrainings: Tuple should"),
        (
            "targets.caltech256.pretrainings",
            ["coco", "coco"],
            "targets.caltech256.pretrainings: coco stands there twice",
        ),
        (
            "targets.coco",
            {"task": "detection", "dataset": "coco"},
            "targets.coco: a pre-training is called so too; rename one",
        ),
    ],
)
def test_controls_and_choices_are_checked(place: str, value: Any, message: str) -> None:
    assert message in refusal(changed(place, value))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("reslts", "x", "unknown key 'reslts'; did you mean 'results'?"),
        ("backbone.nmae", "x", "unknown key 'backbone.nmae'; did you mean 'name'?"),
        (
            "pretrainings.coco.datset",
            "x",
            "unknown key 'pretrainings.coco.datset'; did you mean 'dataset'?",
        ),
        (
            "pretrainings.imagenet_cls.tim",
            "x",
            "unknown key 'pretrainings.imagenet_cls.tim'; did you mean 'timm'?",
        ),
        (
            "resources.train.gpus",
            8,
            "unknown key 'resources.train.gpus'; did you mean 'gpu'?",
        ),
        (
            "resources.trian",
            JOB,
            "unknown key 'resources.trian'; did you mean 'train'?",
        ),
        (
            "datasets.voc.train_split",
            ["x"],
            "unknown key 'datasets.voc.train_split'; did you mean 'train_splits'?",
        ),
        (
            "targets.voc_detection.xyz",
            1,
            "unknown key 'targets.voc_detection.xyz'; known: dataset, pretrainings, task",
        ),
        ("seeds", ..., "key 'seeds' is missing"),
        ("resources.data", ..., "key 'resources.data' is missing"),
        ("pretrainings.coco.start", ..., "key 'pretrainings.coco.start' is missing"),
        ("pretrainings.coco.kind", ..., "key 'pretrainings.coco.kind' is missing"),
        (
            "pretrainings.coco.kind",
            "detect",
            "pretrainings.coco: Input tag 'detect' found using 'kind' does not match any of the "
            "expected tags: 'untrained', 'imported', 'classification', 'detection'",
        ),
        ("backbone", "resnet18", "backbone: Input should be a valid dictionary"),
        ("seeds", 3, "seeds: Input should be a valid tuple (got 3)"),
        ("seeds", [0, "x"], "seeds.1: Input should be a valid integer"),
        ("seeds", [], "seeds: Tuple should have at least 1 item"),
        ("seeds", [0, -1], "seeds.1: Input should be greater than or equal to 0 (got -1)"),
        ("seeds", [0, 1, 0], "seeds: 0 stands there twice"),
        ("described", ["voc", "coco", "voc"], "described: voc stands there twice"),
        ("results", "my results", f"results: {SHELL}"),
        ("data", "~/data", f"data: {SHELL}"),
        ("mirror", "https://example.org/a&b", f"mirror: {SHELL}"),
        ("backbone.file", "of 'mine'.py", f"backbone.file: {SHELL}"),
        ("datasets.voc.folder", "my birds", f"datasets.voc.folder: {SHELL}"),
        ("datasets.voc.train_splits", ["a", "b c"], f"datasets.voc.train_splits.1: {SHELL}"),
        ("datasets.index", {}, "datasets.index: `data` has a folder of that name for all sets"),
        (
            "resources.predict.threads",
            0,
            "resources.predict.threads: Input should be greater than or equal to 1 (got 0)",
        ),
        (
            "pretrainings.coco.seed",
            -1,
            "pretrainings.coco.seed: Input should be greater than or equal to 0 (got -1)",
        ),
        (
            "targets.caltech256.task",
            "captioning",
            "targets.caltech256.task: Input should be 'detection', 'classification' or",
        ),
        ("pretrainings.Coco", {"kind": "untrained"}, "pretrainings.Coco"),
        (
            "pretrainings.coco.start",
            "imagenet_clas",
            "pretrainings.coco.start: there is no pre-training 'imagenet_clas'; "
            "did you mean 'imagenet_cls'?",
        ),
        (
            "pretrainings.coco.start",
            "coco",
            "pretrainings.coco: starts from itself (coco <- coco)",
        ),
        (
            "pretrainings.imagenet_cls",
            {"kind": "detection", "dataset": "x", "start": "coco_images"},
            "pretrainings.imagenet_cls: starts from itself "
            "(imagenet_cls <- coco_images <- imagenet_cls)",
        ),
        (
            "pretrainings.imagenet_cls.file",
            "x.pth",
            "pretrainings.imagenet_cls: give exactly one of `file`, `url` and `timm`",
        ),
        (
            "pretrainings.imagenet_cls.timm",
            ...,
            "pretrainings.imagenet_cls: give exactly one of `file`, `url` and `timm`",
        ),
        (
            "pretrainings.imagenet_cls",
            {"kind": "imported", "url": "https://example.org/x.pth"},
            "pretrainings.imagenet_cls: `url` and `sha256` come together",
        ),
        (
            "pretrainings.imagenet_cls.timm",
            "resnet18",
            "pretrainings.imagenet_cls: timm: give the full tag, such as resnet101.tv_in1k",
        ),
        (
            "pretrainings.imagenet_cls.sha256",
            SHA,
            "pretrainings.imagenet_cls: `url` and `sha256` come together",
        ),
        (
            "pretrainings.imagenet_cls",
            {"kind": "imported", "url": "https://example.org/x.pth", "sha256": "abc"},
            "pretrainings.imagenet_cls.sha256: String should match pattern",
        ),
        (
            "pretrainings.imagenet_cls.prefix",
            "backbone.",
            "pretrainings.imagenet_cls: `prefix` is for a `file` or `url`",
        ),
        (
            "pretrainings.imagenet_cls.start",
            "randon",
            "pretrainings.imagenet_cls.start: there is no pre-training 'randon'; did you mean",
        ),
        ("render_world", True, "render_world: needs `mirror` to be a folder"),
    ],
)
def test_one_fault_is_one_line_with_file_and_key(place: str, value: Any, message: str) -> None:
    line = refusal(changed(place, value))
    assert line.startswith(f"config/demo.yaml: {message}")
    assert "\n" not in line


def test_a_circle_is_named_without_what_leads_into_it() -> None:
    study = changed("pretrainings.before", {"kind": "detection", "dataset": "x", "start": "coco"})
    study["pretrainings"] = {"before": study["pretrainings"].pop("before"), **study["pretrainings"]}
    study["pretrainings"]["coco"]["start"] = "coco_images"
    study["pretrainings"]["coco_images"]["start"] = "coco"
    expected = "pretrainings.coco: starts from itself (coco <- coco_images <- coco)"
    assert refusal(study) == f"config/demo.yaml: {expected}"


def test_an_imported_detector_is_compared_with_its_start() -> None:
    assert load_study(STUDY, "x").contrasts == {"coco": "imagenet_cls"}
    mine = {"kind": "imported", "file": "mine.pth", "prefix": "backbone.", "start": "imagenet_cls"}
    study = load_study(changed("pretrainings.mine", mine), "x")
    assert study.contrasts == {"coco": "imagenet_cls", "mine": "imagenet_cls"}
    assert "mine" not in study.detectors


def test_twins_have_the_data_and_the_start_of_each_other() -> None:
    again = {"kind": "detection", "dataset": "coco", "start": "imagenet_cls", "seed": 1}
    study = changed("pretrainings.again", again)
    assert load_study(STUDY, "x").twins == {}
    assert load_study(study, "x").twins == {"coco": "again", "again": "coco"}
    study["pretrainings"]["third"] = {**again, "seed": 2}
    study["pretrainings"]["other_start"] = {**again, "start": "random"}
    study["pretrainings"]["other_data"] = {**again, "dataset": "openimages"}
    assert load_study(study, "x").twins == {"coco": "again", "again": "third", "third": "coco"}


def test_a_world_is_rendered_into_a_folder_only() -> None:
    study = changed("render_world", True)
    assert load_study({**study, "mirror": "world"}, "x").render_world
    assert "render_world" in refusal({**study, "mirror": "https://example.org/world"})


def test_files_that_are_not_there_are_named_by_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = changed("pretrainings.mine", {"kind": "imported", "file": "weights/mine.pth"})
    study["pretrainings"]["empty"] = {"kind": "imported", "file": ""}
    study["backbone"]["file"] = "models/mine.py"
    study["checksums"] = "SHA256SUMS"
    study["mirror"] = "world"
    with pytest.raises(InputError) as caught:
        check_files(load_study(study, "x"))
    seen = f"(seen from {tmp_path})"
    absent = [
        f"backbone.file: there is no file models/mine.py {seen}",
        f"pretrainings.mine.file: there is no file weights/mine.pth {seen}",
        f"pretrainings.empty.file: there is no file . {seen}",
        f"checksums: there is no file SHA256SUMS {seen}",
        f"mirror: there is no folder world {seen}",
    ]
    assert str(caught.value).splitlines() == absent
    del study["pretrainings"]["empty"]
    for name in ("weights/mine.pth", "models/mine.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    check_files(load_study({**study, "render_world": True}, "x"))  # the world brings its own
    (tmp_path / "world").mkdir()
    with pytest.raises(InputError, match=r"^checksums: there is no file SHA256SUMS.*$"):
        check_files(load_study(study, "x"))
    del study["checksums"]
    for url in ("https://example.org/archives", "file:///nowhere", None):
        check_files(load_study({**study, "mirror": url}, "x"))


def test_every_fault_is_named_at_once() -> None:
    study = changed("reslts", "x")
    del study["seeds"]
    study["resources"]["train"] = {"gpus": 1}
    lines = refusal(study).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("config/demo.yaml: ") for line in lines)


def test_names_far_from_all_known_ones_are_answered_with_all() -> None:
    assert suggest("zzz", ["b", "a"]) == "; known: a, b"
    assert suggest("resnet81", {"resnet18": 1, "vgg": 2}) == "; did you mean 'resnet18'?"


@pytest.mark.parametrize("module", ["detransfer.study", "detransfer.recipes.loading"])
def test_the_snakefile_loads_neither_torch_nor_pandas(repository: Path, module: str) -> None:
    heavy = ("torch", "torchvision", "timm", "pandas", "numpy", "sklearn", "matplotlib")
    program = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(repository / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
