"""Unpack the archives of one data set into its folder, which appears whole or not at all."""

from __future__ import annotations

import argparse
from pathlib import Path

from detransfer.console import run
from detransfer.data.catalog import load_catalog
from detransfer.data.extract import Part, extract


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", required=True, type=Path, help="folder of the data set")
    parser.add_argument(
        "archives",
        nargs="+",
        type=Path,
        metavar="ARCHIVE",
        help="tar, tar.gz or zip; the catalog says which need a folder of their own",
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    known = load_catalog().archives
    parts = [
        Part(path, known[path.name].extract_to if path.name in known else ".")
        for path in arguments.archives
    ]
    extract(parts, arguments.output)


if __name__ == "__main__":
    run(main)
