"""The sample study in earnest on real images, with trainings cut short: every stage, every file.

The numbers are far from those of the whole study; what is asserted would fail if the data, the
imported weights or the way from one stage to the next were wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from detransfer.data.index import read_index
from detransfer.files import sha256
from detransfer.weights import read_header
from tests.workflow.checkout import Checkout, copy_repository
from tests.workflow.tiny import VOC_METRICS

pytestmark = [pytest.mark.real_data, pytest.mark.workflow, pytest.mark.slow]

PRETRAININGS = ("random", "imagenet_cls", "coco")
TRAINED = PRETRAININGS[1:]  # what is fine-tuned on boxes and masks, which keeps the test short
RESULTS, DATA = Path("results/sample"), Path("data/sample")
WORDS = ("--configfile", "config/sample.yaml", "short/study.yaml", "--cores", "2")
STUDY = {  # over the sample's
    "mirror": "../shared/data/mirror",
    "seeds": [0],
    "recipes": "short",
    "targets": {
        "voc_detection": {"pretrainings": list(TRAINED)},
        "voc_segmentation": {"pretrainings": list(TRAINED)},
        "coco_detection": {"pretrainings": ["imagenet_cls"]},
    },
    "datasets": {"caltech256": {"options": {"train_per_class": 10, "eval_total": 800}}},
}
# What is left of each recipe: one coarse scale, a few dozen steps.
COARSE_CHIPS = {"scales": [{"long": 256, "valid_range": [0, None]}]}
COARSE_VIEW = {
    "scales": [{"long": 160, "valid_range": [0, None]}],
    "proposals": 50,
    "training_images": 10,
}
SHORT: dict[str, dict[str, Any]] = {
    "pretrain_coco": {"training": {"epochs": 0.5, "warmup_steps": 5}, "chips": COARSE_CHIPS},
    **{
        f"finetune_{target}": {
            "training": {"epochs": 0.1, "warmup_steps": 5},
            "chips": COARSE_CHIPS,
        }
        for target in ("voc_detection", "coco_detection")
    },
    **{f"evaluate_{name}": COARSE_VIEW for name in ("voc_detection", "coco_detection", "coco")},
    "finetune_voc_segmentation": {
        "training": {"epochs": 1, "warmup_steps": 5},
        "images": {"short": 96, "long": 160},
    },
    "finetune_caltech256": {
        "training": {"epochs": 1, "warmup_steps": 10},
        "images": {"size": 112, "resize": 128},
    },
    "visualization": {"images": 40, "stride": 40},
}
IMAGES_AND_OBJECTS = {  # of each split
    "voc_detection": {"voc2007_trainval": (944, 2439), "voc2012_trainval": (155, 520),
                      "voc2007_test": (963, 2294)},
    "coco": {"train2017": (128, 929), "val2017": (128, 898)},
    "voc_segmentation": {"train": (77, 0), "val": (78, 0)},
    "caltech256": {"train": (1010, 0), "test": (800, 0)},
}  # fmt: skip


def shorten(folder: Path) -> None:
    """Write the sample's recipes, cut short, and what else differs into ``short``."""
    (folder / "short/sample").mkdir(parents=True)
    (folder / "short/study.yaml").write_text(yaml.safe_dump(STUDY))
    for source in sorted((folder / "config/recipes/sample").glob("*.yaml")):
        recipe = yaml.safe_load(source.read_text())
        for key, value in SHORT.get(source.stem, {}).items():
            recipe[key] = {**recipe[key], **value} if isinstance(value, dict) else value
        text = yaml.safe_dump(recipe, sort_keys=False)
        (folder / "short/sample" / source.name).write_text(text)


