"""Test what the paper states: our effects with intervals, beside its own, and a verdict on each.

Writes one row a statement, target and pair of runs. The interval holds over the images of the test
set and over further trainings; images are resampled and scored by the very metric of the table.
Before that it writes the controls: a verdict counts only where those of its statement hold.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from detransfer.console import run
from detransfer.data.index import read_index
from detransfer.evidence.controls import (
    rehearsal_rows,
    rivalries,
    shuffled_rows,
    untrained_fits,
    untrained_rows,
)
from detransfer.evidence.scores import pretraining_fitted, read_target
from detransfer.evidence.spaces import read_spaces
from detransfer.evidence.worlds import blank_rows, dial_rows, world_rows
from detransfer.report.claims import Design, Target, ledger, read_all_published
from detransfer.report.controls import COLUMNS, Row, not_run, read_controls, verdicts
from detransfer.report.metrics import RunMetrics, read_metrics
from detransfer.report.statements import STATEMENTS
from detransfer.report.tables import write_table

MAKE = "make controls"
CONTROLS = {  # in the order of the table; what must hold, where a control is not run
    "random": "worst or level; its probe fits the training set",
    "shuffled_probe": "chance lies in the interval",
    "shuffled_finetuning": "chance lies in the interval",
    "destroyed": "scores at their floors",
    "dial": "scores fall to the floor",
    "a_against_a": "at most 5 % of claims come out",
    "leaks": "no better than chance",
    "floors": "",
    "ceilings": "",
    "oracle": "100 %",
    "planted": "found with the right sign and coverage",
    "worlds": "",
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("runs", nargs="*", type=Path, metavar="FOLDER", help="runs: metrics and predictions")
    add("--index", nargs=3, action="append", default=[], metavar=("TARGET", "FOLDER", "SPLIT"),
        help="index of a target and the split that it is tested on")  # fmt: skip
    add("--space", nargs=4, action="append", default=[],
        metavar=("DATASET", "RUN", "CLUSTERS", "EMBEDDING"),
        help="clusters.parquet and embedding.parquet of a frozen feature space")  # fmt: skip
    add("--start", nargs=2, action="append", default=[], metavar=("RUN", "START"),
        help="a pre-training on detection, and the one that it started from")  # fmt: skip
    add("--matched", nargs=2, action="append", default=[], metavar=("RUN", "CONTROL"),
        help="a pre-training on detection, and the same without boxes")  # fmt: skip
    add("--twin", nargs=2, action="append", default=[], metavar=("RUN", "TWIN"),
        help="a pre-training, and the same again by another seed or recipe")  # fmt: skip
    add("--pretraining", nargs=2, action="append", default=[], metavar=("NAME", "FILE"),
        help="metrics.json or fit.json with the training score of a pre-training")  # fmt: skip
    add("--untrained", nargs="*", default=[], metavar="RUN", help="pre-trainings that are none")
    add("--published", type=Path, required=True, help="folder of the paper's numbers")
    add("--lines", nargs="*", type=Path, default=[], help="tables of controls to take in")
    add("--shuffled-probe", action="append", type=Path, default=[], metavar="FOLDER",
        help="a probe that learnt permuted labels")  # fmt: skip
    add("--shuffled-finetuning", action="append", type=Path, default=[], metavar="FOLDER",
        help="a classifier that learnt permuted labels")  # fmt: skip
    add("--blank", action="append", type=Path, default=[], metavar="FOLDER",
        help="a run in a world without anything to see")  # fmt: skip
    add("--dial", type=Path, help="dial.csv: a frozen pair at several contrasts")
    add("--world", nargs=2, action="append", default=[], metavar=("NAME", "CLAIMS"),
        help="claims.csv of a study in another world")  # fmt: skip
    add("--controls", type=Path, required=True, help="CSV of the controls to write")
    add("--output", type=Path, required=True, help="CSV of the claims to write")
    return parser.parse_args()


def read_targets(
    arguments: argparse.Namespace,
) -> tuple[list[Target], list[RunMetrics]]:
    """Return what is known of each target, and the metrics of all runs."""
    runs: dict[str, list[tuple[Path, RunMetrics]]] = {}
    for folder in arguments.runs:
        metrics = read_metrics(folder / "metrics.json")
        runs.setdefault(metrics.run.target, []).append((folder, metrics))
    where = {name: (Path(folder), split) for name, folder, split in arguments.index}
    unfit = {name for name, file in arguments.pretraining if not pretraining_fitted(Path(file))}
    targets = []
    for name, given in runs.items():
        folder, split = where[name]
        targets.append(read_target(name, read_index(folder).split(split), given, unfit))
    spaces: dict[str, dict[str, tuple[Path, Path]]] = {}
    for dataset, name, clusters, embedding in arguments.space:
        spaces.setdefault(dataset, {})[name] = Path(clusters), Path(embedding)
    starts, names = dict(arguments.start), probed_targets(runs)
    targets += [
        read_spaces(names.get(dataset, dataset), dataset, files, starts, unfit)
        for dataset, files in spaces.items()
    ]
    return targets, [metrics for given in runs.values() for _, metrics in given]


def probed_targets(runs: Mapping[str, Sequence[tuple[Path, RunMetrics]]]) -> dict[str, str]:
    """Return the first target on each data set whose features are probed: its controls count."""
    names: dict[str, str] = {}
    for name, given in runs.items():
        if any(metrics.run.task == "probe/conv5" for _, metrics in given):
            names.setdefault(given[0][1].run.dataset, name)
    return names


def controls(
    arguments: argparse.Namespace, targets: list[Target], runs: list[RunMetrics], design: Design
) -> pd.DataFrame:
    """Return the controls: those of files, and those that follow from the runs."""
    rows: list[Row] = [*untrained_fits(runs, design), *rehearsal_rows()]
    for target in targets:
        rows += untrained_rows(target, design)
    rows += rivalries(targets, design, STATEMENTS)
    rows += shuffled_rows("shuffled_probe", arguments.shuffled_probe)
    rows += shuffled_rows("shuffled_finetuning", arguments.shuffled_finetuning)
    rows += blank_rows(arguments.blank)
    rows += dial_rows(arguments.dial) if arguments.dial else []
    for name, path in arguments.world:
        rows += world_rows(name, Path(path))
    table = pd.concat([pd.DataFrame(rows, columns=COLUMNS), *map(read_controls, arguments.lines)])
    missing = [name for name in CONTROLS if name not in set(table["control"])]
    absent = [not_run(name, CONTROLS[name], MAKE) for name in missing]
    table = pd.concat([table, pd.DataFrame(absent, columns=COLUMNS)])
    place = table["control"].map({name: k for k, name in enumerate(CONTROLS)})
    return table.assign(place=place).sort_values("place", kind="stable")[COLUMNS]


def main() -> None:
    arguments = parse()
    targets, runs = read_targets(arguments)
    design = Design(
        dict(arguments.start),
        dict(arguments.matched),
        frozenset(arguments.untrained),
        dict(arguments.twin),
    )
    found = controls(arguments, targets, runs, design)
    write_table(arguments.controls, found)
    published = read_all_published(arguments.published)
    table = ledger(STATEMENTS, targets, design, published, verdicts(found))
    write_table(arguments.output, table)


if __name__ == "__main__":
    run(main)
