"""Read an extracted data set in its official format and write the index that all else uses."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from detransfer.console import InputError, run
from detransfer.data.fingerprint import with_fingerprints
from detransfer.data.index import Index, write_index
from detransfer.data.readers import READERS, read_dataset

log = logging.getLogger("index")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--reader", required=True, help=f"format of the data set: {', '.join(READERS)}")
    add("--root", required=True, type=Path, help="folder of the extracted archives")
    add("--output", required=True, type=Path, help="folder of the index")
    add("--options", default="{}", metavar="JSON", help="options of the reader")
    return parser.parse_args()


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
    options = parse_options(arguments.options)
    index = with_fingerprints(read_dataset(arguments.reader, arguments.root, options))
    write_index(arguments.output, index)
    log_counts(index)


if __name__ == "__main__":
    run(main)
