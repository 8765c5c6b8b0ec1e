"""Figure 6: are images of one cluster in one feature space in one cluster of the other, too?"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.lines import Line2D

from detransfer.console import InputError, run
from detransfer.features.clusters import (
    SpaceClusters,
    co_membership,
    read_clusters,
    sampled_pairs,
)
from detransfer.features.recipe import AnalysisRecipe, ClusterRecipe
from detransfer.report.tables import write_table
from detransfer.strict import load_file
from detransfer.visualization.plotting import STYLE, save_figure

DESCRIPTION = """\
Figure 6: are images of one cluster in one feature space in one cluster of the other, too?

For each pair of spaces, in both directions and for every number of clusters: the probability that
two images of one cluster of the space `given` share a cluster of the space `other`. exact: over all
pairs; cluster_mean: the mean over the clusters of `given`; sampled: from random pairs, as in the
paper, with its standard error; chance: for any two images. Means and deviations are over the seeds
of k-means. A number of clusters above that of the images has n = 0. The picture is drawn from the
table alone.
"""
COLUMNS = ["dataset", "first", "second", "given", "other", "clusters", "metric", "mean", "std", "n",
           "images"]  # fmt: skip
# Of the two directions, in Okabe and Ito's colours: where both lie on each other, both are seen.
LOOKS: tuple[dict[str, Any], ...] = (
    {"color": "#0072B2", "marker": "o", "markersize": 2},
    {
        "color": "#D55E00",
        "marker": "s",
        "markersize": 3.5,
        "markerfacecolor": "none",
        "markeredgewidth": 0.8,
    },
)
KINDS: dict[str, dict[str, Any]] = {
    "all pairs": {"linewidth": 1.2, "marker": "none"},
    "sampled pairs": {"linestyle": "none"},
    "any two images": {"linewidth": 0.8, "linestyle": ":", "marker": "none"},
}
TICKS = (2, 5, 10, 20, 50, 100, 200, 500, 1000)
WIDTH, HEIGHT, MORE = 3.3, 1.6, 0.5  # inches: one column, a panel, and what stands around all


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--space",
        nargs=3,
        action="append",
        required=True,
        metavar=("DATASET", "NAME", "CLUSTERS"),
        help="a pre-training's clusters.parquet on a data set",
    )
    add(
        "--pair",
        nargs=3,
        action="append",
        required=True,
        metavar=("DATASET", "FIRST", "SECOND"),
        help="two spaces to compare",
    )
    add("--recipe", type=Path, required=True, help="recipe of the analysis")
    add("--csv", type=Path, required=True, help="numbers to write")
    add("--pdf", type=Path, required=True, help="picture to write")
    add("--png", type=Path, required=True, help="picture to write")
    return parser.parse_args()


def measured(
    given: SpaceClusters, other: SpaceClusters, count: int, seed: int, pairs: int
) -> dict[str, float]:
    """Return every reading of the probability for one number of clusters and one seed."""
    labels = given.labels[count, seed], other.labels[count, seed]
    found = co_membership(*labels)
    sampled, error = sampled_pairs(*labels, pairs, np.random.default_rng([seed, count]))
    return {
        "exact": found.pooled,
        "cluster_mean": found.cluster_mean,
        "sampled": sampled,
        "sampled_error": error,
        "chance": found.chance,
    }


def direction(given: SpaceClusters, other: SpaceClusters, recipe: ClusterRecipe) -> pd.DataFrame:
    """Return the table of one direction, a row for each number of clusters and metric."""
    parts = []
    for count in recipe.counts:
        seeds = [seed for seed in recipe.seeds if (count, seed) in given.labels]
        values = [measured(given, other, count, seed, recipe.sampled_pairs) for seed in seeds]
        table = pd.DataFrame(values, columns=["exact", "cluster_mean", "sampled", "sampled_error",
                                              "chance"])  # fmt: skip
        about = {"clusters": count, "n": len(seeds), "images": len(given.image_ids)}
        parts.append(pd.DataFrame({"mean": table.mean(), "std": table.std()}).assign(**about))
    return pd.concat(parts).rename_axis("metric").reset_index()


def numbers(
    spaces: dict[tuple[str, str], SpaceClusters],
    pairs: list[list[str]],
    recipe: ClusterRecipe,
) -> pd.DataFrame:
    """Return the figure's table: both directions of every pair."""
    parts = []
    for dataset, first, second in pairs:
        one, two = spaces[dataset, first], spaces[dataset, second]
        if not np.array_equal(one.image_ids, two.image_ids):
            raise InputError(f"{dataset}: {first} and {second} have clusters of different images")
        for given, other in ((first, second), (second, first)):
            about = {"dataset": dataset, "first": first, "second": second}
            found = direction(spaces[dataset, given], spaces[dataset, other], recipe)
            parts.append(found.assign(**about, given=given, other=other))
    return pd.concat(parts)[COLUMNS]


