"""Group the classes of a data set into super-classes by k-means on their mean features."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from detransfer.console import InputError, run
from detransfer.data.superclasses import cluster
from detransfer.files import atomic

log = logging.getLogger("cluster_superclasses")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--features", required=True, type=Path, help=".npy file, float32 (images, features)")
    add("--images", required=True, type=Path, help="images.parquet; row i belongs to features i")
    add(
        "--objects",
        type=Path,
        help="objects.parquet, for images without a class_id: an image then counts for every class "
        "that it has a box of",
    )
    add("--classes", required=True, type=Path, help="classes.csv of the same index")
    add("--k", required=True, type=int, help="number of super-classes; 1 is plain objectness")
    add("--seed", required=True, type=int, help="of k-means")
    add("--output", required=True, type=Path, help="CSV: class_id, superclass (0 to k - 1)")
    return parser.parse_args()


def load_features(path: Path) -> np.ndarray:
    """Return the features, mapped into memory and not read."""
    try:
        features: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable .npy file ({error})") from error
    if features.ndim != 2 or features.dtype != np.float32:
        raise InputError(
            f"{path}: expected float32 of shape (images, features), "
            f"got {features.dtype} of shape {features.shape}"
        )
    return features


def load_table(path: Path, columns: list[str]) -> pd.DataFrame:
    """Return columns of a Parquet or CSV table."""
    try:
        table = pd.read_csv(path) if path.suffix == ".csv" else pq.read_table(path).to_pandas()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a readable table ({error})") from error
    if lacking := [name for name in columns if name not in table]:
        raise InputError(f"{path}: has no column {lacking[0]!r}")
    return table


def memberships(
    images: pd.DataFrame, objects: pd.DataFrame | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows, class ids): the pairs of image and class; see the option ``--objects``."""
    if objects is None:
        return np.arange(len(images)), images["class_id"].to_numpy()
    row = pd.Series(range(len(images)), index=images["image_id"])
    pairs = objects[["image_id", "class_id"]].drop_duplicates()
    pairs = pairs[pairs["image_id"].isin(row.index)]  # features of some of the images will do
    return row[pairs["image_id"]].to_numpy(), pairs["class_id"].to_numpy()


def main() -> None:
    arguments = parse()
    features = load_features(arguments.features)
    boxes = arguments.objects
    images = load_table(arguments.images, ["image_id"] if boxes else ["class_id"])
    objects = load_table(boxes, ["image_id", "class_id"]) if boxes else None
    classes = load_table(arguments.classes, ["class_id", "name"])
    if len(images) != len(features):
        raise InputError(
            f"{arguments.features}: has {len(features)} rows, but {arguments.images} has "
            f"{len(images)} images; extract the features again"
        )
    if classes["class_id"].tolist() != list(range(len(classes))):
        raise InputError(f"{arguments.classes}: class ids are not 0, 1, 2, ... in order")
    names = classes["name"].astype(str).tolist()
    rows, class_ids = memberships(images, objects)
    labels, _ = cluster(features, rows, class_ids, names, arguments.k, arguments.seed)
    with atomic(arguments.output) as temporary:
        table = pd.DataFrame({"class_id": classes["class_id"], "superclass": labels})
        table.to_csv(temporary, index=False)
    sizes = np.bincount(labels)
    log.info("%d super-classes of %d to %d classes", len(sizes), sizes.min(), sizes.max())


if __name__ == "__main__":
    run(main)
