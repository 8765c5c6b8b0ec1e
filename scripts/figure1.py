"""Figure 1: mean average precision by IoU threshold, for each pre-training."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import matplotlib
import pandas as pd

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import seaborn as sns

from detransfer.console import InputError, run
from detransfer.files import atomic
from detransfer.report.metrics import read_metrics
from detransfer.report.published import UNIT, read_published
from detransfer.report.tables import join_published, summarise, write_table

DESCRIPTION = """\
Figure 1: mean average precision by IoU threshold for each pre-training, mean and sample deviation
over the seeds. The numbers are written to a CSV, and the picture is drawn from that file alone:
lines are our means, bars one deviation, open markers the paper's numbers.
"""
METRICS = {f"mAP@{step / 10}": step / 10 for step in range(1, 10)}
COLUMNS = ["run", "iou", "metric", "mean", "std", "n", "published"]
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE = {
    "font.size": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.8,
    "xtick.major.width": 0.8,
    "ytick.major.width": 0.8,
    "pdf.fonttype": 42,  # text stays text
}
WIDTH, HEIGHT = 3.3, 2.6  # inches: one column


def parse_arguments() -> argparse.Namespace:
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
    datasets = list(summary["dataset"].unique())
    if len(datasets) > 1:
        raise InputError(f"the figure is about one data set, given are {', '.join(datasets)}")
    if (summary["unit"] != UNIT).any():
        raise InputError(f"{datasets[0]}: mAP is in {summary['unit'].iloc[0]!r}, not in {UNIT!r}")
    columns = ["dataset", "run", "metric", "published", "measured_by"]
    paper = (
        pd.DataFrame(columns=columns)
        if published is None
        else read_published(published, datasets[0])
    )
    table = join_published(summary, paper)
    ours = table[table["n"] > 0]
    return ours.assign(iou=ours["metric"].map(METRICS))[COLUMNS]


def draw(table: pd.DataFrame) -> plt.Figure:
    """Draw the figure's table, one line for each run in the table's order."""
    sns.set_theme(style="ticks", rc=STYLE)
    figure, axes = plt.subplots(figsize=(WIDTH, HEIGHT), layout="constrained")
    names = list(table["run"].unique())
    for place, (name, colour) in enumerate(
        zip(names, sns.color_palette("colorblind", len(names)), strict=True)
    ):
        rows = table[table["run"] == name]
        marker = MARKERS[place % len(MARKERS)]
        axes.errorbar(
            rows["iou"],
            rows["mean"],
            rows["std"].fillna(0.0),
            color=colour,
            marker=marker,
            markersize=3,
            linewidth=1.2,
            elinewidth=0.8,
            capsize=1.5,
            label=name,
        )
        axes.plot(
            rows["iou"],
            rows["published"],
            linestyle="none",
            marker=marker,
            markersize=6,
            markerfacecolor="none",
            markeredgecolor=colour,
        )
    axes.set(xlabel="IoU threshold", ylabel=f"mAP ({UNIT})", ylim=(0, None))
    axes.set_xticks(sorted(table["iou"].unique()))
    if table["published"].notna().any():
        axes.errorbar([], [], fmt="ko", markersize=6, markerfacecolor="none", label="published")
    axes.legend(frameon=False, loc="best")
    sns.despine(figure)
    return figure


def main() -> None:
    arguments = parse_arguments()
    write_table(arguments.csv, numbers(arguments.runs, arguments.published))
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells of every glyph
    figure = draw(pd.read_csv(arguments.csv))
    # Without the date and the version, equal numbers give equal files.
    with atomic(arguments.pdf) as temporary:
        figure.savefig(temporary, format="pdf", metadata={"CreationDate": None})
    with atomic(arguments.png) as temporary:
        figure.savefig(temporary, format="png", dpi=300, metadata={"Software": None})


if __name__ == "__main__":
    run(main)
