"""The worked examples of docs/data_sets.md: a folder of one's own becomes a target."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from detransfer.data.index import read_index
from tests.workflow.checkout import Checkout, copy_repository

pytestmark = [pytest.mark.workflow]


@pytest.fixture
def own(repository: Path, tmp_path: Path) -> Checkout:
    """A checkout of its own, with the three folders that the page speaks of."""
    checkout = copy_repository(repository, tmp_path / "repository")
    for split in ("train", "test"):
        for name, colour in (("heron", "grey"), ("wren", "brown")):
            place = checkout.folder / "my_birds" / split / name
            place.mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (40 + number, 30), colour).save(place / f"{number}.jpg")
    boxes = checkout.folder / "my_boxes"
    (boxes / "images").mkdir(parents=True)
    for number, split in enumerate(("train", "val")):
        Image.new("RGB", (50, 40), "white").save(boxes / "images" / f"{split}.jpg")
        content = {
            "images": [{"id": number, "file_name": f"{split}.jpg", "width": 50, "height": 40}],
            "annotations": [
                {"id": 1, "image_id": number, "category_id": 7, "bbox": [5, 6, 20, 10],
                 "iscrowd": 0, "area": 200},
            ],
            "categories": [{"id": 7, "name": "nest", "supercategory": "thing"}],
        }  # fmt: skip
        (boxes / f"{split}.json").write_text(json.dumps(content))
    write_boats(checkout.folder / "my_boats")
    return checkout


def write_boats(root: Path) -> None:
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / name).mkdir(parents=True)
    for split, boat in (("train", "dinghy"), ("val", "ferry")):
        (root / f"ImageSets/Main/{split}.txt").write_text(f"{boat}_1\n")
        Image.new("RGB", (50, 40), "blue").save(root / f"JPEGImages/{boat}_1.png")
        (root / f"Annotations/{boat}_1.xml").write_text(
            "<annotation><size><width>50</width><height>40</height></size>"
            f"<object><name>{boat}</name><bndbox><xmin>6</xmin><ymin>7</ymin><xmax>25</xmax>"
            "<ymax>16</ymax></bndbox></object></annotation>"
        )


def examples(repository: Path) -> dict[str, Any]:
    """The configurations that the page prints, put together."""
    page = (repository / "docs" / "data_sets.md").read_text().partition("## Bring your own")[2]
    blocks = re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S)
    merged: dict[str, Any] = {"datasets": {}, "targets": {}}
    for block in blocks:
        for section, entries in yaml.safe_load(block).items():
            merged[section].update(entries)
    return merged


def test_the_examples_of_the_page_work_as_printed(repository: Path, own: Checkout) -> None:
    printed = examples(repository)
    names = {"my_birds", "my_boxes", "my_boats"}
    assert printed["datasets"].keys() == printed["targets"].keys() == names
    content = yaml.safe_load((own.folder / "config" / "demo.yaml").read_text())
    content["targets"].update(printed["targets"])
    content["datasets"].update(printed["datasets"])
    content["described"] = ["voc_segmentation", "flowers102", "my_boxes"]
    (own.folder / "config" / "own.yaml").write_text(yaml.safe_dump(content))
    recipes = own.folder / "config" / "recipes" / "demo"
    for old, new in (
        ("finetune_caltech256", "finetune_my_birds"),
        ("finetune_voc_detection", "finetune_my_boxes"),
        ("evaluate_voc_detection", "evaluate_my_boxes"),
        ("finetune_voc_detection", "finetune_my_boats"),
        ("evaluate_voc_detection", "evaluate_my_boats"),
    ):
        (recipes / f"{new}.yaml").write_text((recipes / f"{old}.yaml").read_text())
    words = ("--configfile", "config/own.yaml")
    planned = own.plan(*words)
    runs = len(content["pretrainings"]) * len(content["seeds"])
    assert planned["finetune_classifier"] == 2 * runs
    assert planned["finetune_detector"] == 3 * runs + 3 * len(content["seeds"])  # three on COCO
    made = [f"data/demo/index/{name}/images.parquet" for name in printed["datasets"]]
    scales = "results/demo/datasets/my_boxes/scales.csv"
    result = own.snakemake(*words, "--cores", "2", "--", *made, scales, timeout=300)
    assert result.code == 0, result.output
    birds = read_index(own.folder / "data/demo/index/my_birds")
    assert birds.images["split"].value_counts().to_dict() == {"train": 4, "test": 4}
    assert birds.classes["name"].tolist() == ["heron", "wren"]
    for name, classes in (("my_boxes", ["nest"]), ("my_boats", ["dinghy", "ferry"])):
        index = read_index(own.folder / "data/demo/index" / name)
        assert index.classes["name"].tolist() == classes
        assert index.objects[["x1", "y1", "x2", "y2"]].to_numpy().tolist() == [[5, 6, 25, 16]] * 2
    assert (own.folder / scales).is_file()
