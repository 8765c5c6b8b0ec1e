"""Which pairs the figures of feature spaces and of maps compare."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.workflow.checkout import Checkout, Result

pytestmark = [pytest.mark.workflow]


class Changed:
    """The demo with recipes of its own, planned."""

    def __init__(self, checkout: Checkout, folder: Path) -> None:
        self.checkout, self.folder = checkout, folder
        shutil.copytree(checkout.folder / "config/recipes/demo", folder / "recipes/demo")
        self.content = yaml.safe_load((checkout.folder / "config/demo.yaml").read_text())
        self.content["recipes"] = str(folder / "recipes")

    def edit(self, stage: str, **changes: Any) -> None:
        recipe = self.folder / f"recipes/demo/{stage}.yaml"
        recipe.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | changes))

    def keep(self, pretrainings: tuple[str, ...], targets: tuple[str, ...]) -> None:
        """Leave these in the study, on data sets named as their targets, and nothing else."""
        kinds = {"pretrainings": pretrainings, "targets": targets, "datasets": targets}
        for section, kept in kinds.items():
            self.content[section] = {name: self.content[section][name] for name in kept}
        self.content["described"] = []

    def plan(self, *files: str) -> Result:
        study = self.folder / "study.yaml"
        study.write_text(yaml.safe_dump(self.content, sort_keys=False))
        words = [f"results/demo/{file}" for file in files] or ["all"]
        return self.checkout.snakemake("-n", "--configfile", str(study), "--", *words)


@pytest.fixture
def demo(checkout: Checkout, tmp_path: Path) -> Changed:
    return Changed(checkout, tmp_path)


def pairs(output: str, figure: int) -> list[tuple[str, str]]:
    """The pairs (baseline, run) that a figure's command names."""
    (command,) = re.findall(
        rf"^Shell command: (python scripts/figure{figure}\.py .*)$", output, re.M
    )
    if figure < 8:
        return re.findall(r"--pair \w+ (\w+) (\w+)", command)
    return [(b, a) for a, b in re.findall(r"--contrast (\w+) (\w+)", command)]


def test_one_key_names_the_pairs_of_all_five_figures(demo: Changed) -> None:
    figures = [f"figure{number}.csv" for number in range(5, 10)]
    starts = [("imagenet_cls", name) for name in ("imagenet_loc", "coco", "openimages")]
    plain = demo.plan(*figures).output
    assert [pairs(plain, number) for number in range(5, 10)] == [starts] * 5
    demo.edit("analysis", pairs=[["random", "coco_labels"], ["openimages", "coco"]])
    named = demo.plan(*figures).output
    expected = [("random", "coco_labels"), ("openimages", "coco")]
    assert [pairs(named, number) for number in range(5, 10)] == [expected] * 5
    assert named.count("--control coco coco_labels") == 2  # of Figures 8 and 9, as ever


def test_a_study_without_detection_has_the_figures_of_the_pairs_it_names(demo: Changed) -> None:
    demo.keep(("random", "imagenet_cls"), ("caltech256",))
    made = {f"figure{number}" for number in range(5, 10)}
    assert not made & demo.plan().jobs().keys()
    demo.edit("analysis", pairs=[["random", "imagenet_cls"]])
    result = demo.plan()
    assert made <= result.jobs().keys()
    for number in range(5, 10):
        assert pairs(result.output, number) == [("random", "imagenet_cls")]
