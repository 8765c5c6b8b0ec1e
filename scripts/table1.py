"""Table 1: classes, images and objects of every data set, beside the counts that the paper gives.

The paper rounds ("1.74M", "16.6K"); ours agrees where it rounds to the same digits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from detransfer.console import InputError, run
from detransfer.data.index import Index, read_index
from detransfer.files import atomic

UNITS = {"K": 1e3, "M": 1e6}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add(
        "--dataset",
        nargs="+",
        action="append",
        required=True,
        metavar="WORD",
        help="NAME INDEX_FOLDER EVAL_SPLIT [TRAIN_SPLIT...]; once for each data set",
    )
    add("--published", type=Path, required=True, help="the paper's Table 1")
    add("--output", type=Path, required=True, help="CSV to write")
    return parser.parse_args()


def counts(index: Index, train_splits: list[str], eval_split: str) -> dict[str, int]:
    """Return the quantities of Table 1; difficult and crowd objects are not counted, as there.

    A data set without splits to train on has none of training, and one that is trained on its
    split for evaluation none of evaluation, since nothing is held out.
    """
    parts = {}
    if train_splits:
        parts["train"] = index.split(*train_splits)
    if eval_split not in train_splits:
        parts["eval"] = index.split(eval_split)
    found = {"classes": len(index.classes)}
    found |= {f"{name}_images": len(part.images) for name, part in parts.items()}
    if len(index.objects):
        for name, part in parts.items():
            counted = ~part.objects[["difficult", "crowd"]].any(axis=1)
            found[f"{name}_objects"] = int(counted.sum())
    return found


def rounded_like(value: int, published: str) -> str:
    """Return ``value`` with the unit and the decimals of a published number."""
    unit = published[-1:] if published[-1:] in UNITS else ""
    decimals = len(published.removesuffix(unit).partition(".")[2])
    return f"{value / UNITS.get(unit, 1):.{decimals}f}{unit}"


def number(published: str) -> float:
    """Return a published number such as ``1.74M`` in full."""
    unit = published[-1:]
    return float(published[:-1]) * UNITS[unit] if unit in UNITS else float(published)


def main() -> None:
    arguments = parse()
    published = pd.read_csv(arguments.published, dtype=str, keep_default_na=False)
    printed = published.set_index("dataset")
    rows = []
    for name, *words in arguments.dataset:
        if len(words) < 2:
            raise InputError(f"--dataset {name}: give its folder, eval split and train splits")
        folder, eval_split, *train_splits = words
        index = read_index(Path(folder))
        for quantity, value in counts(index, train_splits, eval_split).items():
            text = printed[quantity].get(name, "") if quantity in printed else ""
            rows.append(
                {
                    "dataset": name,
                    "role": printed["role"].get(name, ""),
                    "quantity": quantity,
                    "value": value,
                    "published": text,
                    "difference": value - number(text) if text else None,
                    "agrees": rounded_like(value, text) == text if text else None,
                }
            )
    order = {name: place for place, name in enumerate(printed.index)}
    table = pd.DataFrame(rows).sort_values(
        "dataset", key=lambda names: names.map(order).fillna(len(order)), kind="stable"
    )
    with atomic(arguments.output) as temporary:
        table.to_csv(temporary, index=False)


if __name__ == "__main__":
    run(main)
