"""Figure 6: are images of one cluster in one feature space in one cluster of the other, too?"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import seaborn as sns

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
COLOURS, MARKERS = ("#0072B2", "#D55E00"), ("o", "s")  # Okabe and Ito's, told apart by everybody
TICKS = (2, 5, 10, 20, 50, 100, 200, 500, 1000)
WIDTH, HEIGHT = 3.3, 2.6  # inches, of a panel: one column


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
    """Draw a panel for each pair: two directions, and the level of chance of each."""
    sns.set_theme(style="ticks", rc=STYLE)
    panels = list(table.groupby(["dataset", "first", "second"], sort=False))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(WIDTH * len(panels), HEIGHT), squeeze=False, layout="constrained"
    )
    for panel, ((dataset, first, second), rows) in zip(axes[0], panels, strict=True):
        last = rows.loc[rows["n"] > 0, "clusters"].max()
        directions = rows[rows["n"] > 0].groupby(["given", "other"], sort=False)
        for ((given, other), part), colour, marker in zip(
            directions, COLOURS, MARKERS, strict=False
        ):
            _curve(panel, part, f"P({other} | {given})", colour, marker)
        panel.set_xscale("log")
        ticks = [count for count in TICKS if rows["clusters"].min() <= count <= last]
        panel.set_xticks(ticks, [str(count) for count in ticks])
        panel.minorticks_off()
        panel.set(xlabel="clusters", ylabel="probability of one cluster", ylim=(0, 1))
        panel.set_title(f"{dataset}: {first}, {second}", fontsize=8)
        panel.legend(frameon=False, loc="upper right")
    sns.despine(figure)
    return figure


def _curve(panel: plt.Axes, rows: pd.DataFrame, label: str, colour: str, marker: str) -> None:
    lines = {str(name): part for name, part in rows.groupby("metric")}
    exact, sampled, chance = lines["exact"], lines["sampled"], lines["chance"]
    deviation = exact["std"].fillna(0)
    panel.fill_between(
        exact["clusters"],
        exact["mean"] - deviation,
        exact["mean"] + deviation,
        color=colour,
        alpha=0.2,
        linewidth=0,
    )
    panel.plot(exact["clusters"], exact["mean"], color=colour, linewidth=1.2, label=label)
    panel.plot(
        sampled["clusters"],
        sampled["mean"],
        color=colour,
        marker=marker,
        markersize=2.5,
        linestyle="none",
        label="  from sampled pairs",
    )
    panel.plot(
        chance["clusters"],
        chance["mean"],
        color=colour,
        linewidth=0.8,
        linestyle=":",
        label="  any two images",
    )


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
