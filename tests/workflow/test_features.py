"""What is recorded and probed, and for whom: planned, not run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.workflow.checkout import Checkout

pytestmark = [pytest.mark.workflow]

LAYERS = ("conv_proj_14x14", "conv_proj_4x4", "conv_proj_2x2", "conv_proj_avg", "fc1", "fc2")
PLAIN = ("random", "imagenet_cls", "imagenet_loc_labels", "coco_labels", "openimages_labels")
DETECTORS = ("imagenet_loc", "coco", "openimages")
RUNS = 3 * (len(PLAIN) + len(DETECTORS))  # of each target: three seeds


def test_features_are_recorded_once_an_image_and_backbone(checkout: Checkout) -> None:
    words = ["table6.csv", "table7.csv", "few_shot.png", "breakdown.csv"]
    planned = checkout.plan("--", *(f"results/{word}" for word in words))
    targets = 4  # three of classification, and the first of detection for the sizes
    assert planned["extract_features"] == targets * len(PLAIN)
    assert planned["extract_detector_features"] == targets * len(DETECTORS)
    assert planned["probe"] == targets * RUNS
    assert planned["probe_head"] == 3 * len(DETECTORS)  # one target, three seeds
    assert "finetune_classifier" not in planned and "finetune_detector" not in planned
    assert "cluster_superclasses" not in planned


def test_a_detectors_layers_are_recorded_for_the_first_target_alone(checkout: Checkout) -> None:
    output = checkout.snakemake(
        "-n", "--", "results/features/caltech256/coco", "results/features/sun397/coco"
    ).output
    commands = [line for line in output.splitlines() if "extract_detector_features.py --w" in line]
    assert len(commands) == 2
    layers = {line.split("--index ")[1].split()[0]: line.split("--layers ")[1] for line in commands}
    assert layers["data/index/caltech256"].split(" --")[0].split() == ["conv5", *LAYERS]
    assert layers["data/index/sun397"].split(" --")[0].split() == ["conv5"]
    for line in commands:  # the detector itself, with the offsets that its backbone file lacks
        assert "--weights results/pretraining/coco/model.safetensors" in line


def test_a_search_is_run_once_a_pretraining_and_target(checkout: Checkout) -> None:
    planned = checkout.plan("results/table5.csv")
    assert planned["finetune_classifier"] == planned["classify"] == 3 * RUNS
    assert planned["search_classifier"] == RUNS  # three targets, but one seed
    output = checkout.snakemake(
        "-n", "results/classification/flowers102/coco/seed2/model.safetensors"
    ).output
    assert "--search results/classification/flowers102/coco/search.csv" in output
    demo = ("--configfile", "config/demo.yaml", "--", "results/demo/table5.csv")
    assert "search_classifier" not in checkout.plan(*demo)


@pytest.fixture
def recipes(checkout: Checkout, tmp_path: Path) -> Path:
    """The paper's recipes, but classes of ImageNet-LOC are grouped."""
    shutil.copytree(checkout.folder / "config/recipes/paper", tmp_path / "recipes/paper")
    recipe = tmp_path / "recipes/paper/pretrain_imagenet_loc.yaml"
    text = recipe.read_text()
    assert text.count("superclasses: 1 ") == 1
    recipe.write_text(text.replace("superclasses: 1 ", "superclasses: 20 "))
    return tmp_path / "recipes"


def test_grouped_classes_are_clustered_from_features_of_the_start(
    checkout: Checkout, recipes: Path
) -> None:
    model = "results/pretraining/imagenet_loc/model.safetensors"
    result = checkout.snakemake("-n", "--config", f"recipes={recipes}", "--", model)
    jobs = result.jobs()
    assert (
        jobs["extract_features"] == jobs["cluster_superclasses"] == jobs["pretrain_detector"] == 1
    )
    features = "results/features/imagenet_loc/imagenet_cls"
    table = "results/pretraining/imagenet_loc/superclasses.csv"
    assert "--weights results/pretraining/imagenet_cls/backbone.safetensors" in result.output
    assert f"--output {features} " in result.output
    assert f"--features {features}/conv5.npy" in result.output
    assert "--objects data/index/imagenet_loc/objects.parquet" in result.output
    assert "--k 20 --seed 0" in result.output and f"--superclasses {table}" in result.output
    recording = next(line for line in result.output.splitlines() if "extract_features.py" in line)
    assert "--eval-split" not in recording  # only what the detector is trained on
    plain = checkout.plan("--", model)
    assert "extract_features" not in plain and "cluster_superclasses" not in plain
