"""Write one page on which to look around in the feature spaces of a data set.

Two t-SNE planes side by side; pointing at a dot shows its image, choosing it its nearest images in
both spaces, and its activation and mask-out maps where there are some. The page is one file: images
and numbers lie in it, and it asks nothing of any other place.

The images on it are of one split, drawn evenly over the classes, cut as the networks see them.
Nearest images are those among all that have features; what is not on the page otherwise is there as
a smaller thumbnail.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from detransfer.console import InputError, run
from detransfer.data.index import Index, read_index
from detransfer.features.neighbours import nearest_neighbours
from detransfer.features.recipe import AnalysisRecipe, ExplorerRecipe
from detransfer.features.store import Features, open_features
from detransfer.files import atomic
from detransfer.strict import load_file

log = logging.getLogger("explorer")
LAYER = "conv5"
ACROSS = 16  # thumbnails in a row, and rows, of one sheet
QUALITY = 80  # of JPEG
ADDED = 32768  # thumbnails of nearest images that have no dot, at most: about 25 MB
MAPS = {
    "activation": "activation: mean of Conv5, from its least to its largest",
    "maskout": "mask-out: probability of the class with a square hidden there, 0 to 1",
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--space",
        nargs=3,
        action="append",
        required=True,
        metavar=("NAME", "FEATURES", "EMBEDDING"),
        help="a pre-training's features and embedding.parquet",
    )
    add(
        "--maps",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "FOLDER"),
        help="a pre-training's activation.npy and maskout.npy, with images.parquet",
    )
    add("--start", nargs=2, metavar=("LEFT", "RIGHT"), help="the spaces shown first")
    add("--index", type=Path, required=True, help="folder of the data set's index")
    add("--split", required=True, help="split whose images are on the page")
    add("--recipe", type=Path, required=True, help="recipe of the analysis")
    add("--template", type=Path, required=True, help="the page without its data")
    add("--output", type=Path, required=True, help="page to write")
    return parser.parse_args()


def evenly(class_ids: np.ndarray, count: int, mapped: np.ndarray) -> np.ndarray:
    """Return at most ``count`` rows, as many of each class as can be, in ascending order.

    Of a class's images those that are ``mapped`` come first.
    """
    order = np.random.default_rng(0).permutation(len(class_ids))
    order = order[np.argsort(~mapped[order], kind="stable")]
    turn = pd.Series(class_ids[order]).groupby(class_ids[order]).cumcount().to_numpy()
    return np.sort(order[np.argsort(turn, kind="stable")][:count])


def cut(path: Path, view: dict[str, Any], side: int) -> Image.Image:
    """Return an image's central view, as the networks see it, as a square of ``side`` pixels."""
    with Image.open(path) as image:
        image.draft("RGB", (2 * side, 2 * side))  # which reads a large JPEG faster
        seen = min(image.size) * view["size"] / view["resize"]
        left, top = ((length - seen) / 2 for length in image.size)
        box = (left, top, left + seen, top + seen)
        return image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS, box)


def sheets(paths: list[Path], view: dict[str, Any], side: int) -> list[str]:
    """Return the thumbnails of all images on square sheets, as data URIs."""
    found = []
    for start in range(0, len(paths), ACROSS**2):
        sheet = Image.new("RGB", (ACROSS * side, ACROSS * side))
        for place, path in enumerate(paths[start : start + ACROSS**2]):
            corner = (place % ACROSS * side, place // ACROSS * side)
            sheet.paste(cut(path, view, side), corner)
        file = io.BytesIO()
        sheet.save(file, "JPEG", quality=QUALITY)
        found.append(f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}")
    return found


def encoded(values: np.ndarray, kind: str) -> str:
    """Return numbers in base64, little-endian."""
    return base64.b64encode(np.ascontiguousarray(values).astype(kind).tobytes()).decode()


def nearest_rows(
    features: Features, plane: pd.DataFrame, rows: np.ndarray, count: int
) -> np.ndarray:
    """Return the rows of the images, of all of a space, that are nearest to these: (n, count).

    Of images that are all alike none is nearer than another: then (0, count).
    """
    if not plane["image_id"].equals(features.images["image_id"]):
        raise InputError(f"{features.folder}: its embedding is of other images; embed it again")
    alike = percent(plane["agreement_space"]) is None
    return nearest_neighbours(features.layer(LAYER), count, rows[:0] if alike else rows)


def space_data(plane: pd.DataFrame, known: np.ndarray, near: np.ndarray) -> dict[str, Any]:
    """Return what the page knows of a space: places of the known rows, and nearest images."""
    places = np.nan_to_num(plane[["x", "y"]].to_numpy()[known])
    low, high = places.min(0), places.max(0)
    shares = (places - low) / np.maximum(high - low, 1e-12)
    number = np.full(len(plane), -1)
    number[known] = np.arange(len(known))
    return {
        "places": encoded(np.round(65535 * shares), "<u2"),
        "nearest": encoded(number[near], "<u4"),
        "agreement": percent(plane["agreement_space"]),
        "agreementPlane": percent(plane["agreement_plane"]),
        "problem": plane["problem"].iloc[0],
        "maps": {},
    }


def others(rows: np.ndarray, near: list[np.ndarray]) -> np.ndarray:
    """Return what is near to some of ``rows`` and none of them, the most frequent rows first."""
    found, times = np.unique(np.concatenate(near), return_counts=True)
    ordered = found[np.argsort(-times, kind="stable")]
    return ordered[~np.isin(ordered, rows)]


def percent(shares: pd.Series) -> int | None:
    """Return the mean of shares in whole percent; None where there are none."""
    return None if shares.isna().any() else round(100 * float(shares.mean()))


def read_maps(folder: Path, image_ids: np.ndarray) -> dict[str, Any]:
    """Return the maps (0 to 255) of those of the images that have some."""
    known = pd.Index(pd.read_parquet(folder / "images.parquet")["image_id"])
    where = known.get_indexer(pd.Index(image_ids))
    has = where >= 0
    rows = np.where(has, has.cumsum() - 1, -1)
    found = {}
    for name, title in MAPS.items():
        values = np.asarray(
            np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)[where[has]],
            np.float32,
        )
        if name == "activation":
            low, high = (f((1, 2), keepdims=True) for f in (values.min, values.max))
            values = (values - low) / np.maximum(high - low, 1e-12)
        found[name] = {
            "title": title,
            "height": values.shape[1],
            "width": values.shape[2],
            "rows": rows.tolist(),
            "values": encoded(np.round(255 * np.clip(values, 0, 1)), "u1"),
        }
    return found


