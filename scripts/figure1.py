"""Figure 1: mean average precision by IoU threshold, for each pre-training and target."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import matplotlib
import pandas as pd

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import seaborn as sns

from detransfer.console import InputError, run
from detransfer.report.metrics import read_metrics
from detransfer.report.published import COLUMNS as PUBLISHED
from detransfer.report.published import UNIT, read_published
from detransfer.report.tables import join_published, summarise, write_table
from detransfer.visualization.plotting import STYLE, Look, draw_line, looks, name_lines, save_figure

DESCRIPTION = """\
Figure 1: mean average precision by IoU threshold for each pre-training, mean and sample deviation
over the seeds, a panel for each target. The numbers are written to a CSV, and the picture is drawn
from that file alone: lines are our means, bars one deviation, open markers the paper's numbers.
"""
METRICS = {f"mAP@{step / 10}": step / 10 for step in range(1, 10)}
COLUMNS = ["target", "dataset", "run", "iou", "metric", "mean", "std", "n", "published"]
WIDTH, HEIGHT = 3.3, 2.6  # inches, of a panel: one column
ACROSS = 2  # panels in a row: the width of a page


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=DESCRIPTION)
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="METRICS", help="metrics.json of detection runs")
    add("--published", type=Path, help="CSV of the paper's numbers (Table 2), to stand beside")
    add("--csv", type=Path, required=True, help="numbers to write")
    add("--pdf", type=Path, required=True, help="picture to write")
    add("--png", type=Path, required=True, help="picture to write")
    return parser.parse_args()


def numbers(runs: list[Path], published: Path | None) -> pd.DataFrame:
    """Return the figure's table; raises InputError for runs that no figure can hold together."""
    summary = summarise([read_metrics(path) for path in runs], list(METRICS))
    other = summary[summary["unit"] != UNIT]
    if len(other):
        row = other.iloc[0]
        raise InputError(f"{row['target']}: mAP is in {row['unit']!r}, not in {UNIT!r}")
    paper = pd.DataFrame(columns=PUBLISHED) if published is None else read_published(published)
    table = join_published(summary, paper)
    ours = table[table["n"] > 0]
    return ours.assign(iou=ours["metric"].map(METRICS))[COLUMNS]


def draw(table: pd.DataFrame) -> plt.Figure:
    """Draw the figure's table: a panel a target, a line a run, both in the table's order."""
    sns.set_theme(style="ticks", rc=STYLE)
    targets, names = list(table["target"].unique()), list(table["run"].unique())
    across = min(ACROSS, len(targets))
    down = math.ceil(len(targets) / across)
    size = (WIDTH * across, HEIGHT * down)
    figure, grid = plt.subplots(
        down, across, figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    panels = list(grid.flat)
    chosen = looks(names)
    for panel, target in zip(panels, targets, strict=False):
        rows = table[table["target"] == target]
        draw_panel(panel, rows, chosen)
        panel.set_title(target if len(targets) > 1 else "", fontsize=8)
        panel.set(xlabel="IoU threshold", ylabel=f"mAP ({UNIT})", ylim=(0, None))
        panel.set_xticks(sorted(table["iou"].unique()))
    for unused in panels[len(targets) :]:
        unused.remove()
    name_lines(figure)
    sns.despine(figure)
    return figure


def draw_panel(axes: plt.Axes, table: pd.DataFrame, chosen: dict[str, Look]) -> None:
    """Draw the runs of one target, each in its colour and with its marker."""
    for name, rows in table.groupby("run", sort=False):
        colour, marker = chosen[str(name)]
        draw_line(axes, rows["iou"], rows["mean"], rows["std"], (colour, marker), str(name))
        axes.plot(
            rows["iou"],
            rows["published"],
            linestyle="none",
            marker=marker,
            markersize=6,
            markerfacecolor="none",
            markeredgecolor=colour,
        )
    if table["published"].notna().any():
        axes.errorbar([], [], fmt="ko", markersize=6, markerfacecolor="none", label="published")


def main() -> None:
    arguments = parse()
    write_table(arguments.csv, numbers(arguments.runs, arguments.published))
    figure = draw(pd.read_csv(arguments.csv))
    save_figure(figure, arguments.pdf, arguments.png)


if __name__ == "__main__":
    run(main)
