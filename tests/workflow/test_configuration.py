"""Wrong configurations, as a user sees them: one message, no traceback, and nothing is started."""

from __future__ import annotations

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
    assert "targets.voc_detection.task: Input should be 'detection' or 'classification'" in output
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
    ],
)
def test_what_does_not_exist_is_refused_by_name(
    checkout: Checkout, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    output = refused(checkout, *configuration(checkout, tmp_path, changes)).output
    assert f"\n{message}\n" in output


def test_an_unknown_key_in_a_recipe_is_refused(checkout: Checkout, tmp_path: Path) -> None:
    recipes = tmp_path / "recipes"
    shutil.copytree(checkout.folder / "config" / "recipes" / "demo", recipes / "demo")
    recipe = recipes / "demo" / "finetune_voc_detection.yaml"
    recipe.write_text(recipe.read_text().replace("positive_share:", "positive_shear:"))
    words = configuration(checkout, tmp_path, {"recipes": str(recipes)})
    output = refused(checkout, *words).output
    assert f"{recipe}: unknown key 'head.positive_shear'; did you mean 'positive_share'?" in output


@pytest.mark.parametrize(
    "changes",
    [
        {"pretrainings.imagenet_cls": {"kind": "imported", "file": "weights/of_mine.safetensors"}},
        {"backbone.file": "weights/of_mine.safetensors"},
    ],
    ids=["weights", "backbone"],
)
def test_a_missing_file_is_named_before_any_job_starts(
    checkout: Checkout, tmp_path: Path, changes: dict[str, Any]
) -> None:
    output = refused(checkout, *configuration(checkout, tmp_path, changes)).output
    assert "Missing input files for rule import_backbone:" in output
    assert "weights/of_mine.safetensors" in output
