"""Few-shot and nearest-neighbour accuracy of frozen features, as curves."""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import matplotlib
import pandas as pd

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import seaborn as sns

from detransfer.console import run
from detransfer.report.metrics import read_metrics
from detransfer.report.tables import summarise, write_table
from detransfer.visualization.plotting import STYLE, draw_line, looks, name_lines, save_figure

DESCRIPTION = """\
Few-shot and nearest-neighbour accuracy of frozen features: a column of panels for each target,
above top-1 by training images a class, below by the number of neighbours that vote. Lines are means
over the seeds, bars one sample deviation, the dotted line the share of the largest class. The
numbers are written to a CSV, and the picture is drawn from that file alone.
"""
CURVES = {"few_shot": "training images a class", "neighbours": "neighbours that vote"}
COLUMNS = ["target", "dataset", "run", "curve", "count", "metric", "mean", "std", "n", "images",
           "floor"]  # fmt: skip
WIDTH, HEIGHT = 3.3, 2.4  # inches, of a panel: one column


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=DESCRIPTION)
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="METRICS", help="metrics.json of probes of conv5")
    add("--csv", type=Path, required=True, help="numbers to write")
    add("--pdf", type=Path, required=True, help="picture to write")
    add("--png", type=Path, required=True, help="picture to write")
    return parser.parse_args()


def numbers(paths: list[Path]) -> pd.DataFrame:
    """Return the figure's table, one row for each target, run and point of a curve."""
    runs = [read_metrics(path) for path in paths]
    names = {m.name for run in runs for m in run.metrics if m.name.split("@")[0] in CURVES}
    order = sorted(names, key=lambda name: (name.split("@")[0], int(name.split("@")[1])))
    table = summarise(runs, order)
    parts = table["metric"].str.split("@", expand=True)
    return table.assign(curve=parts[0], count=parts[1].astype(int))[COLUMNS]


def draw(table: pd.DataFrame) -> plt.Figure:
    """Draw the figure's table: a column a target, a row a kind of curve, a line a run."""
    sns.set_theme(style="ticks", rc=STYLE)
    targets, runs = list(table["target"].unique()), list(table["run"].unique())
    figure, grid = plt.subplots(
        len(CURVES),
        len(targets),
        figsize=(WIDTH * len(targets), HEIGHT * len(CURVES)),
        squeeze=False,
        layout="constrained",
    )
    chosen = looks(runs)
    for (across, target), (down, curve) in itertools.product(enumerate(targets), enumerate(CURVES)):
        rows = table[(table["target"] == target) & (table["curve"] == curve)]
        panel = grid[down, across]
        for name, line in rows.groupby("run", sort=False):
            look = chosen[str(name)]
            draw_line(panel, line["count"], line["mean"], line["std"], look, str(name))
        panel.axhline(rows["floor"].max(), color="grey", linewidth=0.8, linestyle=":")
        counts = sorted(rows["count"].unique())
        panel.set_xscale("log")
        panel.set_xticks(counts, [str(count) for count in counts])
        panel.minorticks_off()
        panel.set(xlabel=CURVES[curve], ylabel="top-1 (%)", ylim=(0, None))
        panel.set_title(target if down == 0 else "", fontsize=8)
    name_lines(figure, 3 * len(targets))
    sns.despine(figure)
    return figure


def main() -> None:
    arguments = parse()
    write_table(arguments.csv, numbers(arguments.runs))
    figure = draw(pd.read_csv(arguments.csv))
    save_figure(figure, arguments.pdf, arguments.png)


if __name__ == "__main__":
    run(main)
