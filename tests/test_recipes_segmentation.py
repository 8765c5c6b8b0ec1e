"""The recipe of segmentation: its faults by name, and its offsets against those of detectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from detransfer.console import InputError
from detransfer.recipes.loading import load_recipes
from detransfer.recipes.segmentation import AsppRecipe, SegmentationRecipe
from detransfer.strict import load_file
from detransfer.study import load_study

SEGMENTATION = """\
task: segmentation
training: {epochs: 12, batch_size: 4, optimizer: sgd, learning_rate: 0.002, weight_decay: 0,
           schedule: step, step_epochs: [8]}
backbone: {output_stride: 16, batch_norm: frozen, deformable_groups: 4}
offsets: keep
images: {short: 360, long: 600}
head: {kind: plain}
"""


def read(folder: Path, text: str) -> SegmentationRecipe:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return load_file(path, SegmentationRecipe)


def test_defaults_are_those_of_the_papers_code(tmp_path: Path) -> None:
    recipe = read(tmp_path, SEGMENTATION.replace("offsets: keep\n", ""))
    assert recipe.offsets == "zero" and recipe.images.flip
    assert recipe.head.kind == "plain" and recipe.head.hidden == 1024
    head = read(tmp_path, SEGMENTATION.replace("kind: plain", "kind: aspp")).head
    assert isinstance(head, AsppRecipe) and head.rates == (6, 12, 18, 24)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("short: 360", "short: 601", "images: short: must not exceed `long`"),
        ("long: 600", "lonk: 600", "unknown key 'images.lonk'; did you mean 'long'?"),
        ("kind: plain", "kind: plane", "head: Input tag 'plane' found using 'kind'"),
        ("kind: plain", "kind: plain, rates: [6]", "unknown key 'head.rates'"),
        ("kind: plain", "kind: aspp, rates: [6, 6]", "head.rates: 6 stands there twice"),
        ("keep", "kept", "offsets: Input should be 'zero' or 'keep' (got 'kept')"),
        ("groups: 4", "groups: 0", "offsets: there are none to keep at backbone.deformable_groups"),
        ("task: segmentation", "task: detection", "task: Input should be 'segmentation'"),
    ],
)
def test_faults_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert SEGMENTATION.count(old) == 1
    with pytest.raises(InputError) as caught:
        read(tmp_path, SEGMENTATION.replace(old, new))
    assert message in str(caught.value)


def test_offsets_can_be_kept_only_from_detectors_with_as_many_groups(
    repository: Path, tmp_path: Path
) -> None:
    """Of the detectors that are fine-tuned on the target; they are compared before any plan."""
    content: dict[str, Any] = yaml.safe_load((repository / "config/demo.yaml").read_text())
    content["recipes"] = str(tmp_path)
    demo = repository / "config/recipes/demo"
    (tmp_path / "demo").mkdir()
    for file in demo.glob("*.yaml"):
        (tmp_path / "demo" / file.name).write_text(file.read_text())
    path = tmp_path / "demo/finetune_voc_segmentation.yaml"
    recipe = yaml.safe_load(path.read_text())
    recipe["offsets"], recipe["backbone"]["deformable_groups"] = "keep", 1
    path.write_text(yaml.safe_dump(recipe))
    with pytest.raises(InputError) as caught:
        load_recipes(load_study(content, "demo.yaml"))
    source = tmp_path / "demo/pretrain_coco.yaml"
    assert str(caught.value) == (
        f"{path}: offsets: keep needs backbone.deformable_groups 0 as in {source}, not 1; make "
        "them equal, or give offsets: zero"
    )
    detector = yaml.safe_load(source.read_text())
    detector["backbone"]["deformable_groups"] = 1
    source.write_text(yaml.safe_dump(detector))
    load_recipes(load_study(content, "demo.yaml"))
    detector["backbone"]["deformable_groups"] = 4
    source.write_text(yaml.safe_dump(detector))
    content["targets"]["voc_segmentation"]["pretrainings"] = ["random", "imagenet_cls"]
    load_recipes(load_study(content, "demo.yaml"))