def page_data(
    spaces: dict[str, tuple[Features, pd.DataFrame]],
    index: Index,
    split: str,
    look: ExplorerRecipe,
    mapped: set[int],
) -> dict[str, Any]:
    """Return all that the page knows but for the maps; ``mapped`` are the images that have some."""
    first = next(iter(spaces.values()))[0]
    images = first.images
    for name, (features, _) in spaces.items():
        if not features.images["image_id"].equals(images["image_id"]):
            raise InputError(f"{name}: has features of other images than {first.folder}")
    candidates = np.flatnonzero(images["split"] == split)
    if not len(candidates):
        raise InputError(
            f"{first.folder}: no image of split {split!r}; record them, or name another"
        )
    class_ids = images["class_id"].to_numpy()[candidates]
    has_maps = images["image_id"].isin(mapped).to_numpy()[candidates]
    rows = candidates[evenly(class_ids, look.images, has_maps)]
    neighbours = min(look.neighbours, len(images) - 1)
    near = {
        name: nearest_rows(features, plane, rows, neighbours)
        for name, (features, plane) in spaces.items()
    }
    known = np.concatenate([rows, others(rows, list(near.values()))])
    kinds, places = np.unique(images["class_id"].to_numpy()[known], return_inverse=True)
    paths = [index.root / path for path in images["path"].iloc[known]]
    view, added = first.header["view"], paths[len(rows) :][:ADDED]
    log.info("%d images, and %d that are near to them", len(rows), len(known) - len(rows))
    return {
        "dataset": index.root.name,
        "images": len(images),
        "ids": images["image_id"].iloc[rows].tolist(),
        # From here on the images with a dot come first, and after them those that are near to them.
        "names": images["path"].iloc[known].tolist(),
        "classOf": places.tolist(),
        "classes": index.classes["name"].to_numpy()[kinds].tolist(),
        "largest": np.argsort(-np.bincount(places[: len(rows)]), kind="stable")[:8].tolist(),
        "neighbours": neighbours,
        "thumbnails": {"across": ACROSS, "side": look.thumbnail},
        "pictured": len(rows) + len(added),
        "sheets": [
            *sheets(paths[: len(rows)], view, look.thumbnail),
            *sheets(added, view, (look.thumbnail + 1) // 2),
        ],
        "spaces": [
            {"name": name, **space_data(plane, known, near[name])}
            for name, (_, plane) in spaces.items()
        ],
    }


def main() -> None:
    arguments = parse()
    look = load_file(arguments.recipe, AnalysisRecipe).explorer
    spaces = {
        name: (open_features(Path(folder)), pd.read_parquet(plane))
        for name, folder, plane in arguments.space
    }
    maps = {name: Path(folder) for name, folder in arguments.maps}
    mapped = {
        image_id
        for folder in maps.values()
        for image_id in pd.read_parquet(folder / "images.parquet")["image_id"]
    }
    data = page_data(spaces, read_index(arguments.index), arguments.split, look, mapped)
    names = list(spaces)
    data["start"] = [names.index(name) for name in arguments.start or (names[0], names[-1])]
    for name, folder in maps.items():
        data["spaces"][names.index(name)]["maps"] = read_maps(folder, np.array(data["ids"]))
    # In a script element, only `</` could end it.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
    page = arguments.template.read_text(encoding="utf-8").replace("__DATA__", text)
    with atomic(arguments.output) as temporary:
        temporary.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    run(main)
