"""Figure 9: what happens to the true class's probability when a blank square hides a part.

A table of the mean drop and of the fragile share (positions with less than half of the probability
without a square), by pre-training and group of images, with paired differences; and mask-out maps
of images of the first target that a rule chooses.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from detransfer.console import run
from detransfer.data.index import read_index
from detransfer.recipes.classification import FeatureRecipe
from detransfer.report.paired import Measured, compare
from detransfer.report.tables import write_table
from detransfer.strict import load_file
from detransfer.visualization.gallery import (
    Row,
    Scale,
    choose,
    credit_of,
    draw,
    note_of,
    shown,
    view_of,
)
from detransfer.visualization.grid import Grid
from detransfer.visualization.plotting import save_figure
from detransfer.visualization.recipe import VisualizationRecipe
from detransfer.visualization.recorded import Recorded, read_recorded

METRICS = ["probability", "mean_drop", "fragile_share"]
RULE = (
    "gain: fragile share of the baseline minus the run's, in points, mean over the contrasts; "
    "candidates are the images that all of these runs get right (all, if there are none)"
)
SCALE = Scale("cividis", 1, "probability of the true class, by the place of the square")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="FOLDER", help="what scripts/visualize.py wrote")
    add(
        "--target",
        nargs=3,
        action="append",
        required=True,
        metavar=("NAME", "INDEX", "SPLIT"),
        help="a target of the runs: the folder of its index, and the split that was looked at",
    )
    add("--view", type=Path, required=True, help="recipe of the features")
    add("--recipe", type=Path, required=True, help="recipe of the visualization")
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


def numbers(recorded: Recorded, pairs: Sequence[Sequence[str]]) -> pd.DataFrame:
    """Return one target's rows of the figure's table, in percent."""
    measured = {
        name: Measured(
            100 * table[METRICS].to_numpy(), (table["class_id"] == table["predicted"]).to_numpy()
        )
        for name, table in recorded.tables.items()
    }
    found = compare(measured, METRICS, pairs, recorded.groups())
    found.insert(0, "target", recorded.target)
    return found


def gains(recorded: Recorded, contrasts: list[tuple[str, str]]) -> pd.DataFrame:
    """Return the images with how much less fragile the runs of the contrasts are."""
    images, tables = recorded.images.copy(), recorded.tables
    images["class_id"] = next(iter(tables.values()))["class_id"]
    for name, table in tables.items():
        images[name] = 100 * table["fragile_share"]
    each = [images[baseline] - images[name] for name, baseline in contrasts]
    compared = {name for pair in contrasts for name in pair}
    wrong = [tables[name]["predicted"] != tables[name]["class_id"] for name in compared]
    right = ~np.any(wrong, axis=0)
    gain = pd.Series(np.mean(each, axis=0))
    return images.assign(gain=gain.where(right) if right.any() else gain)


def drawn(
    recorded: Recorded,
    chosen: pd.DataFrame,
    names: list[str],
    baseline: str,
    grid: Grid,
    resize: int,
) -> list[Row]:
    """Return the chosen images as they are drawn, the square where it harms the baseline most."""
    maps, rows = recorded.maps("maskout"), []
    classes = recorded.index.classes["name"]
    for place, (_, image) in zip(chosen.index.tolist(), chosen.iterrows(), strict=True):
        view = view_of(recorded.index.root / image["path"], grid.size, resize)
        row, column = np.unravel_index(maps[baseline][place].argmin(), (grid.side, grid.side))
        (top, bottom), (left, right) = (grid.intervals()[each] for each in (row, column))
        square = (left, top, right - left, bottom - top)
        credit = credit_of(image["image_id"], image["path"])
        credit += f", {classes[image['class_id']]}"
        shades = [maps[name][place] for name in names]
        kind, gain = str(image["chosen_as"]), float(image["gain"])
        rows.append(Row(view, kind, gain, credit, shades, square=square))
    return rows


def main() -> None:
    arguments = parse()
    view = load_file(arguments.view, FeatureRecipe)
    recipe = load_file(arguments.recipe, VisualizationRecipe)
    grid = Grid(view.size, recipe.mask, recipe.stride)
    indices = {
        name: read_index(Path(folder)).split(split) for name, folder, split in arguments.target
    }
    recorded = read_recorded(arguments.runs, indices)
    pairs = [*arguments.contrast, *arguments.control]
    table = pd.concat([numbers(each, pairs) for each in recorded])
    write_table(arguments.csv, table)
    # Drawn is the first target that has a contrast.
    first = next((each for each in recorded if each.within(arguments.contrast)), recorded[0])
    contrasts = first.contrasts(arguments.contrast)
    chosen = choose(gains(first, contrasts))
    write_table(arguments.images, chosen.assign(target=first.target, rule=RULE))
    names = shown(first.folders, contrasts)
    own = table[(table["target"] == first.target) & (table["baseline"] == "")]
    fragile = own[(own["by"] == "all") & (own["metric"] == "fragile_share")]
    shares = fragile.set_index("run")["mean"]
    titles = [f"{name}\nfragile {shares[name]:.1f} %" for name in names]
    rows = drawn(first, chosen, names, contrasts[0][1], grid, view.resize)
    count = fragile["images"].iloc[0]
    note = note_of(count)
    save_figure(draw(rows, titles, SCALE, note), arguments.pdf, arguments.png)


if __name__ == "__main__":
    run(main)