@pytest.fixture(scope="module")
def sample(repository: Path, real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The study, run to its end beside a link to the real data."""
    place = tmp_path_factory.mktemp("sample")
    (place / "shared").mkdir()
    (place / "shared/data").symlink_to(real_data)
    checkout = copy_repository(repository, place / "repository")
    shorten(checkout.folder)
    result = checkout.snakemake(*WORDS, timeout=3000)
    assert result.code == 0, result.output
    return checkout


def test_the_indices_hold_what_the_archives_do(sample: Checkout) -> None:
    for name, splits in IMAGES_AND_OBJECTS.items():
        index = read_index(sample.folder / DATA / "index" / name)
        parts = {split: index.split(split) for split in index.images["split"].unique()}
        found = {split: (len(part.images), len(part.objects)) for split, part in parts.items()}
        assert found == splits
        assert index.dropped == {}
        assert index.images["fingerprint"].is_unique, "no two images of the sample are equal"
        findings = pd.read_csv(sample.folder / RESULTS / "datasets" / name / "check.csv")
        assert set(findings["severity"]) <= {"warning"}
    voc = read_index(sample.folder / DATA / "index/voc_detection")
    assert voc.classes["name"].tolist() == ["bus", "car", "cat", "person", "train"]
    for record in sorted((sample.folder / DATA / "archives").glob("*.sha256")):
        assert record.read_text() in (sample.folder / "config/sample.sha256").read_text()


def test_every_backbone_is_what_it_says(sample: Checkout, real_data: Path) -> None:
    folder = sample.folder / RESULTS / "pretraining"
    headers = {name: read_header(folder / name / "backbone.safetensors") for name in PRETRAININGS}
    assert [header["kind"] for header in headers.values()] == ["untrained", "imported", "trained"]
    assert {header["architecture"]["name"] for header in headers.values()} == {
        "mobilenetv1_025_leaky"
    }
    weights = real_data / "weights/mobilenetv1_025_leaky.imagenet.safetensors"
    assert headers["imagenet_cls"]["source"]["sha256"] == sha256(weights)
    states = {name: load_file(folder / name / "backbone.safetensors") for name in PRETRAININGS}
    given = load_file(weights)
    for name, values in states["imagenet_cls"].items():
        assert torch.equal(values, given[name]), name
    moved = [not torch.equal(values, given[name]) for name, values in states["coco"].items()]
    assert np.mean(moved) > 0.5, "the detector's backbone was trained"


def test_the_tables_are_complete(sample: Checkout) -> None:
    for name, runs, metrics in (
        ("table2", TRAINED, VOC_METRICS),
        ("table5", PRETRAININGS, {"top1"}),
    ):
        table = pd.read_csv(sample.folder / RESULTS / f"{name}.csv")
        ours = table[table["n"] > 0]
        expected = {(run, metric) for run in runs for metric in metrics}
        assert set(zip(ours["run"], ours["metric"], strict=True)) == expected
        assert ours["mean"].between(0, 100, inclusive="neither").all()
        assert set(ours["images"]) == {963 if name == "table2" else 800}
    counts = pd.read_csv(sample.folder / RESULTS / "table1.csv")
    counts = counts.set_index(["dataset", "quantity"])["value"]
    assert counts["voc_detection", "eval_images"] == 963
    assert counts["coco", "train_objects"] == 929
    coco = pd.read_csv(sample.folder / RESULTS / "coco_finetuning.csv")
    assert set(coco.loc[coco["n"] > 0, "run"]) == {"imagenet_cls"}
    assert set(coco["images"].dropna()) == {128}
    figure = pd.read_csv(sample.folder / RESULTS / "figure1.csv")
    for run in TRAINED:
        curve = figure[(figure["run"] == run) & (figure["n"] > 0)].sort_values("iou")["mean"]
        assert len(curve) == 9 and curve.is_monotonic_decreasing


def test_segmentation_scores_twenty_of_its_classes(sample: Checkout) -> None:
    """The 78 validation images have no cow, which is said and not averaged."""
    table = pd.read_csv(sample.folder / RESULTS / "table4.csv")
    ours = table[(table["n"] > 0) & (table["metric"] == "mIoU")]
    assert set(ours["run"]) == set(TRAINED) and (ours["images"] == 78).all()
    classes = pd.read_csv(sample.folder / RESULTS / "table4_classes.csv")
    assert set(classes.loc[classes["mean"].isna(), "class"]) == {"cow"}
    assert (classes.loc[classes["class"] == "cow", "images"] == 0).all()
    assert len(pd.read_csv(sample.folder / RESULTS / "figure3.csv")) == 6


def test_imported_weights_classify_at_once_and_random_ones_do_not(sample: Checkout) -> None:
    """After one epoch of ten images a class; chance is 1 %."""
    table = pd.read_csv(sample.folder / RESULTS / "table5.csv")
    top1 = table[table["n"] > 0].set_index("run")["mean"]
    assert top1["imagenet_cls"] > 12 and top1["coco"] > 12
    assert top1["random"] < 5
