"""A study as small as it gets: a few dozen images, networks that learn next to nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

PRETRAININGS = ("random", "imagenet_cls", "coco", "coco_labels")
VOC_METRICS = {"mAP@0.5", "mAP@0.7", "mAP10@0.5", "mAP10@0.7"}  # of Table 2
CLASSES = ("flagged_fish", "eyed_house", "legged_bottle")
WORLD = {
    "image_size": 64,
    "imagenet_cls": {"classes": 4, "train": 6, "val": 2},
    "coco": {"classes": 3, "train": 12, "val": 2},
    "voc": {
        "classes": len(CLASSES),
        "trainval2007": 8,
        "trainval2012": 4,
        "test2007": 8,
        "sbd": 4,
    },
    "caltech": {"classes": 3, "images": 14},
}


def write_configuration(folder: Path) -> None:
    """Write the demo's configuration and recipes, made smaller, as a study called tiny."""
    content = yaml.safe_load((folder / "config" / "demo.yaml").read_text())
    content.update(
        study="tiny",
        results="results/tiny",
        data="data/tiny",
        state="state/tiny",
        mirror="data/tiny/mirror",
        checksums="data/tiny/mirror/SHA256SUMS",
        seeds=[0],
    )
    content["pretrainings"] = {name: content["pretrainings"][name] for name in PRETRAININGS}
    for target in content["targets"].values():
        if "pretrainings" in target:
            target["pretrainings"] = [
                name for name in target["pretrainings"] if name in PRETRAININGS
            ]
    content["described"] = ["imagenet_cls", "coco", "voc_detection", "caltech256"]
    content["datasets"] = {
        "voc_detection": {"options": {"classes": list(CLASSES)}},
        "voc_segmentation": {"options": {"classes": list(CLASSES)}},
        "caltech256": {"options": {"train_per_class": 10, "eval_total": None}},
    }
    (folder / "config" / "tiny.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    recipes = folder / "config" / "recipes"
    (recipes / "tiny").mkdir()
    for file in sorted((recipes / "demo").glob("*.yaml")):
        recipe = WORLD if file.stem == "world" else smaller(yaml.safe_load(file.read_text()))
        (recipes / "tiny" / file.name).write_text(yaml.safe_dump(recipe, sort_keys=False))


def smaller(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe with less to compute; a checkpoint follows every step."""
    if "training" in recipe:
        classifier = recipe["task"] == "classification"
        recipe["training"].update(
            epochs=4 if classifier else 1, batch_size=4, warmup_steps=2, checkpoint_minutes=1e-5
        )
    if recipe["task"] == "visualization":
        recipe.update(images=4, stride=32)
    elif "images" in recipe:
        masks = recipe["task"] == "segmentation"
        recipe["images"].update({"short": 64, "long": 64} if masks else {"size": 64, "resize": 64})
    if "chips" in recipe:
        recipe["chips"].update(size=64, stride=[16, 24], scales=[{"factor": 1.0}])
        if negatives := recipe["chips"].get("negatives"):
            negatives.update(rpn_epochs=0.5, minimum_proposals=[0])
        recipe["rpn"].update(anchor_sizes=[16, 32], train_before=50, train_proposals=16)
        recipe["head"].update(hidden=32, rois_per_chip=8)
    if recipe["task"] == "features":
        recipe.update(size=64, resize=64)
    if recipe["task"] == "analysis":
        recipe["clusters"].update(counts=[2, 4, 8, 300], close=16)
    if "penalties" in recipe:
        recipe.update(penalties=[0.01])  # too few images to hold a fifth of them out
    if "metric" in recipe:
        recipe.update(scales=[{"factor": 1.0}], proposals_before=50, proposals=10)
    return recipe


def write_little(folder: Path, seeds: list[int], train: dict[str, Any], epochs: float) -> None:
    """Write the tiny study with one pre-training and one target, both of classification.

    ``train`` are the resources of a training, and ``epochs`` the length of a fine-tuning; only
    SIGTERM makes a checkpoint.
    """
    write_configuration(folder)
    file = folder / "config" / "tiny.yaml"
    content = yaml.safe_load(file.read_text())
    content.update(seeds=seeds, described=[])
    for section, kept in (
        ("pretrainings", ("random", "imagenet_cls")),
        ("targets", ("caltech256",)),
        ("datasets", ("caltech256",)),
    ):
        content[section] = {name: content[section][name] for name in kept}
    content["resources"]["train"].update(train)
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    recipe = folder / "config" / "recipes" / "tiny" / "finetune_caltech256.yaml"
    training = yaml.safe_load(recipe.read_text())
    training["training"].update(epochs=epochs, checkpoint_minutes=10, log_every=10)
    recipe.write_text(yaml.safe_dump(training, sort_keys=False))
