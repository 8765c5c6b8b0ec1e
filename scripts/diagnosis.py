"""The error analysis of all detection runs in one table and one picture."""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure

from detransfer.console import InputError, run
from detransfer.report.metrics import RunMetrics, check_comparable, read_metrics
from detransfer.report.tables import BASELINE, write_table
from detransfer.visualization.plotting import STYLE, draw_line, looks, save_figure

DESCRIPTION = """\
The error analysis of detection runs: the tables diagnosis.csv that lie beside the given
diagnosis.json, as mean and sample deviation over the seeds. All values are percentages; `count` is
the number of objects (of the top detections: detections) that a value rests on, the least of all
seeds. The picture is drawn from the table alone.
"""
NUMBER = ["class", "analysis", "stratum", "metric"]
RUN = ["target", "dataset", "run"]
COLUMNS = [*RUN, *NUMBER, "mean", "std", "n", "count"]
# Kinds of errors, in the words of Hoiem's analysis and of COCO's; colours unlike those of the runs.
KINDS = {
    "localisation": "#332288",
    "similar": "#88CCEE",
    "other": "#117733",
    "background": "#DDCC77",
}
CURVES = {
    "C75": "#555555",
    "C50": "#999999",
    **dict(zip(("Loc", "Sim", "Oth", "BG"), KINDS.values(), strict=True)),
    "FN": "#E8E8E8",
}
LEGEND = ("IoU 0.75", "IoU 0.5", *KINDS, "not found")
SIZES = ("extra_small", "small", "medium", "large", "extra_large")
ASPECTS = ("extra_tall", "tall", "medium", "wide", "extra_wide")
LEVELS = ("none", "low", "medium", "high")
SPARSE = {"frameon": False, "handlelength": 1.2, "columnspacing": 1.2}
WIDTH, HEIGHT = 7.0, 4.4  # inches: two columns


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="DIAGNOSIS", help="diagnosis.json of detection runs")
    add("--csv", type=Path, required=True, help="numbers to write")
    add("--pdf", type=Path, required=True, help="picture to write")
    add("--png", type=Path, required=True, help="picture to write")
    return parser.parse_args()


def numbers(paths: list[Path]) -> pd.DataFrame:
    """Return mean and deviation of every number; raises InputError for runs that do not compare."""
    runs = {path: read_metrics(path) for path in paths}
    for target in sorted({each.run.target for each in runs.values()}):
        check_comparable([each for each in runs.values() if each.run.target == target])
    table = pd.concat([read_numbers(path, each) for path, each in runs.items()])
    # Sorted first, so that the last digit of a mean does not depend on the order of the files.
    groups = table.sort_values("value").groupby([*RUN, *NUMBER], sort=False)
    joined = groups.agg(
        mean=("value", "mean"), std=("value", "std"), n=("value", "size"), count=("n", "min")
    )
    order = table.drop_duplicates(NUMBER)[NUMBER].reset_index(drop=True)
    order["order"] = order.index
    joined = joined.reset_index().merge(order, on=NUMBER)
    joined["other"] = joined["run"] != BASELINE
    return joined.sort_values(["dataset", "target", "other", "run", "order"])[COLUMNS]


def read_numbers(path: Path, metrics: RunMetrics) -> pd.DataFrame:
    file = path.with_suffix(".csv")
    try:
        table = pd.read_csv(file)[[*NUMBER, "value", "n"]]
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{file}: not a readable diagnosis ({error}); make it again") from error
    name = metrics.run
    return table.assign(target=name.target, dataset=name.dataset, run=name.pretraining)


def draw(table: pd.DataFrame) -> plt.Figure:
    """Draw the table: for each target what goes wrong above, and where below."""
    sns.set_theme(style="ticks", rc=STYLE)
    targets = list(table["target"].unique())
    figure = plt.figure(figsize=(WIDTH, HEIGHT * len(targets)), layout="constrained")
    parts = figure.subfigures(len(targets), 1, squeeze=False)[:, 0]
    for target, part in zip(targets, parts, strict=True):
        if len(targets) > 1:
            part.suptitle(target, fontsize=9)
        draw_target(table[table["target"] == target], part)
    sns.despine(figure)
    return figure


def draw_target(table: pd.DataFrame, figure: SubFigure) -> None:
    upper, lower = figure.subfigures(2, 1, squeeze=False)[:, 0]
    draw_errors(table, upper)
    draw_strata(table, lower)


