"""The dial: top-1 of probes of a frozen pair in worlds with ever fainter objects.

Numbers are written to a CSV, and the picture is drawn from that file alone. Where the objects are
gone, nothing but chance is left: what lies above it there, the network reads from something else.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import pandas as pd

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import seaborn as sns

from detransfer.console import run
from detransfer.evidence.worlds import dial_points
from detransfer.report.tables import write_table
from detransfer.visualization.plotting import STYLE, draw_line, looks, name_lines, save_figure

WIDTH, HEIGHT = 3.3, 2.4  # inches: one column


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--point", nargs=2, action="append", required=True, metavar=("CONTRAST", "FOLDER"),
        help="contrast of a world, and a probe in it")  # fmt: skip
    add("--csv", type=Path, required=True, help="numbers to write")
    add("--pdf", type=Path, required=True, help="picture to write")
    add("--png", type=Path, required=True, help="picture to write")
    return parser.parse_args()


def draw(table: pd.DataFrame) -> plt.Figure:
    """Draw the table: a line a run, and the floor."""
    sns.set_theme(style="ticks", rc=STYLE)
    figure, axes = plt.subplots(figsize=(WIDTH, HEIGHT), layout="constrained")
    chosen = looks(list(table["run"].unique()))
    for name, rows in table.groupby("run", sort=False):
        share = rows["value"] / 100
        error = 196 * (share * (1 - share) / rows["images"]) ** 0.5  # of a 95 % interval
        draw_line(axes, rows["contrast"], rows["value"], error, chosen[str(name)], str(name))
    floor = table["floor"].max()
    axes.axhline(
        floor, color="0.35", linewidth=0.9, linestyle=(0, (3, 2)), label="always one class"
    )
    axes.set(xlabel="contrast of the objects", ylabel="top-1 of a probe (%)", ylim=(0, None))
    axes.set_xticks(sorted(table["contrast"].unique()))
    name_lines(figure)
    sns.despine(figure)
    return figure


def main() -> None:
    arguments = parse()
    points = [(float(contrast), Path(folder)) for contrast, folder in arguments.point]
    write_table(arguments.csv, dial_points(points))
    save_figure(draw(pd.read_csv(arguments.csv)), arguments.pdf, arguments.png)


if __name__ == "__main__":
    run(main)
