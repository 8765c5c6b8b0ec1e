"""The dial: top-1 of probes of a frozen pair in worlds with ever fainter objects.

Numbers are written to a CSV, and the picture is drawn from that file alone. Where the objects are
gone, nothing but chance is left: what lies above it there, the network reads from something else.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import matplotlib
import pandas as pd

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import seaborn as sns

from detransfer.console import run
from detransfer.evidence.worlds import dial_points
from detransfer.files import atomic
from detransfer.report.tables import write_table

COLOURS, MARKERS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), ("o", "s", "^", "D")
STYLE = {
    "font.size": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.8,
    "pdf.fonttype": 42,  # text stays text
}
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
    for place, (name, rows) in enumerate(table.groupby("run", sort=False)):
        look = place % len(COLOURS)
        error = 196 * (rows["value"] / 100 * (1 - rows["value"] / 100) / rows["images"]) ** 0.5
        axes.errorbar(
            rows["contrast"], rows["value"], error, color=COLOURS[look], marker=MARKERS[look],
            markersize=4, linewidth=1.2, elinewidth=0.8, capsize=2, label=name,
        )  # fmt: skip
    floor = table["floor"].max()
    axes.axhline(
        floor, color="0.35", linewidth=0.9, linestyle=(0, (3, 2)), label="always one class"
    )
    axes.set(xlabel="contrast of the objects", ylabel="top-1 of a probe (%)", ylim=(0, None))
    axes.set_xticks(sorted(table["contrast"].unique()))
    axes.legend(frameon=False, loc="best")
    sns.despine(figure)
    return figure


def main() -> None:
    arguments = parse()
    points = [(float(contrast), Path(folder)) for contrast, folder in arguments.point]
    write_table(arguments.csv, dial_points(points))
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells of every glyph
    figure = draw(pd.read_csv(arguments.csv))
    # Without the date and the version, equal numbers give equal files.
    with atomic(arguments.pdf) as temporary:
        figure.savefig(temporary, format="pdf", metadata={"CreationDate": None})
    with atomic(arguments.png) as temporary:
        figure.savefig(temporary, format="png", dpi=300, metadata={"Software": None})


if __name__ == "__main__":
    run(main)
