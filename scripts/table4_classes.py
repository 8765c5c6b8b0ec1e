"""The classes of Table 4: IoU of each by pre-training, and what pre-training on detection adds."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from detransfer.console import InputError, run
from detransfer.report.bootstrap import Scores, estimate, resamples
from detransfer.report.metrics import runs_in
from detransfer.report.tables import write_table
from detransfer.segmentation.by_distance import read_confusion
from detransfer.segmentation.scores import iou

DESCRIPTION = """\
The classes of Table 4: one row for the IoU of each class and pre-training, in percent, and one for
each difference to a baseline, in points. Mean and sample deviation over the seeds; low and high are
the ends of the interval that holds 95 % of 1,000 resamples of the images, the same ones for all
runs, and are left out where fewer than five images have the class; images are those that have it. A
class without true pixels has a row without numbers.
"""
FEWEST = 5  # images with a class below which their resamples say nothing
TASK, DATASET = "VOC segmentation", "voc_segmentation"  # in the paper's text, and here


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
        help="two pre-trainings whose difference is given; can be given again",
    )
    add("--published", type=Path, required=True, help="numbers of the paper's text")
    add("--output", type=Path, required=True, help="CSV to write")
    return parser.parse_args()


def numbers(folders: list[Path], contrasts: list[list[str]]) -> pd.DataFrame:
    """Return the table without the paper's numbers: one row a target, run (or gap) and class."""
    found, datasets = runs_in(folders)
    tables = []
    for target, pretrainings in found.items():
        first = next(iter(next(iter(pretrainings.values())).values()))
        confusion = read_confusion(first / "confusion.parquet")
        images = (confusion.counts().sum(1)[..., 1] > 0).sum(0)
        read = {
            name: {seed: score(folder) for seed, folder in sorted(seeds.items())}
            for name, seeds in pretrainings.items()
        }
        pairs = [(name, "") for name in read]
        pairs += [(name, other) for name, other in contrasts if name in read and other in read]
        for name, baseline in pairs:
            place = {"target": target, "dataset": datasets[target], "class": confusion.classes}
            place |= {"run": name, "baseline": baseline}
            over = vars(estimate(read[name], read.get(baseline)))
            rows = pd.DataFrame({**place, **over, "images": images})
            rows.loc[images < FEWEST, ["low", "high"]] = np.nan
            tables.append(rows)
    return pd.concat(tables, ignore_index=True)


def score(folder: Path) -> Scores:
    """Return the IoU of each class, in percent, on all images and their resamples."""
    counts = read_confusion(folder / "confusion.parquet").counts().sum(1)
    resampled = np.tensordot(resamples(len(counts)), counts, 1)
    return Scores(100 * iou(counts.sum(0)), 100 * iou(resampled))


def with_published(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Put the differences that the paper gives in its text beside ours; raises InputError."""
    try:
        text = pd.read_csv(path)
        text = text[text["task"] == TASK]
        printed = dict(zip(text["metric"].str.removeprefix("IoU "), text["value"], strict=True))
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{path}: not a readable table of the paper's text ({error})") from error
    about = (table["baseline"] != "") & (table["dataset"] == DATASET)
    return table.assign(published=table["class"].map(printed).where(about))


def main() -> None:
    arguments = parse()
    table = numbers(arguments.runs, arguments.contrast)
    write_table(arguments.output, with_published(table, arguments.published))


if __name__ == "__main__":
    run(main)
