"""A copy of the working tree in which Snakemake can be run without touching the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("SNAKEMAKE")},
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "OMP_NUM_THREADS": "1",
    "COLUMNS": "200",
}
ENVIRONMENT.pop("PYTHONPATH", None)  # the workflow itself has to find its package


@dataclass(frozen=True)
class Result:
    """What a program printed, on both streams, and its exit code."""

    code: int
    output: str

    def jobs(self) -> dict[str, int]:
        """Return the planned jobs by rule, without the total; none where nothing is to be done."""
        assert self.code == 0, self.output
        if "Nothing to be done" in self.output:
            return {}
        table = re.search(r"^Job stats:\njob +count\n[- ]+\n(.*?)\n\n", self.output, re.M | re.S)
        assert table, self.output
        counts = {name: int(count) for name, count in map(str.split, table[1].splitlines())}
        assert counts.pop("total") == sum(counts.values())
        return counts


@dataclass(frozen=True)
class Checkout:
    """A copy of the working tree."""

    folder: Path

    def run(self, *words: str, timeout: float = 60) -> Result:
        """Run a program in the copy."""
        done = subprocess.run(
            words,
            cwd=self.folder,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Result(done.returncode, done.stdout)

    def snakemake(self, *words: str, timeout: float = 60) -> Result:
        """Run Snakemake in the copy."""
        return self.run(sys.executable, "-m", "snakemake", *words, timeout=timeout)

    def plan(self, *words: str) -> dict[str, int]:
        """Return the jobs that Snakemake would run, by rule."""
        return self.snakemake("-n", *words).jobs()


def copy_repository(repository: Path, folder: Path) -> Checkout:
    """Copy what git knows or would add, so that no result of the repository changes a plan."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=repository,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (repository / name).is_file():  # git lists a deleted file until the next commit
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(repository / name, folder / name)
    return Checkout(folder)
