"""Chips: how fast an epoch is planned, what it holds, how many pixels are trained, and loading.

    python tests/benchmarks/chips.py [--images N] [--folder DIR]

An index of COCO's size (or of ``--images``) is generated with the moments of 256 real COCO images:
objects an image geometric, sizes and aspect ratios log-normal, all independent, so that they need
more chips than real ones, which keep together. Negative chips are cut around proposals at random
places, of sizes as the objects': 1.99 an orientation of 48 real images, where those of a network
that was trained on them for an epoch (712 an image) give 1.90, after minutes. The straight Python
version that the planner is compared with is the one that its tests compare it with.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from detransfer.batches import epoch_order  # noqa: E402
from detransfer.data.decoding import decode  # noqa: E402
from detransfer.data.index import BOX, FLAGS, Index  # noqa: E402
from detransfer.detection.chip_recipe import chip_plan  # noqa: E402
from detransfer.detection.chips import ChipPlan  # noqa: E402
from detransfer.detection.proposals import Proposals  # noqa: E402
from detransfer.detection.train import ChipDataset, Scenes, cut, plan_epoch, scenes  # noqa: E402
from detransfer.recipes.detection import DetectionRecipe  # noqa: E402
from detransfer.strict import load_file  # noqa: E402
from tests.detection.naive_chips import image_chips  # noqa: E402

RECIPE = ROOT / "config/recipes/paper/pretrain_coco.yaml"
SAMPLE = Path(os.environ.get("DETRANSFER_REAL_DATA", ROOT / "../shared/data")) / "mirror"
IMAGES, OBJECTS = 118_287, 860_001  # COCO train2017
GOAL, FASTER = 90, 20  # seconds on one core; times the straight version
LOG_SIZE, LOG_ASPECT = (4.07, 1.11), (0.16, 0.73)  # mean and deviation, of the 256 real images
SIZES = [(640, 480), (640, 427), (480, 640), (500, 375)]
NAIVE, WITH_PROPOSALS, PROPOSALS = 40, 2000, 500


def generated(images: int) -> Index:
    """Return an index with COCO's number of objects an image."""
    rng = np.random.default_rng(0)
    more = round((OBJECTS / IMAGES - 1) * images)
    counts = 1 + rng.multinomial(more, rng.dirichlet(np.ones(images)))
    sizes = np.array(SIZES)[rng.integers(0, len(SIZES), images)]
    limits = np.repeat(sizes, counts, axis=0)
    side = np.exp(rng.normal(*LOG_SIZE, len(limits)))
    skew = np.exp(rng.normal(*LOG_ASPECT, len(limits)) / 2)
    extent = np.clip(np.column_stack([side / skew, side * skew]), 2, limits)
    corner = rng.random((len(limits), 2)) * (limits - extent)
    boxes = np.hstack([corner, corner + extent]).clip(0, np.tile(limits, 2)).astype(np.float32)
    return as_index(sizes, np.repeat(np.arange(images), counts), boxes)


def as_index(sizes: np.ndarray, image_ids: np.ndarray, boxes: np.ndarray) -> Index:
    images = pd.DataFrame({"image_id": np.arange(len(sizes), dtype=np.int32), "path": "x"})
    images[["width", "height"]] = sizes
    objects = pd.DataFrame(boxes, columns=BOX).assign(image_id=image_ids.astype(np.int32))
    objects[FLAGS] = False
    classes = pd.DataFrame({"class_id": [0], "name": ["x"], "source_id": "", "superclass": ""})
    return Index(images.assign(split="train"), objects.assign(class_id=0), classes, Path())


def real() -> Index | None:
    """Return the 256 real COCO images of the sample, or None where it is absent."""
    archive = SAMPLE / "annotations_trainval2017.zip"
    if not archive.is_file():
        return None
    sizes, ids, boxes = [], [], []
    with zipfile.ZipFile(archive) as file:
        for name in ("train2017", "val2017"):
            content = json.loads(file.read(f"annotations/instances_{name}.json"))
            number = {image["id"]: len(sizes) + n for n, image in enumerate(content["images"])}
            sizes += [(image["width"], image["height"]) for image in content["images"]]
            for entry in content["annotations"]:
                if not entry["iscrowd"]:
                    x, y, w, h = entry["bbox"]
                    ids.append(number[entry["image_id"]])
                    boxes.append((x, y, x + w, y + h))
    return as_index(np.array(sizes), np.array(ids), np.array(boxes, np.float32))


def report_planning(images: Scenes, plan: ChipPlan) -> None:
    start = time.perf_counter()
    plan_epoch(images.part(slice(0, 1)), plan, 0, 0)
    print(f"the first image, with compiling or loading: {time.perf_counter() - start:.2f} s")
    start = time.process_time()
    table = plan_epoch(images, plan, 0, 0)
    ours = (time.process_time() - start) / len(images)
    arrays = (table.images, table.mirrored, table.scales, table.windows, table.offsets)
    held = sum(array.nbytes for array in (*arrays, table.objects)) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds = ours * len(images)
    met = "met" if seconds <= GOAL * len(images) / IMAGES else "MISSED"
    print(
        f"an epoch of {len(images):,} images, both orientations: {len(table):,} chips in "
        f"{seconds:.1f} core s ({ours * 1e6:.0f} us an image; goal {GOAL} s: {met}); "
        f"{held:.0f} MiB held, {peak:.2f} GiB peak of the process"
    )
    start = time.process_time()
    for number in range(NAIVE):
        naive_plan(images, number, plan)
    naive = (time.process_time() - start) / NAIVE
    met = "met" if naive >= FASTER * ours else "MISSED"
    print(
        f"straight Python: {naive * 1e3:.1f} ms an image, {naive / ours:.0f} times as long "
        f"(goal {FASTER}: {met})"
    )


