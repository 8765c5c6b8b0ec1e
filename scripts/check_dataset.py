"""Look a data set over before anything is trained on it, and report what is wrong.

Checks every row of the index (boxes inside their image, classes that are listed), reads the header
of every image and compares sizes, decodes a sample with its masks, and looks for equal files in the
splits for training and for evaluation and for classes without an example. Everything found goes
into the report; broken rows, damaged images and image classes without a training image are errors:
a training or a probe would stop at them. The report then lies beside the output, as
``check.failed.csv``.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from detransfer.console import InputError, run
from detransfer.data.images import image_size
from detransfer.data.index import Index, broken_rules, read_index
from detransfer.data.masks import read_mask
from detransfer.files import atomic, sha256

SHOWN = 1000  # broken rows at most: a table of a million objects may be wrong throughout
COLUMNS = ["severity", "finding", "path", "detail"]
TRAINING = "training"
Finding = tuple[str, str, str, str]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--index", type=Path, required=True, help="folder of the data set's index")
    add("--train-splits", nargs="*", required=True, help="splits to train on")
    add("--eval-split", required=True, help="split to evaluate on")
    add("--sample", type=int, default=500, help="images to decode whole")
    add("--threads", type=int, default=1, help="processor cores to use")
    add("--output", type=Path, required=True, help="CSV with one row a finding")
    return parser.parse_args()


def wrong_headers(index: Index, threads: int) -> Iterator[Finding]:
    """Yield the images that are missing, are none, or differ in size from the index."""

    def look(row: tuple[str, int, int]) -> Finding | None:
        path, *expected = row
        try:
            found = image_size(index.root / path)
        except InputError as error:
            return "error", "unreadable image", path, str(error)
        if found != tuple(expected):
            sizes = f"{found[0]} x {found[1]}, the index says {expected[0]} x {expected[1]}"
            return "error", "another size than the index says", path, sizes
        return None

    rows = index.images[["path", "width", "height"]].itertuples(index=False, name=None)
    with ThreadPoolExecutor(threads) as pool:
        yield from filter(None, pool.map(look, rows))


def broken_rows(index: Index, folder: Path) -> list[Finding]:
    """Return the first rows that should not be: boxes out of bounds, unknown classes."""
    messages = broken_rules(index.images, index.objects, index.classes, index.negatives)
    found = islice(messages, SHOWN)
    return [("error", "broken row of the index", str(folder), message) for message in found]


def damaged(index: Index, count: int, threads: int) -> Iterator[Finding]:
    """Yield the images of a sample whose content, or whose mask, cannot be decoded."""

    def look(path: str) -> Finding | None:
        try:
            with Image.open(index.root / path) as image:
                image.load()
        except (OSError, SyntaxError, ValueError) as error:
            return "error", "damaged image", path, str(error)
        return None

    def look_at_mask(row: tuple[str, int, int]) -> Finding | None:
        path, *size = row
        try:
            height, width = read_mask(index.root / path, len(index.classes) - 1).shape
        except InputError as error:
            return "error", "damaged mask", path, str(error)
        if [width, height] != size:
            sizes = f"{width} x {height}, its image {size[0]} x {size[1]}"
            return "error", "mask of another size than its image", path, sizes
        return None

    images = index.sample(count).images
    with ThreadPoolExecutor(threads) as pool:
        yield from filter(None, pool.map(look, images["path"]))
        if "mask" in images:
            rows = images[["mask", "width", "height"]].itertuples(index=False, name=None)
            yield from filter(None, pool.map(look_at_mask, rows))


def shared_images(train: Index, evaluation: Index) -> Iterator[Finding]:
    """Yield the images for evaluation whose very bytes are also an image for training.

    Only files of a size that occurs on both sides are read.
    """
    sizes = [_by_size(part.images["path"], part.root) for part in (train, evaluation)]
    for size in sizes[0].keys() & sizes[1].keys():
        known = {sha256(train.root / path): path for path in sizes[0][size]}
        for path in sizes[1][size]:
            twin = known.get(sha256(evaluation.root / path))
            if twin is not None:
                yield "warning", "evaluation image is a training image", path, f"equals {twin}"


def _by_size(paths: Iterable[str], root: Path) -> dict[int, list[str]]:
    groups: dict[int, list[str]] = {}
    for path in paths:
        file = root / path
        if file.is_file():
            groups.setdefault(file.stat().st_size, []).append(path)
    return groups


def absent_classes(part: Index, name: str) -> Iterator[Finding]:
    """Yield the classes that have no image or object in a part of the data set."""
    of_images = "class_id" in part.images
    labels = part.images if of_images else part.objects
    counts = np.bincount(labels["class_id"], minlength=len(part.classes))
    # A detector can do without a class; a probe of images cannot, and would say so much later.
    severity = "error" if of_images and name == TRAINING else "warning"
    for class_id in np.flatnonzero(counts == 0):
        yield severity, f"class without example in {name}", "", part.classes["name"][class_id]


def split_findings(index: Index, train_splits: list[str], eval_split: str) -> Iterator[Finding]:
    """Yield what is wrong between and within the splits for training and for evaluation."""
    evaluation = index.split(eval_split)
    if not train_splits:  # only evaluated on
        yield from absent_classes(evaluation, "evaluation")
        return
    train = index.split(*train_splits)
    yield from absent_classes(train, TRAINING)
    if eval_split in train_splits:
        detail = "so no image was compared with those for training"
        yield "note", "the split for evaluation is one for training", "", f"{eval_split}: {detail}"
        return
    yield from shared_images(train, evaluation)
    yield from absent_classes(evaluation, "evaluation")


def refuse(index: Index, table: pd.DataFrame, output: Path) -> None:
    """Raise InputError that shows the first errors, if there are any; all findings are kept.

    They are written beside ``output``, which Snakemake deletes when the job fails.
    """
    kept = output.with_suffix(f".failed{output.suffix}")
    errors = table[table["severity"] == "error"]
    if errors.empty:
        kept.unlink(missing_ok=True)
        return
    with atomic(kept) as temporary:
        table.to_csv(temporary, index=False)
    first = errors.head(5)
    where = first["path"].where(first["path"] != "", first["finding"])
    shown = "\n".join(f"  {p}: {d}" for p, d in zip(where, first["detail"], strict=True))
    raise InputError(
        f"{index.root}: {len(errors)} faults that no training or probe survives:\n{shown}\n"
        f"All findings stand in {kept}. Extract the data set again, or replace these files (or "
        "leave out these classes by the reader's options) and make the index again."
    )


def main() -> None:
    arguments = parse()
    index = read_index(arguments.index)
    findings = [*broken_rows(index, arguments.index), *wrong_headers(index, arguments.threads)]
    if not any(finding == "broken row of the index" for _, finding, _, _ in findings):
        findings += damaged(index, arguments.sample, arguments.threads)
        findings += split_findings(index, arguments.train_splits, arguments.eval_split)
    table = pd.DataFrame(findings, columns=COLUMNS)
    for kind, count in table["finding"].value_counts().items():
        logging.info("%s: %d", kind, count)
    refuse(index, table, arguments.output)
    with atomic(arguments.output) as temporary:
        table.to_csv(temporary, index=False)
    logging.info("%d images looked at, %d findings", len(index.images), len(table))


if __name__ == "__main__":
    run(main)
