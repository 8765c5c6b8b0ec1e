"""Read an extracted data set in its official format and write the index that all else uses."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from detransfer.console import InputError, run
from detransfer.data.catalog import load_catalog
from detransfer.data.index import Index, write_index
from detransfer.data.readers import READERS, read_dataset
from detransfer.study import suggest

log = logging.getLogger("index")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--dataset", required=True, metavar="NAME", help="name in the catalog, or your own")
    add("--root", required=True, type=Path, help="folder of the extracted archives")
    add("--output", required=True, type=Path, help="folder of the index")
    add("--options", default="{}", metavar="JSON", help="reader options over the catalog's")
    add("--reader", help=f"format of your own data set: {', '.join(READERS)}")
    return parser.parse_args()


def choose(dataset: str, reader: str | None, changes: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the reader and its options: the catalog's, overridden key by key."""
    datasets = load_catalog().datasets
    if dataset in datasets and reader in (None, datasets[dataset].reader):
        return datasets[dataset].reader, {**datasets[dataset].options, **changes}
    if reader is None:
        hint = suggest(dataset, datasets)
        raise InputError(f"the catalog has no data set {dataset!r}{hint}; or give its --reader")
    return reader, changes


def parse_options(text: str) -> dict[str, Any]:
    try:
        options = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"--options: not JSON ({error}): {text}") from error
    if not isinstance(options, dict):
        raise InputError(f"--options: expected an object such as {{}}, got {text}")
    return options


def log_counts(index: Index) -> None:
    """Log images and objects of every split, then of every class."""
    for split in index.images["split"].unique():
        part = index.split(split)
        log.info("%s: %d images, %d objects", split, len(part.images), len(part.objects))
        table = part.images if "class_id" in part.images else part.objects
        counts = table["class_id"].value_counts()
        names = index.classes["name"]
        each = [f"{name} {counts.get(row, 0)}" for row, name in enumerate(names)]
        log.info("%s: by class: %s", split, ", ".join(each))


def main() -> None:
    arguments = parse()
    reader, options = choose(arguments.dataset, arguments.reader, parse_options(arguments.options))
    index = read_dataset(reader, arguments.root, options)
    write_index(arguments.output, index)
    log_counts(index)


if __name__ == "__main__":
    run(main)