def draw(table: pd.DataFrame) -> plt.Figure:
    """Draw a panel for each pair, one below the other: two directions, and each level of chance."""
    sns.set_theme(style="ticks", rc=STYLE)
    panels = list(table.groupby(["dataset", "first", "second"], sort=False))
    figure, axes = plt.subplots(
        len(panels),
        figsize=(WIDTH, HEIGHT * len(panels) + MORE),
        squeeze=False,
        sharex=True,
        layout="constrained",
    )
    for panel, ((dataset, first, second), rows) in zip(axes[:, 0], panels, strict=True):
        _panel(panel, rows)
        panel.set_title(f"{dataset}: {first}, {second}", fontsize=7, pad=3)
    counts = table["clusters"][table["n"] > 0]
    ticks = [count for count in TICKS if counts.min() <= count <= counts.max()]
    axes[-1, 0].set(xscale="log", xlabel="clusters")
    axes[-1, 0].set_xticks(ticks, [str(count) for count in ticks])
    axes[-1, 0].minorticks_off()
    figure.supylabel("probability of one cluster", fontsize=8)
    grey = {**LOOKS[0], "color": "0.4"}
    kinds = [Line2D([], [], **{**grey, **kind}) for kind in KINDS.values()]
    figure.legend(kinds, list(KINDS), frameon=False, loc="outside lower center", ncols=3)
    sns.despine(figure)
    return figure


def _panel(panel: plt.Axes, rows: pd.DataFrame) -> None:
    """Draw both directions of a pair; where no number of clusters fits, say so."""
    panel.set_ylim(0, 1)
    fitting = rows[rows["n"] > 0]
    if fitting.empty:
        text = (
            f"not measured: {rows['images'].iloc[0]} images are too few\n"
            f"for {rows['clusters'].min()} clusters, the least that are asked for"
        )
        panel.text(0.5, 0.5, text, transform=panel.transAxes, ha="center", va="center", fontsize=7)
        return
    directions = fitting.groupby(["given", "other"], sort=False)
    for ((given, other), part), look in zip(directions, LOOKS, strict=True):
        _curve(panel, part, f"P({other} | {given})", look)
    panel.legend(frameon=False, loc="upper right")


def _curve(panel: plt.Axes, rows: pd.DataFrame, label: str, look: dict[str, Any]) -> None:
    lines = {str(name): part for name, part in rows.groupby("metric")}
    exact, sampled, chance = lines["exact"], lines["sampled"], lines["chance"]
    deviation = exact["std"].fillna(0)
    panel.fill_between(
        exact["clusters"],
        exact["mean"] - deviation,
        exact["mean"] + deviation,
        color=look["color"],
        alpha=0.2,
        linewidth=0,
    )
    for means, kind in zip((exact, sampled, chance), KINDS.values(), strict=True):
        panel.plot(means["clusters"], means["mean"], **{**look, **kind})
    panel.plot([], [], **look, linewidth=1.2, label=label)


def main() -> None:
    arguments = parse()
    recipe = load_file(arguments.recipe, AnalysisRecipe).clusters
    spaces = {(d, name): read_clusters(Path(path)) for d, name, path in arguments.space}
    table = numbers(spaces, arguments.pair, recipe)
    write_table(arguments.csv, table)
    figure = draw(pd.read_csv(arguments.csv))
    save_figure(figure, arguments.pdf, arguments.png)


if __name__ == "__main__":
    run(main)
