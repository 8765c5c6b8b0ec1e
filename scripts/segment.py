"""Run a trained segmenter on one split of an index.

Writes the predicted masks, palette PNGs in one zip file, at the size that the network sees (see
detransfer.segmentation.predictions).
"""

from __future__ import annotations

import argparse
import collections
import logging
import time
from pathlib import Path

from detransfer.console import run
from detransfer.data.index import read_index
from detransfer.device_faults import device_faults
from detransfer.ranks import first
from detransfer.segmentation.deeplab import load_segmenter
from detransfer.segmentation.images import masked_images
from detransfer.segmentation.predict import REMEDY, predict
from detransfer.segmentation.predictions import write_predictions
from detransfer.training_run import add_architecture, use_machine
from detransfer.weights import check_classes


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--model", type=Path, required=True, help="model.safetensors of train_segmenter.py")
    add("--index", type=Path, required=True, help="folder of the data set's index")
    add("--split", required=True, help="split to run on")
    add("--threads", type=int, default=1, help="processor cores to use")
    add("--output", type=Path, required=True, help="zip file of predicted masks to write")
    add_architecture(parser)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    device, workers = use_machine(arguments.threads)
    model, header = load_segmenter(arguments.model, arguments.architecture)
    index = read_index(arguments.index).split(arguments.split)
    classes = index.classes["name"].tolist()
    check_classes(arguments.model, header, classes, arguments.index)
    images = masked_images(index, model.recipe.images)
    image_ids = index.images["image_id"].tolist()
    started = time.monotonic()
    found = predict(model, images, device, workers)
    masks = ((image_ids[row], mask) for row, mask, _ in found)
    with device_faults(device, f"segmenting with {arguments.model}", REMEDY):
        if first():
            write_predictions(arguments.output, masks)
        else:
            collections.deque(masks, maxlen=0)  # predicts for the first process
    speed = len(image_ids) / (time.monotonic() - started)
    logging.info("%d images at %.2f images/s -> %s", len(image_ids), speed, arguments.output)


if __name__ == "__main__":
    run(main)
