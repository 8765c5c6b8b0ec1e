"""Figure 4: segmentation inside and outside of trimaps of growing width, by pre-training."""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import seaborn as sns

from detransfer.console import run
from detransfer.report.bootstrap import Estimate, Scores, estimate, resamples
from detransfer.report.metrics import runs_in
from detransfer.report.tables import write_table
from detransfer.segmentation.by_distance import WIDTHS, anti_trimap, read_confusion, trimap
from detransfer.segmentation.scores import mean_iou, pixel_accuracy
from detransfer.visualization.plotting import STYLE, Look, looks, name_lines, save_figure

DESCRIPTION = """\
Figure 4: mean IoU inside the trimap (the pixels at most so far from a void pixel) and outside it,
for widths of 1 to 40 pixels, by pre-training; below, the gap between a pre-training on detection
and the one it started from. Bands hold 95 % of 1,000 resamples of the images, the same ones for all
runs. All numbers, and those of the pixel accuracy, are written to a CSV; the picture is drawn from
that file alone.
"""
REGIONS = {"trimap": trimap, "anti-trimap": anti_trimap}
METRICS = {"mIoU": mean_iou, "pixel_accuracy": pixel_accuracy}
WIDTH, HEIGHT = 3.3, 1.7  # inches: one column, and a row of panels


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=DESCRIPTION)
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="FOLDER", help="runs: metrics and confusion")
    add(
        "--contrast",
        nargs=2,
        action="append",
        default=[],
        metavar=("RUN", "BASELINE"),
        help="two pre-trainings whose gap is drawn; can be given again",
    )
    add("--csv", type=Path, required=True, help="numbers to write")
    add("--pdf", type=Path, required=True, help="picture to write")
    add("--png", type=Path, required=True, help="picture to write")
    return parser.parse_args()


def numbers(folders: list[Path], contrasts: list[list[str]]) -> pd.DataFrame:
    """Return the figure's table: one row a target, run (or gap), region, metric and width."""
    found, datasets = runs_in(folders)
    tables = []
    for target, pretrainings in found.items():
        counts = {
            name: {seed: counts_of(folder) for seed, folder in sorted(seeds.items())}
            for name, seeds in pretrainings.items()
        }
        read = {
            name: {seed: score(pixels) for seed, pixels in seeds.items()}
            for name, seeds in counts.items()
        }
        covered = coverage(next(iter(next(iter(counts.values())).values())))
        pairs = [(name, "") for name in read]
        pairs += [(name, other) for name, other in contrasts if name in read and other in read]
        for name, baseline in pairs:
            over = estimate(read[name], read.get(baseline))
            place = {"target": target, "dataset": datasets[target], "run": name}
            place |= {"baseline": baseline}
            part = rows(over).merge(covered, on=["region", "width"], how="left")
            tables.append(part.assign(**place)[[*place, *part.columns]])
    return pd.concat(tables, ignore_index=True)


def counts_of(folder: Path) -> np.ndarray:
    """Return the counts (images, FAR, classes, 3) of a run."""
    return read_confusion(folder / "confusion.parquet").counts()


def score(counts: np.ndarray) -> Scores:
    """Return the scores in percent, (regions, metrics, widths), of all images and resamples."""
    images = len(counts)
    flat = resamples(images) @ counts.reshape(images, -1)
    return Scores(scores(counts.sum(0)), scores(flat.reshape(-1, *counts.shape[1:])))


def scores(counts: np.ndarray) -> np.ndarray:
    """Return the scores in percent, (..., regions, metrics, widths), of (..., FAR, classes, 3)."""
    found = [[of(inside(counts)) for of in METRICS.values()] for inside in REGIONS.values()]
    return 100 * np.moveaxis(np.array(found), (0, 1), (-3, -2))


