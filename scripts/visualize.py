"""Record what a frozen network looks at in test images: activation maps, and mask-out maps.

Writes activation.npy (n, h, w) float32, Conv5 averaged over channels and scaled to 0..255; with a
probe maskout.npy (n, g, g) float32, the probability of the true class with a blank square at each
position; images.parquet, whose row i is image i with its numbers; and metrics.json, their means.

With a probe, the images are those whose class it knows; without, all of the split, whose masks say
what the activation maps cover. Started again after an interruption it goes on where it ended.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

import detransfer
from detransfer.backbone import conv5
from detransfer.console import InputError, run
from detransfer.data.image_classes import image_classes
from detransfer.data.index import Index, read_index
from detransfer.data.masks import mask_paths, read_mask
from detransfer.data.views import CentralViews
from detransfer.device_faults import device_faults
from detransfer.features.extract import load_frozen
from detransfer.features.store import FeatureWriter
from detransfer.files import atomic, digest, sha256
from detransfer.imports import code_digest, imported_files
from detransfer.locks import sole_writer
from detransfer.recipes.classification import FeatureRecipe
from detransfer.report.metrics import (
    Metric,
    RunMetrics,
    RunName,
    provenance,
    write_metrics,
)
from detransfer.strict import load_file
from detransfer.training_log import device_name
from detransfer.training_run import add_architecture, architecture_of, use_machine
from detransfer.untrained import estimate_statistics
from detransfer.visualization.activations import activation_maps, central_mask, enlarge
from detransfer.visualization.coverage import area_share, best_iou, inside_share
from detransfer.visualization.folding import fold
from detransfer.visualization.grid import Grid
from detransfer.visualization.maskout import (
    MaskOut,
    fragile_share,
    mean_drop,
    probabilities,
)
from detransfer.visualization.probe import FittedProbe, read_probe
from detransfer.visualization.recipe import VisualizationRecipe

log = logging.getLogger("visualize")
Rows = dict[str, np.ndarray]


@dataclass(frozen=True)
class Task:
    """What is looked at: an index of the images, their classes in the probe, and how."""

    index: Index
    place: np.ndarray
    view: FeatureRecipe
    recipe: VisualizationRecipe
    probe: FittedProbe | None


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--weights", type=Path, required=True, help="backbone.safetensors or model.safetensors")
    add("--index", type=Path, required=True, help="folder of the data set's index")
    add("--splits", nargs="+", required=True, help="splits to learn from: an untrained network's")
    add("--eval-split", required=True, help="split whose images are looked at")
    add("--view", type=Path, required=True, help="recipe of the features")
    add("--recipe", type=Path, required=True, help="recipe of the visualization")
    add("--probe", type=Path, help="folder of a probe of these weights' Conv5")
    add("--state", type=Path, required=True, help="folder for unfinished recordings")
    add("--output", type=Path, required=True, help="folder to write the files into")
    add("--threads", type=int, default=1, help="processor cores to use")
    add("--pretraining", required=True, help="name of the run's pre-training, for the record")
    add("--target", required=True, help="name of the run's target, for the record")
    add("--dataset", required=True, help="name of the target's data set, for the record")
    add("--seed", type=int, required=True, help="seed of the probe, for the record")
    add_architecture(parser)
    return parser.parse_args()


def load_task(arguments: argparse.Namespace, index: Index) -> Task:
    """Return the images to look at; raises InputError where the probe knows none of them."""
    view = load_file(arguments.view, FeatureRecipe)
    recipe = load_file(arguments.recipe, VisualizationRecipe)
    part = index.split(arguments.eval_split)
    if arguments.probe is None:
        mask_paths(part)  # raises where there are none
        return Task(part, np.full(len(part.images), -1), view, recipe, None)
    probe = read_probe(arguments.probe, arguments.weights, index, view)
    known = np.isin(image_classes(part), probe.class_ids)
    if not known.any():
        raise InputError(
            f"{arguments.probe}: knows the class of no image of {arguments.eval_split!r} in "
            f"{arguments.index}; fit a probe of its classes"
        )
    if not known.all():
        log.info("%d images without one class that the probe knows: left out", (~known).sum())
    part = chosen_images(part, np.flatnonzero(known), recipe.images)
    place = np.searchsorted(probe.class_ids, image_classes(part))
    return Task(part, place, view, recipe, probe)


def chosen_images(index: Index, rows: np.ndarray, count: int | None) -> Index:
    """Return the images in these rows, or so many of them, the same in every call."""
    if count is not None:
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:count])
    images = index.images.iloc[rows].reset_index(drop=True)
    objects = index.objects[index.objects["image_id"].isin(images["image_id"])]
    return replace(index, images=images, objects=objects.reset_index(drop=True), negatives=None)


@torch.inference_mode()
def record(task: Task, network: nn.Module, state: Path, device: torch.device, workers: int) -> Rows:
    """Look at every image, going on where ``state`` ends; return the rows, mapped, by name."""
    views = CentralViews(task.index, task.view.size, task.view.resize)
    recipe = task.recipe
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    masks = None
    if task.probe is not None:
        grid = Grid(task.view.size, recipe.mask, recipe.stride)
        masks = MaskOut(network, grid, recipe.batch_size, recipe.precision)
    writer = FeatureWriter(state, len(views))
    marked = started = time.monotonic()
    first = writer.rows
    rest = Subset(views, range(first, len(views)))
    loader = DataLoader(rest, None, num_workers=workers, pin_memory=device.type == "cuda")
    for image in loader:
        rows = look(network, image.to(device), task, masks, writer.rows)
        if not all(np.isfinite(values).all() for values in rows.values()):
            path = views.root / views.paths[writer.rows]
            raise InputError(f"{path}: its activations are not finite; are the weights sound?")
        writer.append(rows)
        if time.monotonic() - marked > task.view.checkpoint_seconds:
            writer.mark()
            marked = time.monotonic()
    writer.mark()
    speed = (writer.rows - first) / max(time.monotonic() - started, 1e-9)
    log.info("%d images at %.2f images/s", writer.rows - first, speed)
    return {
        name: np.load(state / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        for name in writer.dimensions
    }


def look(network: nn.Module, image: Tensor, task: Task, masks: MaskOut | None, row: int) -> Rows:
    """Return what is recorded of one view uint8 (3, s, s), on the network's device."""
    recipe, probe = task.recipe, task.probe
    maps = conv5(network, image[None], recipe.precision)
    found = {"activation": activation_maps(maps).flatten(1)}
    if probe is not None and masks is not None:
        weight, bias = (
            torch.from_numpy(part).to(image.device) for part in (probe.weight, probe.bias)
        )
        place = int(task.place[row])
        plain = probabilities(maps.mean((2, 3)), weight, bias)[0]
        found["maskout"] = probabilities(masks.features(image), weight, bias)[None, :, place]
        found["plain"] = torch.stack([plain[place], plain.argmax().float()])[None]
    return {name: values.float().cpu().numpy() for name, values in found.items()}


