"""Figure 2: where a detector pre-trained on detection does better than one that is not.

For each pair of runs, a row of images above and one below. Above, the objects that both find and
the first places best against the second, at most one an image. Below, the images with the most
occluded objects that the first finds and the second misses. Nothing is chosen by hand: the rule and
the number of candidates stand in the table, from which (and the images) the picture is drawn.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image

from detransfer.console import InputError, run
from detransfer.data.index import BOX, Index, read_index
from detransfer.detection.detections import read_detections
from detransfer.detection.overlap import iou
from detransfer.report.metrics import read_metrics
from detransfer.report.tables import write_table
from detransfer.visualization.drawing import DrawnBox, draw_boxes
from detransfer.visualization.plotting import save_figure

GREEN, RED, BLUE = "#009E73", "#D55E00", "#0072B2"  # Okabe and Ito's, told apart by everybody
COLOURS = {"first": GREEN, "second": RED, "both": BLUE}
RULES = {
    "localisation": "found by both; largest IoU of the first minus IoU of the second; one an image",
    "occlusion": "occluded or cut, found by the first, missed by the second; most in an image",
}
COLUMNS = [
    *("target", "panel", "first", "second", "image_id", "path", "class", "drawn", *BOX),
    *("iou_first", "iou_second", "candidates", "mean_gap", "rule"),
]
CELL, PIXELS = 1.7, 480  # inches and pixels of one image's longer side


@dataclass(frozen=True)
class Pair:
    """Two runs of one target: their names, and what each found of the same objects (m rows)."""

    target: str
    first: str
    second: str
    index: Index
    objects: tuple[pd.DataFrame, pd.DataFrame]
    overlap: tuple[np.ndarray, np.ndarray]  # IoU of each object with what found it; 0: nothing did
    boxes: tuple[np.ndarray, np.ndarray]  # that detection's box (m, 4)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--pair",
        nargs=4,
        action="append",
        required=True,
        metavar=("FIRST", "SECOND", "INDEX", "SPLIT"),
        help="folders of two runs, the folder of their index, and the split",
    )
    add("--images", type=int, default=4, help="images a row")
    add("--csv", type=Path, required=True, help="table to write")
    add("--pdf", type=Path, required=True, help="picture to write")
    add("--png", type=Path, required=True, help="picture to write")
    return parser.parse_args()


def read_pair(first: Path, second: Path, folder: Path, split: str) -> Pair:
    """Read two runs; raises InputError unless they were analysed on the same objects."""
    index = read_index(folder).split(split)
    objects = [pd.read_parquet(place / "objects.parquet") for place in (first, second)]
    key = ["image_id", "class_id", *BOX]
    if not objects[0][key].equals(objects[1][key]):
        raise InputError(f"{first} and {second}: analysed on different objects; make them again")
    overlaps, boxes, classes = [], [], index.classes["name"].tolist()
    for place, table in zip((first, second), objects, strict=True):
        detections = read_detections(place / "detections.parquet", classes=classes)
        found = detections[BOX].to_numpy(np.float64)
        row = table["detection"].to_numpy()
        box = np.where((row >= 0)[:, None], np.vstack([found, np.zeros(4)])[row], 0.0)
        overlaps.append(np.where(row >= 0, iou(box, table[BOX].to_numpy(np.float64)), 0.0))
        boxes.append(box)
    runs = [read_metrics(place / "metrics.json").run for place in (first, second)]
    return Pair(
        runs[0].target,
        runs[0].pretraining,
        runs[1].pretraining,
        index,
        (objects[0], objects[1]),
        (overlaps[0], overlaps[1]),
        (boxes[0], boxes[1]),
    )


def better_placed(pair: Pair, images: int) -> pd.DataFrame:
    """Return the drawn boxes of the upper row: both detections of each chosen object."""
    gap = pair.overlap[0] - pair.overlap[1]
    both = np.flatnonzero((pair.overlap[0] > 0) & (pair.overlap[1] > 0))
    order = both[np.argsort(-gap[both], kind="stable")]
    ids = pair.objects[0]["image_id"].to_numpy()
    chosen = [rows[0] for _, rows in _by_image(order, ids)][:images]
    parts = [
        _rows(pair, np.array([row]), drawn, pair.boxes[side])
        for row in chosen
        if gap[row] > 0
        for side, drawn in enumerate(("first", "second"))
    ]
    mean = float(gap[both].mean()) if len(both) else np.nan
    return _panel(pair, "localisation", parts, len(both), mean)


def only_found(pair: Pair, images: int) -> pd.DataFrame:
    """Return the drawn boxes of the lower row: what only the first finds, and what both find."""
    objects, other = pair.objects
    hidden = (objects["level"] >= 1) | objects["truncated"]
    only = np.flatnonzero(hidden & ~objects["missed"] & other["missed"])
    only = only[pair.overlap[0][only] > 0]
    both = np.flatnonzero(~objects["missed"] & ~other["missed"])
    ids = objects["image_id"].to_numpy()
    ranked = sorted(_by_image(only, ids), key=lambda item: -len(item[1]))[:images]
    parts = []
    for image_id, rows in ranked:
        parts.append(_rows(pair, np.array(rows), "first", pair.boxes[0]))
        shared = both[ids[both] == image_id]
        parts.append(_rows(pair, shared, "both", pair.boxes[0]))
    return _panel(pair, "occlusion", parts, len(only), np.nan)


def _by_image(rows: np.ndarray, ids: np.ndarray) -> list[tuple[int, list[int]]]:
    """Return the rows of each image, images in the order of their first row."""
    found: dict[int, list[int]] = {}
    for row in rows.tolist():
        found.setdefault(int(ids[row]), []).append(row)
    return list(found.items())


def _rows(pair: Pair, rows: np.ndarray, drawn: str, boxes: np.ndarray) -> pd.DataFrame:
    table = pair.objects[0].iloc[rows]
    images = pair.index.images.set_index("image_id")
    return pd.DataFrame(
        {
            "image_id": table["image_id"].to_numpy(),
            "path": images.loc[table["image_id"], "path"].to_numpy(),
            "class": pair.index.classes["name"].to_numpy()[table["class_id"]],
            "drawn": drawn,
            **{name: boxes[rows, place] for place, name in enumerate(BOX)},
            "iou_first": pair.overlap[0][rows],
            "iou_second": pair.overlap[1][rows],
        }
    )


def _panel(
    pair: Pair, name: str, parts: list[pd.DataFrame], candidates: int, gap: float
) -> pd.DataFrame:
    """Put a row's boxes together; a row without a single one still tells its candidates."""
    table = pd.concat(parts) if parts else pd.DataFrame([{"drawn": "nothing"}])
    about = {"target": pair.target, "panel": name, "first": pair.first, "second": pair.second}
    return table.assign(**about, candidates=candidates, mean_gap=gap, rule=RULES[name]).reindex(
        columns=COLUMNS
    )


