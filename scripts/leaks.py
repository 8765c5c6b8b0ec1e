"""Guess the classes of test images from what must not tell them, as a control of a rendered world.

From the number in the file's name, from its length in bytes, from the image's size, and from its
outermost pixels: each by a random forest, learnt on the training images. The class is the image's,
or that of its largest object.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.ensemble import RandomForestClassifier

from detransfer.console import run
from detransfer.data.index import BOX, Index, read_index
from detransfer.report.controls import COLUMNS, one_run, outcome
from detransfer.report.tables import write_table

TREES = 100
POINTS = 16  # pixels of a side of the border that are looked at


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--index", type=Path, required=True, help="folder of the data set's index")
    add("--splits", nargs="+", required=True, help="splits to learn from")
    add("--eval-split", required=True, help="split to guess the classes of")
    add("--target", required=True, help="name of the target")
    add("--output", type=Path, required=True, help="CSV to write")
    return parser.parse_args()


def class_ids(index: Index) -> np.ndarray:
    """Return the class (n,) of each image, or of its largest object that counts; -1: none."""
    if "class_id" in index.images:
        return index.images["class_id"].to_numpy(np.int64)
    objects = index.objects[~index.objects[["difficult", "crowd", "group_of"]].any(axis=1)]
    sides = objects[BOX[2:]].to_numpy() - objects[BOX[:2]].to_numpy()
    largest = objects.assign(area=sides.prod(1)).sort_values("area").groupby("image_id").last()
    found = largest["class_id"].reindex(index.images["image_id"], fill_value=-1)
    return found.to_numpy(np.int64)


def border(path: Path) -> np.ndarray:
    """Return the colours of points on the four sides, (4 * POINTS * 3,)."""
    with Image.open(path) as file:  # no torch, which takes longer to start than all else here
        image = np.asarray(file.convert("RGB"))
    sides = (image[0], image[-1], image[:, 0], image[:, -1])
    places = [np.linspace(0, len(side) - 1, POINTS).round().astype(int) for side in sides]
    return np.concatenate([s[p].ravel() for s, p in zip(sides, places, strict=True)])


def nuisances(index: Index) -> dict[str, np.ndarray]:
    """Return what must not tell a class, by name: one row an image."""
    images = index.images
    paths = [index.root / path for path in images["path"]]
    numbers = [re.findall(r"\d+", path.stem) for path in paths]
    return {
        "number in the file name": np.array([[float(n[-1]) if n else 0.0] for n in numbers]),
        "length in bytes": np.array([[path.stat().st_size] for path in paths], float),
        "image size": images[["width", "height"]].to_numpy(float),
        "one-pixel border": np.stack([border(path) for path in paths]).astype(float),
    }


def main() -> None:
    arguments = parse()
    index = read_index(arguments.index)
    parts = [index.split(*arguments.splits), index.split(arguments.eval_split)]
    labels = [class_ids(part) for part in parts]
    known, asked = (each >= 0 for each in labels)
    train, test = (nuisances(part) for part in parts)
    rows = []
    for name, values in train.items():
        forest = RandomForestClassifier(TREES, random_state=0).fit(values[known], labels[0][known])
        guessed = forest.predict(test[name][asked])
        interval = one_run((labels[1][asked], guessed))
        # Worse than chance can be: a number that a class has in training it lacks in the test.
        what = f"top-1 from the {name}"
        rows.append(outcome("leaks", arguments.target, what, interval, worse=True))
    write_table(arguments.output, pd.DataFrame(rows, columns=COLUMNS))


if __name__ == "__main__":
    run(main)
