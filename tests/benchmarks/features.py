"""How fast features are recorded from image files, beside the bare forward pass of the network."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from detransfer.backbone import build
from detransfer.data.index import Index, empty_objects
from detransfer.data.views import CentralViews
from detransfer.features.extract import BackboneFeatures, record
from detransfer.recipes.classification import FeatureRecipe
from detransfer.study import BackboneChoice
from detransfer.training_run import use_machine

IMAGES, THREADS = 48, 2
RECIPE = FeatureRecipe(task="features", size=224, resize=256, output_stride=16, batch_size=16)
RUNS = 3


def write_images(folder: Path) -> Index:
    """Photograph-like JPEG files of 500 x 375 pixels."""
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        small = rng.integers(0, 256, (12, 16, 3), np.uint8)
        large = Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC)
        noise = rng.normal(0, 6, (375, 500, 3))
        pixels = np.clip(np.asarray(large) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=90)
    table = pd.DataFrame(
        {
            "image_id": range(IMAGES),
            "path": [f"{number}.jpg" for number in range(IMAGES)],
            "width": 500,
            "height": 375,
            "split": "train",
        }
    )
    classes = pd.DataFrame({"class_id": [0], "name": ["a"], "source_id": "", "superclass": ""})
    return Index(table, empty_objects(), classes, folder)


def main(name: str) -> None:
    device, _ = use_machine(THREADS)
    network = BackboneFeatures(build(BackboneChoice(name=name), 0, 16), "fp32").eval()
    network.to(device, memory_format=torch.channels_last)
    with tempfile.TemporaryDirectory() as given:
        folder = Path(given)
        views = CentralViews(write_images(folder), RECIPE.size, RECIPE.resize)
        batches = torch.stack([views[row] for row in range(IMAGES)]).split(RECIPE.batch_size)
        bare, recorded = [], []
        with torch.inference_mode():
            network(batches[0].to(device))
            for number in range(RUNS):
                started = time.perf_counter()
                for batch in batches:
                    network(batch.to(device))["conv5"].cpu()
                bare.append(time.perf_counter() - started)
                started = time.perf_counter()
                record(network, views, RECIPE, folder / f"state{number}", device, 0)
                recorded.append(time.perf_counter() - started)
    bare_rate, rate = (IMAGES / min(times) for times in (bare, recorded))
    print(
        f"{name}, 224 pixels, stride 16: {rate:.2f} images/s with the loader, {bare_rate:.2f} in "
        f"the bare forward pass: {100 * rate / bare_rate:.0f} %"
    )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "resnet50")
