"""The whole way from real images to scores: what has been learnt by heart is segmented well."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from detransfer.backbone import build, load_backbone
from detransfer.data.extract import Part, extract
from detransfer.data.readers import read_dataset
from detransfer.recipes.segmentation import SegmentationRecipe
from detransfer.segmentation.confusion import confusion
from detransfer.segmentation.deeplab import Segmenter
from detransfer.segmentation.images import masked_images
from detransfer.segmentation.predict import predict
from detransfer.segmentation.scores import class_counts, mean_iou
from detransfer.study import BackboneChoice
from detransfer.training import Run, train

pytestmark = [pytest.mark.real_data, pytest.mark.slow]

IMAGES = 8
RECIPE = {
    "task": "segmentation",
    "training": {
        "epochs": 130,  # of one step each
        "batch_size": IMAGES,
        "optimizer": "adamw",
        "learning_rate": 0.008,
        "weight_decay": 0.0,
        "warmup_steps": 10,
        "schedule": "cosine",
    },
    "backbone": {"output_stride": 8, "batch_norm": "trained"},
    "images": {"short": 192, "long": 320, "flip": False},
    "head": {"kind": "plain", "hidden": 256},
}


def test_eight_real_images_are_learnt_by_heart(
    repository: Path, real_data: Path, tmp_path: Path
) -> None:
    archive = real_data / "mirror/VOCtrainval_11-May-2012.tar"
    extract([Part(archive)], tmp_path / "voc")
    whole = read_dataset("voc_segmentation", tmp_path / "voc", {"sbd": False}).split("train")
    index = replace(whole, images=whole.images.head(IMAGES))
    recipe = SegmentationRecipe.model_validate(RECIPE)
    torch.manual_seed(0)
    file = repository / "config/backbones/mobilenetv1_025_leaky.py"
    backbone = build(BackboneChoice(name="mobilenetv1_025_leaky", file=file), 0, 8)
    load_backbone(backbone, real_data / "weights/mobilenetv1_025_leaky.imagenet.safetensors")
    model = Segmenter(backbone, len(index.classes), recipe)
    images = masked_images(index, recipe.images)
    cpu = torch.device("cpu")
    train(model, lambda epoch: images, recipe.training, Run(tmp_path / "state", 0, cpu))
    total = np.zeros((images.classes, images.classes), np.int64)
    for _, found, truth in predict(model, images, cpu):
        total += confusion(truth, found, images.classes)
    present = int((total.sum(1) > 0).sum())
    assert present > 4
    assert mean_iou(class_counts(total)) > 0.9
