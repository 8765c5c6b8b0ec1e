"""Wrong configurations, as a user sees them: one message, no traceback, and nothing is started."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.workflow.checkout import Checkout, Result

pytestmark = pytest.mark.workflow


def refused(checkout: Checkout, *words: str) -> Result:
    """Run Snakemake in earnest: a configuration that is not refused would start a job."""
    result = checkout.snakemake("--cores", "1", *words)
    assert result.code == 1, result.output
    assert "Traceback" not in result.output
    assert "Select jobs to execute" not in result.output, "a job was started"
    return result


def configuration(checkout: Checkout, folder: Path, changes: dict[str, Any]) -> list[str]:
    """Return the words for the demo's configuration, changed; by dotted places."""
    content = yaml.safe_load((checkout.folder / "config" / "demo.yaml").read_text())
    for place, value in changes.items():
        *steps, last = place.split(".")
        section = content
        for step in steps:
            section = section.setdefault(step, {})
        section[last] = value
    file = folder / "changed.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return ["--configfile", str(file)]


def test_an_unknown_key_is_one_message_with_the_closest_known_one(checkout: Checkout) -> None:
    result = refused(checkout, "--config", "sedes=[3]")
    lines = result.output.splitlines()
    place = next(i for i, line in enumerate(lines) if line.startswith("WorkflowError"))
    assert lines[place + 1] == "configuration: unknown key 'sedes'; did you mean 'seeds'?"
    # Snakemake names the place in the workflow under it; no call stack.
    assert len([line for line in lines if line.startswith("  File ")]) <= 1


def test_every_fault_of_the_configuration_is_named_at_once(
    checkout: Checkout, tmp_path: Path
) -> None:
    changes = {
        "pretrainings.coco.strat": "random",
        "targets.voc_detection.task": "detecting",
        "resources.train.threads": 0,
    }
    output = refused(checkout, *configuration(checkout, tmp_path, changes)).output
    assert "unknown key 'pretrainings.coco.strat'; did you mean 'start'?" in output
    tasks = "'detection', 'classification' or 'segmentation'"
    assert f"targets.voc_detection.task: Input should be {tasks}" in output
    assert "resources.train.threads: Input should be greater than or equal to 1" in output


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"targets.voc_detection.dataset": "voc_detect"},
            "targets.voc_detection.dataset: there is no data set 'voc_detect'; "
            "did you mean 'voc_detection'?",
            id="unknown data set",
        ),
        pytest.param(
            {"targets.more": {"task": "classification", "dataset": "caltech256"}},
            "config/recipes/demo/finetune_more.yaml: there is no such file; write one or correct "
            "its name",
            id="missing recipe",
        ),
        pytest.param(
            {"targets.caltech256.task": "detection"},
            "targets.caltech256.task: detection needs boxes, and the data set 'caltech256' (reader "
            "'caltech256') has a class for each image",
            id="task without truth",
        ),
        pytest.param(
            {"datasets.voc_detection.eval_split": "voc2012_trainval"},
            "targets.voc_detection.dataset: 'voc_detection' is trained on the split "
            "'voc2012_trainval' and would be evaluated on it; change `train_splits` or "
            "`eval_split` of datasets.voc_detection",
            id="leak",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    checkout: Checkout, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    output = refused(checkout, *configuration(checkout, tmp_path, changes)).output
    assert f"\n{message}\n" in output


@pytest.fixture
def recipes(checkout: Checkout, tmp_path: Path) -> Path:
    """The demo's recipes, free to be changed."""
    shutil.copytree(checkout.folder / "config/recipes/demo", tmp_path / "recipes/demo")
    return tmp_path / "recipes" / "demo"


@pytest.mark.parametrize(
    ("stage", "old", "new", "message"),
    [
        (
            "finetune_voc_detection",
            "positive_share:",
            "positive_shear:",
            "unknown key 'head.positive_shear'; did you mean 'positive_share'?",
        ),
        (
            "evaluate_voc_detection",
            "[0.1, 0.2, 0.3, ",
            "[",
            "metric.ious: Table 2 and Figure 1 show the overlaps 0.1, 0.2, ..., 0.9; add 0.1, 0.2",
        ),
        ("visualization", "mask: 26 ", "mask: 96 ", "mask: 96 pixels do not fit into a view of 96"),
        ("world", "image_size: 128", "image_sice: 128", "unknown key 'image_sice'; did you mean"),
    ],
)
def test_a_wrong_recipe_is_refused(
    checkout: Checkout, tmp_path: Path, recipes: Path, stage: str, old: str, new: str, message: str
) -> None:
    recipe = recipes / f"{stage}.yaml"
    recipe.write_text(recipe.read_text().replace(old, new))
    words = configuration(checkout, tmp_path, {"recipes": str(recipes.parent)})
    assert f"\n{recipe}: {message}" in refused(checkout, *words).output


def test_missing_files_are_named_by_key_before_any_job_starts(
    checkout: Checkout, tmp_path: Path
) -> None:
    mine = {"kind": "imported", "file": "weights/of_mine.safetensors"}
    changes = {"pretrainings.imagenet_cls": mine, "backbone.file": "models/of_mine.py"}
    output = refused(checkout, *configuration(checkout, tmp_path, changes)).output
    assert "\npretrainings.imagenet_cls.file: there is no file weights/of_mine.saf" in output
    assert "\nbackbone.file: there is no file models/of_mine.py (seen from " in output


def test_a_second_target_on_a_data_set_has_runs_of_its_own(
    checkout: Checkout, tmp_path: Path, recipes: Path
) -> None:
    for target, stages in (
        ("voc_detection", ("finetune", "evaluate")),
        ("caltech256", ("finetune",)),
    ):
        for stage in stages:
            shutil.copy(recipes / f"{stage}_{target}.yaml", recipes / f"{stage}_my_{target}.yaml")
    changes = {
        "targets.my_voc_detection": {"task": "detection", "dataset": "voc_detection"},
        "targets.my_caltech256": {"task": "classification", "dataset": "caltech256"},
        "recipes": str(recipes.parent),
    }
    result = checkout.snakemake("-n", *configuration(checkout, tmp_path, changes))
    jobs = result.jobs()
    seeds = len(yaml.safe_load((checkout.folder / "config/demo.yaml").read_text())["seeds"])
    assert jobs["classify"] == 2 * 6 * seeds and jobs["index"] == 10
    assert jobs["evaluate_detections"] == (2 * 6 + 3) * seeds  # three on COCO
    for dataset, task in (("voc_detection", "detection"), ("caltech256", "classification")):
        for target in (dataset, f"my_{dataset}"):
            place = f"results/demo/{task}/{target}/coco/seed0"
            names = f"--target {target} --dataset {dataset} --seed 0 "
            assert re.search(f"{names}.*--output {place}/metrics.json", result.output)