def draw_errors(table: pd.DataFrame, figure: SubFigure) -> None:
    """Draw kinds of false positives, COCO's curves, and missed objects by occlusion."""
    axes = figure.subplots(1, 3)
    draw_bars(axes[0], choose(table, "all:pooled", "top_detections", "share"), KINDS)
    axes[0].set(title="false positives", xlabel="% of the top detections")
    draw_bars(axes[1], choose(table, "all:mean", "coco", "gain"), CURVES)
    axes[1].set(title="COCO's curves", xlabel="AP and gains (%)", yticklabels=[])
    handles, _ = axes[1].get_legend_handles_labels()
    figure.legend(handles, LEGEND, loc="outside lower center", ncols=7, **SPARSE)
    if has_levels(table):
        group, missed = "labelled:pooled", [("occluded", "low"), ("occluded", "medium")]
    else:
        group, missed = "all:pooled", [("truncation", "truncated")]
    draw_lines(axes[2], table, group, "missed", [("objects", "all"), *missed])
    axes[2].set(title="missed objects", xlabel="occlusion", ylabel="%", ylim=(0, None))
    axes[2].set_xticks(range(len(missed) + 1), ["all", *(stratum for _, stratum in missed)])


def draw_strata(table: pd.DataFrame, figure: SubFigure) -> None:
    """Draw normalised average precision by size, aspect ratio and occlusion."""
    axes = figure.subplots(1, 3, sharey=True)
    draw_lines(axes[0], table, "all:mean", "AP_N", [("size", name) for name in SIZES])
    axes[0].set(title="by size", ylabel="AP$_N$ (%)")
    axes[0].set_xticks(range(5), ["XS", "S", "M", "L", "XL"])
    draw_lines(axes[1], table, "all:mean", "AP_N", [("aspect", name) for name in ASPECTS])
    axes[1].set_title("by aspect ratio")
    axes[1].set_xticks(range(5), ["XT", "T", "M", "W", "XW"])
    if has_levels(table):
        draw_lines(axes[2], table, "labelled:mean", "AP_N", [("occlusion", n) for n in LEVELS])
        axes[2].set_title("by occlusion")
        axes[2].set_xticks(range(4), LEVELS)
    else:
        names = ("whole", "truncated")
        draw_lines(axes[2], table, "all:mean", "AP_N", [("truncation", n) for n in names])
        axes[2].set_title("by truncation")
        axes[2].set_xticks(range(2), names)
    axes[0].set_ylim(0, None)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5), **SPARSE)


def has_levels(table: pd.DataFrame) -> bool:
    return bool((table["analysis"] == "occlusion").any())


def choose(table: pd.DataFrame, group: str, analysis: str, metric: str) -> pd.DataFrame:
    """Return one analysis of one group of classes: rows are runs, columns strata, in order."""
    keys = ("class", group), ("analysis", analysis), ("metric", metric)
    chosen = table[np.logical_and.reduce([table[name] == value for name, value in keys])]
    return chosen.pivot(index="run", columns="stratum", values="mean").loc[chosen["run"].unique()]


def draw_bars(axes: Axes, shares: pd.DataFrame, colours: dict[str, str]) -> None:
    """Draw one bar a run, its strata one after the other."""
    left = np.zeros(len(shares))
    for name, colour in colours.items():
        width = shares[name].to_numpy()
        axes.barh(
            shares.index, width, left=left, height=0.7, color=colour, label=name, linewidth=0.5
        )
        left += width
    axes.invert_yaxis()


def draw_lines(
    axes: Axes, table: pd.DataFrame, group: str, metric: str, strata: list[tuple[str, str]]
) -> None:
    """Draw one line a run over strata (analysis, stratum), with bars of one deviation."""
    part = table[(table["class"] == group) & (table["metric"] == metric)]
    runs = list(table["run"].unique())
    for name, look in looks(runs).items():
        rows = part[part["run"] == name].set_index(["analysis", "stratum"]).reindex(strata)
        draw_line(axes, range(len(strata)), rows["mean"], rows["std"], look, name)
    axes.margins(x=0.1)


def main() -> None:
    arguments = parse()
    write_table(arguments.csv, numbers(arguments.runs))
    figure = draw(pd.read_csv(arguments.csv))
    save_figure(figure, arguments.pdf, arguments.png)


if __name__ == "__main__":
    run(main)
