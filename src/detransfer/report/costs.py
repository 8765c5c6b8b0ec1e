"""What a study cost: seconds, memory and GPU-hours by rule, from Snakemake's benchmark files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from detransfer.console import InputError

COLUMNS = ["rule", "jobs", "seconds", "slowest", "cpu_seconds", "peak_mb", "gpus", "gpu_hours"]


def read_costs(folder: Path, gpus: Mapping[str, int]) -> pd.DataFrame:
    """Return one row a rule, the most expensive first (columns: ``COLUMNS``).

    ``folder`` holds ``<rule>.tsv`` or ``<rule>/…/<job>.tsv``. ``seconds`` is the wall-clock time of
    all jobs together, ``slowest`` that of the longest, ``peak_mb`` the largest memory of one.
    ``gpus`` says how many devices a job of a rule holds while it runs; a rule that is not there
    holds none. Raises InputError for a file that is no benchmark.
    """
    rows = []
    for path in sorted(folder.rglob("*.tsv")):
        rule = path.relative_to(folder).parts[0].removesuffix(".tsv")
        try:
            jobs = pd.read_csv(path, sep="\t", na_values=["-", "NA"])
            # More than one line: repeats of one job, of which the last made the output.
            last = jobs.iloc[-1]
            rows.append((rule, *(float(last[name]) for name in ("s", "cpu_time", "max_rss"))))
        except (KeyError, IndexError, ValueError, pd.errors.EmptyDataError) as error:
            raise InputError(f"{path}: no benchmark file of Snakemake's ({error})") from error
    table = pd.DataFrame(rows, columns=["rule", "seconds", "cpu_seconds", "peak_mb"])
    found = table.groupby("rule", as_index=False).agg(
        jobs=("seconds", "size"),
        slowest=("seconds", "max"),
        seconds=("seconds", "sum"),
        cpu_seconds=("cpu_seconds", "sum"),
        peak_mb=("peak_mb", "max"),
    )
    found["gpus"] = found["rule"].map(gpus).fillna(0).astype(int)
    found["gpu_hours"] = found["gpus"] * found["seconds"] / 3600
    order = ["seconds", "rule"]
    return found.sort_values(order, ascending=[False, True], ignore_index=True)[COLUMNS]
