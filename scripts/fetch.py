"""Get one archive of the catalog, continue what was interrupted, and check it."""

from __future__ import annotations

import argparse
from pathlib import Path

from detransfer.console import InputError, run
from detransfer.data.catalog import load_catalog
from detransfer.data.download import Patience
from detransfer.data.fetch import Sources, fetch_archive
from detransfer.strict import suggest


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--archive", required=True, metavar="NAME", help="official file name, as in the catalog")
    add("--output", required=True, type=Path, help="where the archive appears once it is right")
    add("--mirror", metavar="ROOT", help="folder, file: or http(s) URL with all archives by name")
    add("--checksums", type=Path, help="sha256sum file that replaces the catalog's checksums")
    add("--manual", type=Path, default=Sources.manual, help="folder of archives that need a login")
    add("--attempts", type=int, default=Patience.attempts, help="tries without a new byte")
    add("--delay", type=float, default=Patience.delay, help="first wait between tries, seconds")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    archives = load_catalog().archives
    if arguments.archive not in archives:
        hint = suggest(arguments.archive, archives)
        raise InputError(f"the catalog has no archive {arguments.archive!r}{hint}")
    fetch_archive(
        arguments.archive,
        archives[arguments.archive],
        arguments.output,
        Sources(arguments.mirror, arguments.checksums, arguments.manual),
        Patience(arguments.attempts, arguments.delay),
    )


if __name__ == "__main__":
    run(main)
