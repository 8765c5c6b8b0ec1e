"""The whole way from real images to scores: what has been learnt by heart is detected well."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from detransfer.backbone import build, load_backbone
from detransfer.data.extract import Part, extract
from detransfer.data.readers import read_dataset
from detransfer.detection.coco_metrics import coco_average_precision
from detransfer.detection.detector import Detector
from detransfer.detection.predict import predict
from detransfer.detection.train import chip_epochs
from detransfer.recipes.detection import DetectionRecipe
from detransfer.recipes.evaluation import InferenceRecipe
from detransfer.study import BackboneChoice
from detransfer.training import Run, train

pytestmark = [pytest.mark.real_data, pytest.mark.slow]

IMAGES = 8
SMALLEST = 64  # pixels, of any object in them: a cell and a half of the map at this scale
SCALE = {"short": None, "long": 256, "valid_range": [0, None]}
RECIPE = {
    "task": "detection",
    "training": {
        "epochs": 100,  # of two steps each: the images as they are and mirrored
        "batch_size": IMAGES,
        "optimizer": "adamw",
        "learning_rate": 0.004,
        "weight_decay": 0.0,
        "warmup_steps": 10,
        "schedule": "cosine",
        "clip_norm": 10.0,
    },
    "backbone": {"output_stride": 16, "batch_norm": "trained"},
    "chips": {"size": 256, "stride": [28, 32], "minimum_side": 4, "scales": [SCALE]},
    "rpn": {
        "channels": 128,
        "anchor_sizes": [12, 24, 48, 96, 192],
        "batch_per_chip": 128,
        "border": 16,
        "train_before": 1000,
        "train_proposals": 128,
    },
    "head": {
        "kind": "faster_rcnn",
        "conv_proj": 128,
        "roi_size": 7,
        "hidden": 256,
        "rois_per_chip": 64,
        "positive_share": 0.5,
    },
}
INFERENCE = {
    "task": "detection",
    "scales": [SCALE],
    "batch_size": 1,
    "proposals_before": 1000,
    "proposals": 100,
    "score_threshold": 0.01,
    "soft_nms_sigma": 0.55,
    "per_image": 100,
    "training_images": 8,
    "metric": {"kind": "coco"},
}


def test_eight_real_images_are_learnt_by_heart(
    repository: Path, real_data: Path, tmp_path: Path
) -> None:
    mirror = real_data / "mirror"
    archives = ("train2017.zip", "val2017.zip", "annotations_trainval2017.zip")
    parts = [Part(mirror / name) for name in archives]
    extract(parts, tmp_path / "coco")
    whole = read_dataset("coco", tmp_path / "coco", {}).split("train2017")
    sides = np.sqrt(whole.objects.eval("(x2 - x1) * (y2 - y1)"))
    smallest = sides.groupby(whole.objects["image_id"]).min()
    chosen = smallest.index[smallest > SMALLEST][:IMAGES]
    index = replace(
        whole,
        images=whole.images[whole.images["image_id"].isin(chosen)],
        objects=whole.objects[whole.objects["image_id"].isin(chosen)],
    )
    recipe = DetectionRecipe.model_validate(RECIPE)
    torch.manual_seed(0)
    file = repository / "config/backbones/mobilenetv1_025_leaky.py"
    backbone = build(BackboneChoice(name="mobilenetv1_025_leaky", file=file), 0, 16)
    load_backbone(backbone, real_data / "weights/mobilenetv1_025_leaky.imagenet.safetensors")
    detector = Detector(backbone, len(index.classes), recipe)
    chips = chip_epochs(index, recipe.chips, backbone, 0)
    cpu = torch.device("cpu")
    train(detector, chips, recipe.training, Run(tmp_path / "state", 0, cpu))
    found = predict(detector, index, InferenceRecipe.model_validate(INFERENCE), cpu, 0)
    values, _ = coco_average_precision(index, found)
    assert len(index.images) == IMAGES and index.objects["class_id"].nunique() > 5
    assert values["AP@0.5"] > 0.9, values
