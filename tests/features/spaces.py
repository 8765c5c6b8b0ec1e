"""Made-up feature spaces on disk, with images, for the programs that look at them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from detransfer.data.index import Index, empty_objects, write_index
from detransfer.features.clusters import SpaceClusters, write_clusters
from detransfer.features.store import FeatureWriter

CLASSES = ("ape", "bee", "cat")
IMAGES = 60  # half of them to test on
RECIPE = """\
task: analysis
clusters: {counts: [2, 5, 100], close: 12, distant: 2, seeds: [0, 3], tolerance: 1e-4, passes: 50,
  sampled_pairs: 2000}
nearest: {near_copy: 0.999, listed: 9, drawn: 3}
embedding: {perplexity: 5, theta: 0.5, seed: 0, neighbours: 4, classes: 2}
explorer: {images: 12, thumbnail: 16, neighbours: 3}
"""


def write_images(folder: Path) -> Index:
    """Write images of one colour each and their index; return it."""
    names = [f"{CLASSES[number % 3]}/{number:03d}.png" for number in range(IMAGES)]
    images = pd.DataFrame(
        {
            "image_id": np.arange(100, 100 + IMAGES),
            "path": names,
            "width": 40,
            "height": 30,
            "split": ["train", "test"] * (IMAGES // 2),
            "class_id": np.arange(IMAGES) % 3,
        }
    )
    for number, name in enumerate(names):
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (4 * number, 255 - 4 * number, 128)).save(path)
    classes = pd.DataFrame(
        {"class_id": range(3), "name": CLASSES, "source_id": "", "superclass": ""}
    )
    index = Index(images, empty_objects(), classes, folder / "images")
    write_index(folder / "index", index)
    return index


def write_features(folder: Path, index: Index, values: np.ndarray) -> Path:
    """Write a recording of Conv5."""
    writer = FeatureWriter(folder.with_name(f"{folder.name}.state"), len(values))
    writer.append({"conv5": values})
    header = {"splits": ["train", "test"], "view": {"size": 24, "resize": 30}}
    writer.finish(folder, index.images, header)
    return folder


def write_labels(path: Path, index: Index, labels: dict[tuple[int, int], np.ndarray]) -> Path:
    """Write a clustering by number of clusters and seed."""
    write_clusters(path, SpaceClusters(index.images["image_id"].to_numpy(), labels))
    return path