def coverage(counts: np.ndarray) -> pd.DataFrame:
    """Return what a score rests on: the classes with true pixels, and the share of the pixels.

    It is the same for every run of a target; a class without pixels at a width is not in its mean.
    """
    truth = counts[..., 1].sum(0)
    parts = []
    for region, inside in REGIONS.items():
        pixels = inside(counts.sum(0))[..., 1]
        columns = {"classes": (pixels > 0).sum(1), "share": pixels.sum(1) / truth.sum()}
        parts.append(pd.DataFrame({"region": region, "width": np.arange(1, WIDTHS + 1), **columns}))
    return pd.concat(parts)


def rows(over: Estimate) -> pd.DataFrame:
    """Return an estimate (regions, metrics, widths) as rows."""
    names = ["region", "metric", "width"]
    places = pd.MultiIndex.from_product([REGIONS, METRICS, range(1, WIDTHS + 1)], names=names)
    columns = {
        name: value.ravel() if isinstance(value, np.ndarray) else value
        for name, value in vars(over).items()
    }
    return pd.DataFrame(columns, index=places).reset_index()


def draw(table: pd.DataFrame) -> plt.Figure:
    """Draw the figure's table: for each target a row of scores and one of gaps."""
    sns.set_theme(style="ticks", rc=STYLE)
    table = table[table["metric"] == "mIoU"].fillna({"baseline": ""})
    targets, names = list(table["target"].unique()), list(table["run"].unique())
    rows = 2 if (table["baseline"] != "").any() else 1
    figure, grid = plt.subplots(
        rows * len(targets),
        len(REGIONS),
        figsize=(WIDTH, HEIGHT * rows * len(targets)),
        sharex=True,
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    chosen = looks(names)
    for place, target in enumerate(targets):
        panels = grid[rows * place : rows * (place + 1)]
        draw_target(panels, comparable(table[table["target"] == target]), chosen)
        for axes, region in zip(panels[0], REGIONS, strict=True):
            axes.set_title(region if len(targets) == 1 else f"{target}: {region}")
    for axes in grid[-1]:
        axes.set(xlabel="width (pixels)", xlim=(0, WIDTHS + 1), xticks=range(0, WIDTHS + 1, 10))
    name_lines(figure)
    sns.despine(figure)
    return figure


def comparable(table: pd.DataFrame) -> pd.DataFrame:
    """Return the widths at which every class of the target still has true pixels.

    Beyond them the mean is one over other classes, and its changes say nothing about the width.
    """
    return table[table["classes"] == table["classes"].max()]


def draw_target(panels: np.ndarray, table: pd.DataFrame, chosen: dict[str, Look]) -> None:
    """Draw the scores of one target and, in a second row of panels, its gaps."""
    gaps = table[table["baseline"] != ""]
    for column, region in enumerate(REGIONS):
        inside = table["region"] == region
        draw_lines(panels[0, column], table[inside & (table["baseline"] == "")], chosen)
        if len(panels) == 2:
            panels[1, column].axhline(0, color="0.4", linewidth=0.8, linestyle=(0, (3, 2)))
            draw_lines(panels[1, column], gaps[gaps["region"] == region], chosen)
    panels[0, 0].set_ylabel("mIoU (%)")
    if len(panels) == 2:
        baselines = " or ".join(gaps["baseline"].unique())
        panels[1, 0].set_ylabel(f"minus {baselines}\n(points)")


def draw_lines(axes: plt.Axes, table: pd.DataFrame, chosen: dict[str, Look]) -> None:
    """Draw runs, or gaps, over the width: the mean over seeds and the band of the images."""
    for (name, _), rows in table.groupby(["run", "baseline"], sort=False):
        colour, marker = chosen[str(name)]
        axes.fill_between(
            rows["width"], rows["low"], rows["high"], color=colour, alpha=0.2, linewidth=0
        )
        axes.plot(
            rows["width"],
            rows["mean"],
            color=colour,
            linewidth=1.2,
            marker=marker,
            markersize=3,
            markevery=(4, 10),
            label=name,
        )


def main() -> None:
    arguments = parse()
    write_table(arguments.csv, numbers(arguments.runs, arguments.contrast))
    figure = draw(pd.read_csv(arguments.csv, dtype={"baseline": "str"}))
    save_figure(figure, arguments.pdf, arguments.png)


if __name__ == "__main__":
    run(main)