def squared(rows: np.ndarray) -> np.ndarray:
    """Return rows (n, side * side) as maps (n, side, side)."""
    return np.asarray(rows).reshape(len(rows), math.isqrt(rows.shape[1]), -1)


def numbers(task: Task, found: Rows) -> pd.DataFrame:
    """Return a row for each image: what it is, and the numbers of its maps."""
    table = task.index.images[["image_id", "path"]].copy()
    if task.probe is not None:
        maps = squared(found["maskout"])
        unmasked = found["plain"][:, 0].astype(np.float64)
        table["class_id"] = task.probe.class_ids[task.place]
        table["predicted"] = task.probe.class_ids[found["plain"][:, 1].astype(int)]
        table["probability"] = unmasked
        table["mean_drop"] = mean_drop(maps, unmasked)
        table["fragile_share"] = fragile_share(maps, unmasked)
        return table
    maps = squared(found["activation"])
    covered = []
    for path, small in zip(mask_paths(task.index), maps, strict=True):
        classes = len(task.index.classes) - 1
        labels = central_mask(read_mask(path, classes), task.view.size, task.view.resize)
        activation = enlarge(small[None], task.view.size)[0]
        ious = (best_iou(shade, labels) for shade in (activation, -activation))
        covered.append((inside_share(activation, labels), *ious, area_share(labels)))
    table[["inside_share", "best_iou", "trough_iou", "object_area"]] = covered
    return table


