"""Run a trained detector on images of your own, and draw what it finds.

Takes a folder (with the folders in it) or single images; writes one table of detections with the
path of each image and, where asked for, a picture of every image with its boxes.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from detransfer.console import InputError, run
from detransfer.data.images import image_sizes
from detransfer.data.index import BOX, Index, empty_objects
from detransfer.detection.predict import load_detector, predict
from detransfer.device_faults import device_faults
from detransfer.files import atomic
from detransfer.recipes.evaluation import InferenceRecipe
from detransfer.report.tables import write_table
from detransfer.strict import load_file
from detransfer.training_run import add_architecture, use_machine
from detransfer.visualization.drawing import DrawnBox, class_colour, draw_boxes

log = logging.getLogger("detect_images")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
LARGEST = 1000  # longer side of a picture at least, pixels: small images are enlarged


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("images", nargs="+", type=Path, metavar="PATH", help="folders and image files")
    add("--model", type=Path, required=True, help="model.safetensors of train_detector.py")
    add("--recipe", type=Path, required=True, help="recipe of inference (evaluate_*.yaml)")
    add("--output", type=Path, required=True, help="CSV of detections")
    add("--drawings", type=Path, help="folder of the pictures; none are drawn without it")
    add("--draw-above", type=float, default=0.5, help="smallest score that is drawn")
    add("--threads", type=int, default=1, help="processor cores to use")
    add_architecture(parser)
    return parser.parse_args()


def is_image(path: Path) -> bool:
    """Return whether a file is called an image; hidden ones (macOS's ``._a.jpg``) are none."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def find_images(paths: Iterable[Path]) -> list[Path]:
    """Return all images below the given paths, sorted; raises InputError where there are none."""
    found: set[Path] = set()
    for path in paths:
        if path.is_dir():
            found.update(p for p in path.rglob("*") if is_image(p))
        elif path.is_file():
            found.add(path)
        else:
            raise InputError(f"{path}: there is no such file or folder")
    if not found:
        raise InputError(f"no image found; its name should end in one of {', '.join(SUFFIXES)}")
    return sorted(found)


def index_of(paths: list[Path], classes: list[str]) -> Index:
    """Return an index of images without objects, so that they are detected on like any other."""
    sizes = image_sizes(Path(), [str(path) for path in paths])
    images = pd.DataFrame(
        {
            "image_id": np.arange(len(paths), dtype=np.int32),
            "path": [str(path) for path in paths],
            "width": sizes[:, 0],
            "height": sizes[:, 1],
            "split": "given",
        }
    )
    named = pd.DataFrame({"class_id": range(len(classes)), "name": classes})
    return Index(images, empty_objects(), named.assign(source_id="", superclass=""), Path())


def draw(path: Path, found: pd.DataFrame, picture: Path) -> None:
    """Draw the detections of one image, the surest on top."""
    boxes = [
        DrawnBox(box, class_colour(int(class_id)), f"{name} {score:.2f}")
        for box, class_id, name, score in zip(
            found[BOX].to_numpy().tolist(),
            found["class_id"],
            found["name"],
            found["score"],
            strict=True,
        )
    ]
    with Image.open(path) as image:
        scale = max(1.0, LARGEST / max(image.size))
        drawn = draw_boxes(image, boxes, scale)
    with atomic(picture) as temporary:
        drawn.save(temporary, format="png")


def main() -> None:
    arguments = parse()
    recipe = load_file(arguments.recipe, InferenceRecipe)
    paths = find_images(arguments.images)
    device, workers = use_machine(arguments.threads)
    detector, classes = load_detector(arguments.model, arguments.architecture)
    index = index_of(paths, classes)
    with device_faults(device, "detecting", f"Lower batch_size in {arguments.recipe}"):
        found = predict(detector, index, recipe, device, workers)
    found["path"] = index.images["path"].to_numpy()[found["image_id"]]
    found["name"] = np.array(classes)[found["class_id"]]
    write_table(arguments.output, found[["path", "name", "score", *BOX]])
    log.info("%d detections in %d images -> %s", len(found), len(paths), arguments.output)
    if arguments.drawings:
        sure = found[found["score"] >= arguments.draw_above]
        for number, path in enumerate(paths):
            picture = arguments.drawings / f"{number:05d}_{path.stem}.png"
            draw(path, sure[sure["image_id"] == number], picture)


if __name__ == "__main__":
    run(main)
