"""Unpack the archives of one data set into its folder, which appears whole or not at all."""

from __future__ import annotations

import argparse
from pathlib import Path

from detransfer.console import run
from detransfer.data.extract import Part, extract


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", required=True, type=Path, help="folder of the data set")
    parser.add_argument(
        "--part",
        nargs=2,
        action="append",
        required=True,
        metavar=("ARCHIVE", "FOLDER"),
        help="tar, tar.gz, zip or single file, and the folder inside the data set to unpack it "
        "into ('.': the data set itself); once for each archive",
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    extract([Part(Path(path), folder) for path, folder in arguments.part], arguments.output)


if __name__ == "__main__":
    run(main)