def naive_plan(images: Scenes, number: int, plan: ChipPlan) -> None:
    scene, image_id = images[number], int(images.ids[images.rows[number]])
    usable = (~scene.ignored).tolist()
    list(image_chips(number, image_id, scene.size, scene.boxes.tolist(), usable, plan, (0, 0)))


def scattered(images: Scenes) -> Proposals:
    """Return 500 proposals an image at random places, of sizes as the objects'."""
    rng = np.random.default_rng(1)
    limits = np.repeat(images.sizes[images.rows], PROPOSALS, axis=0)
    side = np.clip(np.exp(rng.normal(*LOG_SIZE, (len(limits), 1))), 4, limits)
    corner = rng.random((len(limits), 2)) * (limits - side)
    boxes = np.hstack([corner, corner + side]).astype(np.float32)
    return Proposals(images.ids[images.rows], np.arange(len(images) + 1) * PROPOSALS, boxes)


def report_negatives(images: Scenes, plan: ChipPlan) -> None:
    images = images.part(slice(0, WITH_PROPOSALS))
    proposals = scattered(images)
    start = time.process_time()
    table = plan_epoch(images, plan, 0, 0, proposals)
    seconds = (time.process_time() - start) / len(images)
    negative = (np.diff(table.offsets) == 0).sum() / len(images) / 2
    print(
        f"with {PROPOSALS} proposals an image: {seconds * 1e6:.0f} us an image, "
        f"{seconds * IMAGES:.0f} core s for COCO; {negative:.2f} negative chips an orientation"
    )


def report_pixels(name: str, images: Scenes, plan: ChipPlan) -> None:
    """Print pixels trained an image against all scales whole, and against one of 800 x 1333."""
    sizes = images.sizes[images.rows].astype(float)
    areas = sizes.prod(1)
    pyramid = sum((areas * scale.resize_factors(sizes) ** 2).mean() for scale in plan.scales)
    single = (areas * np.minimum(800 / sizes.min(1), 1333 / sizes.max(1)) ** 2).mean()
    for kind, proposals in (("positive chips", None), ("and negative ones", scattered(images))):
        chips = len(plan_epoch(images, plan, 0, 0, proposals)) / len(images) / 2
        pixels = chips * plan.size**2
        print(
            f"{name}, {kind}: {chips:.2f} chips an image, {pixels / pyramid:.0%} of the pyramid's "
            f"{pyramid / 1e6:.2f} Mpx (paper: 36 %), {pixels / single:.2f} times one image of "
            f"800 x 1333 (paper: 1.3)"
        )


def report_loading(folder: Path, plan: ChipPlan) -> None:
    """Print chips a second in the order of a training, and image by image, decoded once."""
    index = real()
    archives = [SAMPLE / f"{name}2017.zip" for name in ("train", "val")]
    if index is None or not all(archive.is_file() for archive in archives):
        print("loading: no real images here")
        return
    names = []
    for archive in archives:
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)
    content = zipfile.ZipFile(SAMPLE / "annotations_trainval2017.zip")
    for name in ("train2017", "val2017"):
        entries = json.loads(content.read(f"annotations/instances_{name}.json"))["images"]
        names += [f"{name}/{entry['file_name']}" for entry in entries]
    index.images["path"] = names
    dataset = ChipDataset(scenes(replace(index, root=folder)), plan, torch.zeros(3), 0, 0)
    orders = {"as trained": np.ravel(epoch_order(len(dataset), 16, 0, 0)).tolist()}
    orders["image by image"] = list(range(len(dataset)))
    for name, order in orders.items():
        for kept in (0, 1) if name == "image by image" else (0, 64):
            start = time.process_time()
            decoded = load(dataset, order, kept)
            rate = len(order) / (time.process_time() - start)
            print(
                f"loading {name}, {kept} decoded images kept: {rate:.0f} chips a core second, "
                f"{decoded / len(order):.2f} images decoded a chip"
            )


def load(dataset: ChipDataset, order: list[int], kept: int) -> int:
    """Cut the chips in this order, so many decoded images kept; return how many were decoded."""
    images: OrderedDict[Path, torch.Tensor] = OrderedDict()
    decoded = 0
    for number in order:
        scene, mirrored, chip = dataset.chip(number)
        if scene.path not in images:
            images[scene.path] = decode(scene.path)
            decoded += 1
        images.move_to_end(scene.path)
        image = images[scene.path]
        cut(image.flip(2) if mirrored else image, chip)
        while len(images) > kept:
            images.popitem(last=False)
    return decoded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=IMAGES, help="images of the generated index")
    parser.add_argument("--folder", type=Path, help="where to extract (default: a temporary one)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    plan = chip_plan(load_file(RECIPE, DetectionRecipe).chips)
    images = scenes(generated(arguments.images))
    report_planning(images, plan)
    report_negatives(images, plan)
    report_pixels("generated", images.part(slice(0, WITH_PROPOSALS)), plan)
    if (index := real()) is not None:
        report_pixels("256 real COCO images", scenes(index), plan)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        report_loading(Path(folder), plan)


if __name__ == "__main__":
    main()