def draw(table: pd.DataFrame, roots: dict[str, Path], across: int) -> plt.Figure:
    """Draw a row of images for each panel of each pair, in the table's order.

    ``roots`` are the folders of the targets' images.
    """
    rows = list(table.groupby(["target", "first", "second", "panel"], sort=False))
    several = table["target"].nunique() > 1
    figure, grid = plt.subplots(
        len(rows),
        across,
        figsize=(CELL * across, (CELL + 0.12) * len(rows)),
        squeeze=False,
        layout="constrained",
    )
    for axis in grid.flat:
        axis.set_axis_off()
    for axes, ((target, first, second, panel), part) in zip(grid, rows, strict=True):
        where = f"{target}: " if several else ""
        what = f"{where}{first} over {second}: {panel}, {part['candidates'].iloc[0]} candidates"
        axes[0].set_title(what, fontsize=6.5, loc="left", pad=10)
        shown = part[part["drawn"] != "nothing"]
        for axis, (path, boxes) in zip(axes, shown.groupby("path", sort=False), strict=False):
            axis.imshow(_picture(roots[str(target)] / str(path), boxes))
            credit = f"{Path(str(path)).stem}: {', '.join(dict.fromkeys(boxes['class']))}"
            axis.text(0, -0.03, credit, transform=axis.transAxes, fontsize=4.5, va="top")
    return figure


def _picture(path: Path, boxes: pd.DataFrame) -> np.ndarray:
    drawn = [
        DrawnBox(box, COLOURS[colour])
        for box, colour in zip(boxes[BOX].to_numpy().tolist(), boxes["drawn"], strict=True)
    ]
    with Image.open(path) as image:
        return np.asarray(draw_boxes(image, drawn, PIXELS / max(image.size)))


def main() -> None:
    arguments = parse()
    parts, roots = [], {}
    for first, second, folder, split in arguments.pair:
        pair = read_pair(Path(first), Path(second), Path(folder), split)
        roots[pair.target] = pair.index.root
        parts += [better_placed(pair, arguments.images), only_found(pair, arguments.images)]
    write_table(arguments.csv, pd.concat(parts))
    figure = draw(pd.read_csv(arguments.csv), roots, arguments.images)
    save_figure(figure, arguments.pdf, arguments.png, 200)


if __name__ == "__main__":
    run(main)
