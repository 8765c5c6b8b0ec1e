"""Figure 8: where a frozen network is active, beside the objects of the image.

A table of how much of the activation lies on the objects, by pre-training and group of images, with
paired differences; and activation maps of images that a rule chooses.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from detransfer.console import run
from detransfer.data.index import Index, read_index
from detransfer.data.masks import mask_paths, read_mask
from detransfer.recipes.classification import FeatureRecipe
from detransfer.report.paired import Measured, compare
from detransfer.report.tables import write_table
from detransfer.strict import load_file
from detransfer.visualization.gallery import (
    Row,
    Scale,
    central_picture,
    choose,
    credit_of,
    draw,
    note_of,
    shown,
    view_of,
)
from detransfer.visualization.plotting import save_figure
from detransfer.visualization.recorded import Recorded, read_recorded

METRICS = ["inside_share", "best_iou", "trough_iou"]
RULE = (
    "gain: best_iou minus that of the baseline, in points, mean over the contrasts; where no mask "
    "shows an object the mean distance of the two maps, of 255"
)
SCALE = Scale("viridis", 255, "mean of Conv5, each map from its least to its largest value")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="FOLDER", help="what scripts/visualize.py wrote")
    add(
        "--target",
        nargs=3,
        required=True,
        metavar=("NAME", "INDEX", "SPLIT"),
        help="the target of the runs: the folder of its index, and the split that was looked at",
    )
    add("--objects", type=Path, help="index of the same images that has their objects' boxes")
    add("--view", type=Path, required=True, help="recipe of the features")
    add(
        "--contrast",
        nargs=2,
        action="append",
        required=True,
        metavar=("RUN", "BASELINE"),
        help="two pre-trainings that are compared and drawn; can be given again",
    )
    add(
        "--control",
        nargs=2,
        action="append",
        default=[],
        metavar=("RUN", "BASELINE"),
        help="two pre-trainings that are compared in the table alone; can be given again",
    )
    add("--csv", type=Path, required=True, help="numbers to write")
    add("--images", type=Path, required=True, help="table of the chosen images to write")
    add("--pdf", type=Path, required=True, help="picture to write")
    add("--png", type=Path, required=True, help="picture to write")
    return parser.parse_args()


def with_objects(index: Index, other: Path | None) -> Index:
    """Return the index with the objects that another one knows of the same files."""
    if other is None:
        return index
    known = read_index(other)
    same = known.images[["image_id", "path"]].merge(
        index.images[["image_id", "path"]], on="path", suffixes=("_there", "")
    )
    ids = known.objects["image_id"].map(same.set_index("image_id_there")["image_id"])
    objects = known.objects[ids.notna()].assign(image_id=ids.dropna().astype(np.int32))
    return replace(index, objects=objects.reset_index(drop=True)).in_order()


def why_unmeasured(recorded: Recorded) -> str:
    """Return why the maps cannot be held against objects; empty where they can be."""
    tables = recorded.tables.values()
    if any("best_iou" not in table for table in tables):
        return "no target of segmentation, so no masks"
    known = np.all([np.isfinite(table[METRICS]).all(axis=1) for table in tables], axis=0)
    return "" if known.any() else "no object in the view of any image with a mask"


def numbers(recorded: Recorded, pairs: Sequence[Sequence[str]]) -> pd.DataFrame:
    """Return the figure's table; where there is nothing to measure by, one row that says so."""
    first = next(iter(recorded.tables.values()))
    if why := why_unmeasured(recorded):
        note = f"{why}: nothing to measure the maps by"
        return pd.DataFrame([{"images": len(first), "metric": "none", "note": note}])
    groups = recorded.groups()
    measured = {
        name: Measured(100 * table[METRICS].to_numpy()) for name, table in recorded.tables.items()
    }
    found = compare(measured, METRICS, pairs, groups)
    flat = Measured(100 * first[["object_area"]].where(first["best_iou"].notna()).to_numpy())
    floors = compare({"flat": flat}, ["floor"], [], groups).set_index(["by", "low"])["mean"]
    found["floor"] = floors.loc[list(zip(found["by"], found["low"], strict=True))].to_numpy()
    found.loc[found["baseline"] != "", "floor"] = np.nan
    return found


def gains(recorded: Recorded, contrasts: list[tuple[str, str]]) -> pd.DataFrame:
    """Return the images with how much the runs of the contrasts gain on their baselines."""
    shown, tables = recorded.images.copy(), recorded.tables
    if not why_unmeasured(recorded):
        each = [100 * (tables[a]["best_iou"] - tables[b]["best_iou"]) for a, b in contrasts]
        for name, table in tables.items():
            shown[name] = 100 * table["best_iou"]
    else:
        maps = recorded.maps("activation")
        each = [pd.Series(np.abs(maps[a] - maps[b]).mean((1, 2))) for a, b in contrasts]
    return shown.assign(gain=np.mean(each, axis=0))


def drawn(
    recorded: Recorded, chosen: pd.DataFrame, names: list[str], view: FeatureRecipe
) -> list[Row]:
    """Return the chosen images as they are drawn, their objects outlined where there are masks."""
    index, maps, rows = recorded.index, recorded.maps("activation"), []
    for place, (_, image) in zip(chosen.index.tolist(), chosen.iterrows(), strict=True):
        objects = None
        if "mask" in index.images:
            path = mask_paths(index)[recorded.places[place]]
            mask = Image.fromarray(read_mask(path, len(index.classes) - 1))
            objects = central_picture(mask, view.size, view.resize, labels=True)
        picture = view_of(index.root / image["path"], view.size, view.resize)
        kind, gain = str(image["chosen_as"]), float(image["gain"])
        shades = [maps[name][place] for name in names]
        rows.append(
            Row(picture, kind, gain, credit_of(image["image_id"], image["path"]), shades, objects)
        )
    return rows


def main() -> None:
    arguments = parse()
    view = load_file(arguments.view, FeatureRecipe)
    target, folder, split = arguments.target
    index = with_objects(read_index(Path(folder)).split(split), arguments.objects)
    (recorded,) = read_recorded(arguments.runs, {target: index})
    contrasts = recorded.contrasts(arguments.contrast)
    table = numbers(recorded, [*contrasts, *arguments.control])
    write_table(arguments.csv, table)
    chosen = choose(gains(recorded, contrasts))
    write_table(arguments.images, chosen.assign(rule=RULE))
    titles = names = shown(recorded.folders, contrasts)
    if why := why_unmeasured(recorded):
        note = f"{why}\nbeside an image: how far its maps are apart, of 255"
    else:
        own = table[(table["by"] == "all") & (table["baseline"] == "")]
        iou = own[own["metric"] == "best_iou"].set_index("run")
        titles = [f"{name}\nIoU {iou['mean'][name]:.1f}" for name in names]
        note = note_of(iou["images"].iloc[0])
    figure = draw(drawn(recorded, chosen, names, view), titles, SCALE, note)
    save_figure(figure, arguments.pdf, arguments.png)


if __name__ == "__main__":
    run(main)
