from __future__ import annotations

import importlib.metadata
import json
from dataclasses import replace
from pathlib import Path

import pytest

from detransfer.console import InputError
from detransfer.report.metrics import (
    Metric,
    RunMetrics,
    RunName,
    check_comparable,
    provenance,
    read_metrics,
    runs_in,
    write_metrics,
)

RUN = RunMetrics(
    run=RunName("classification", "flowers", "flowers102", "coco", 2),
    metrics=(Metric("top1", 91.25, "%", 6149, 3.9, 100.0), Metric("seconds", 12.0, "s", 6149)),
    fit={"losses": {"loss_class": 0.25}, "training_score": 99.5},
    comparability={"evaluation_split": "test", "recipe": "abc", "image_size": 224},
    provenance={"model_digest": "def", "start_digest": None},
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.json"
    write_metrics(path, RUN)
    assert read_metrics(path) == RUN
    content = json.loads(path.read_text())
    assert content["run"] == {
        "task": "classification",
        "target": "flowers",
        "dataset": "flowers102",
        "pretraining": "coco",
        "seed": 2,
    }
    assert content["metrics"][1] == {
        "name": "seconds",
        "value": 12.0,
        "unit": "s",
        "n": 6149,
        "floor": None,
        "ceiling": None,
    }


def test_a_metric_is_found_by_name() -> None:
    assert RUN.metric("top1").value == 91.25
    with pytest.raises(InputError, match=r"coco/seed2: no metric 'mAP@0\.5'.*known: top1, seconds"):
        RUN.metric("mAP@0.5")


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ((Metric("top1", float("nan"), "%", 3),), r"metrics\.0\.value: .*finite"),
        ((Metric("top1", float("inf"), "%", 3),), r"metrics\.0\.value: .*finite"),
        ((Metric("a", 1.0, "%", 3), Metric("a", 2.0, "%", 3)), "'a' stands there twice"),
    ],
)
def test_what_could_not_be_read_is_not_written(
    tmp_path: Path, metrics: tuple[Metric, ...], message: str
) -> None:
    path = tmp_path / "metrics.json"
    with pytest.raises(InputError, match=message):
        write_metrics(path, replace(RUN, metrics=metrics))
    assert not path.exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("run", {"task": "detection"}, r"metrics\.json: run\.target: Field required"),
        ("metrics", [{"name": "top1"}], r"metrics\.0\.value: Field required"),
        ("metricks", [], "metricks: Unexpected"),
        ("comparability", {"recipe": [1]}, "comparability.recipe"),
    ],
)
def test_a_file_of_another_form_is_refused(
    tmp_path: Path, key: str, value: object, message: str
) -> None:
    path = tmp_path / "metrics.json"
    write_metrics(path, RUN)
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(InputError, match=message):
        read_metrics(path)


def test_a_file_that_is_no_json_or_absent_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    with pytest.raises(InputError, match=r"metrics\.json: not a readable metrics file"):
        read_metrics(path)
    path.write_text('{"run": ')
    with pytest.raises(InputError, match=r"metrics\.json: Invalid JSON"):
        read_metrics(path)


def test_seed_hardware_and_pretraining_do_not_hinder_a_comparison() -> None:
    other = replace(
        RUN,
        run=RunName("classification", "flowers", "flowers102", "random", 0),
        fit={},
        provenance={"device": "NVIDIA H200"},
    )
    check_comparable([RUN, other])
    check_comparable([])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": "xyz"}, r"differ in recipe \(abc against xyz\)"),
        ({"image_size": 256}, r"differ in image_size \(224 against 256\)"),
        ({"inference": "one scale"}, r"differ in inference \(absent against one scale\)"),
    ],
)
def test_runs_that_were_not_measured_alike_are_named(
    changes: dict[str, str | int], message: str
) -> None:
    other = replace(
        RUN,
        run=RunName("classification", "flowers", "flowers102", "openimages", 1),
        comparability={**RUN.comparability, **changes},
    )
    names = "classification/flowers/coco/seed2 and classification/flowers/openimages/seed1"
    with pytest.raises(InputError, match=f"{names} cannot stand in one table: .*{message}"):
        check_comparable([RUN, RUN, other])


def test_provenance_says_what_a_number_comes_from(tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"abc")
    header = {"recipe_digest": "r", "data_digest": "d", "code_digest": "c", "classes": ["a"]}
    found = provenance(model, header, "e", "cpu")
    # The SHA-256 of "abc" is an example of FIPS 180-2.
    assert found["model_digest"] == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
    assert (found["recipe_digest"], found["start_digest"]) == ("r", None)
    assert (found["code_digest"], found["evaluation_code_digest"]) == ("c", "e")
    assert found["torch"] == importlib.metadata.version("torch")
    assert "classes" not in found


def write_runs(folder: Path, *names: RunName, recipe: str = "abc") -> list[Path]:
    folders = []
    for name in names:
        run = replace(RUN, run=name, comparability={**RUN.comparability, "recipe": recipe})
        folders.append(folder / recipe / str(name))
        write_metrics(folders[-1] / "metrics.json", run)
    return folders


def test_runs_are_found_by_target_pretraining_and_seed(tmp_path: Path) -> None:
    names = [
        RunName("classification", target, dataset, pretraining, seed)
        for target, dataset in (("flowers", "flowers102"), ("birds", "my_birds"))
        for pretraining in ("coco", "random")
        for seed in (1, 0)
    ]
    folders = write_runs(tmp_path, *names)
    found, datasets = runs_in(folders)
    assert datasets == {"flowers": "flowers102", "birds": "my_birds"}
    assert list(found) == ["flowers", "birds"] and list(found["birds"]) == ["coco", "random"]
    assert found["birds"]["random"] == {1: folders[6], 0: folders[7]}


def test_runs_in_folders_belong_together(tmp_path: Path) -> None:
    name = RunName("classification", "flowers", "flowers102", "coco", 0)
    folders = write_runs(tmp_path, name, replace(name, pretraining="random"))
    with pytest.raises(InputError, match="flowers/coco/seed0: this run is given twice"):
        runs_in([*folders, folders[0]])
    other = write_runs(tmp_path, replace(name, seed=1), recipe="xyz")
    with pytest.raises(InputError, match=r"differ in recipe \(abc against xyz\)"):
        runs_in([*folders, *other])
    # Other targets may be learnt by other recipes.
    runs_in([*folders, *write_runs(tmp_path, replace(name, target="again"), recipe="xyz")])
    with pytest.raises(InputError, match=r"not a readable metrics file"):
        runs_in([tmp_path])
