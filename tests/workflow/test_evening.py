"""The evening study: published checkpoints under torchvision's own addresses, planned whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from torchvision.models import ResNet50_Weights
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from detransfer.study import load_study
from tests.workflow.checkout import Checkout

pytestmark = [pytest.mark.workflow]


def test_its_checkpoints_are_those_that_torchvision_publishes(repository: Path) -> None:
    content = yaml.safe_load((repository / "config/evening.yaml").read_text())
    study = load_study(content, "config/evening.yaml")
    published = {
        "imagenet_cls": ResNet50_Weights.IMAGENET1K_V1.url,
        "coco": FasterRCNN_ResNet50_FPN_Weights.COCO_V1.url,
    }
    given = {name: content["pretrainings"][name] for name in published}
    assert {name: each["url"] for name, each in given.items()} == published
    for each in given.values():
        assert each["url"].endswith(f"-{each['sha256']}.pth"), "the name holds the checksum"
    assert study.contrasts == {"coco": "imagenet_cls"}


def test_it_plans_every_comparison(checkout: Checkout) -> None:
    plan = checkout.snakemake("-n", "--configfile", "config/evening.yaml")
    jobs = plan.jobs()
    assert jobs["import_backbone"] == 3 and "pretrain_detector" not in jobs
    assert jobs["finetune_detector"] == jobs["finetune_segmenter"] == 6
    assert {f"table{n}" for n in (1, 2, 3, 4, 5, 6)} <= jobs.keys()