def summary(table: pd.DataFrame) -> tuple[Metric, ...]:
    """Return the means of the images' numbers, in percent; images without an object have none."""
    floor = None
    if "object_area" in table:
        floor = 100 * float(table.loc[table["best_iou"].notna(), "object_area"].mean())
    floors = dict.fromkeys(("inside_share", "best_iou", "trough_iou"), floor)
    known = (*floors, "probability", "mean_drop", "fragile_share")
    return tuple(
        Metric(
            name, 100 * float(table[name].mean()), "%", int(table[name].count()), floors.get(name)
        )
        for name in known
        if name in table and table[name].notna().any()
    )


def write_files(output: Path, task: Task, found: Rows, table: pd.DataFrame) -> None:
    """Write the maps and the table of images."""
    maps = {"activation": squared(found["activation"])}
    if task.probe is not None:
        maps["maskout"] = squared(found["maskout"])
    for name, values in maps.items():
        with atomic(output / f"{name}.npy") as temporary, temporary.open("wb") as file:
            np.save(file, values)
    with atomic(output / "images.parquet") as temporary:
        table.to_parquet(temporary, index=False)


def identify(arguments: argparse.Namespace, task: Task) -> dict[str, str | int | float]:
    """Return what decides what the numbers mean, but for the network."""
    return {
        "evaluation_data": task.index.digest(),
        "evaluation_split": arguments.eval_split,
        "view": sha256(arguments.view),
        "recipe": sha256(arguments.recipe),
        "probe": task.probe.recipe if task.probe else "none",
        "image_size": task.view.size,
    }


def main() -> None:
    arguments = parse()
    device, workers = use_machine(arguments.threads)
    index = read_index(arguments.index)
    task = load_task(arguments, index)
    backbone, header = load_frozen(
        arguments.weights, task.view.output_stride, arguments.architecture
    )
    files = imported_files(Path(__file__), Path(detransfer.__file__).parent)
    architecture = architecture_of(header, arguments.weights, arguments.architecture)
    code = code_digest([*files, *([architecture.file] if architecture.file else [])])
    alike = identify(arguments, task)
    fixed: dict[str, Any] = {**alike, "weights": sha256(arguments.weights), "code": code}
    if arguments.probe:
        fixed["probe"] = sha256(arguments.probe / "probe.safetensors")
    state = arguments.state / digest([json.dumps(fixed, sort_keys=True)])[:16]
    remedy = f"Lower batch_size in {arguments.recipe}"
    with sole_writer(state):
        with device_faults(device, f"looking at {arguments.weights}", remedy):
            if header.get("kind") == "untrained":
                learnt = index.split(*arguments.splits)
                views = CentralViews(learnt, task.view.size, task.view.resize)
                estimate_statistics(backbone, views, device, task.view.precision)
            found = record(task, fold(backbone), state, device, workers)
        table = numbers(task, found)
        write_files(arguments.output, task, found, table)
        name = (arguments.target, arguments.dataset, arguments.pretraining, arguments.seed)
        origin = provenance(arguments.weights, header, code, device_name(device))
        content = RunMetrics(RunName("visualization", *name), summary(table), {}, alike, origin)
        write_metrics(arguments.output / "metrics.json", content)
        shutil.rmtree(state)


if __name__ == "__main__":
    run(main)
