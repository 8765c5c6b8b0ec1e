"""What a study cost: seconds, memory and GPU-hours by rule.

From Snakemake's benchmark files; and for the pre-trainings, which may come from a cache that
checkouts share and therefore have none, from what their training wrote (fit.json).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from detransfer.console import InputError

SHARED = "pretrain"  # the name that the table gives to all pre-trainings
COLUMNS = ["rule", "jobs", "seconds", "slowest", "cpu_seconds", "peak_mb", "gpus", "gpu_hours"]


def read_costs(results: Path, gpus: Mapping[str, int]) -> pd.DataFrame:
    """Return one row a rule, the most expensive first (columns: ``COLUMNS``).

    ``results`` holds ``benchmarks/<rule>.tsv`` or ``benchmarks/<rule>/…/<job>.tsv``, and
    ``pretraining/<name>/fit.json``. ``seconds`` is the wall-clock time of all jobs together,
    ``slowest`` that of the longest, ``peak_mb`` the largest memory of one; ``cpu_seconds`` are NaN
    where they were not taken. ``gpus`` says how many devices a job of a rule holds while it runs; a
    rule that is not there holds none. Raises InputError for a file that is no benchmark.
    """
    shared, folder = _pretrainings(results / "pretraining"), results / "benchmarks"
    held = dict(gpus) | {SHARED: max((devices for *_, devices in shared), default=0)}
    rows = [(rule, seconds, cpu, memory) for rule, seconds, cpu, memory, _ in shared]
    for path in sorted(folder.rglob("*.tsv")):
        rule = path.relative_to(folder).parts[0].removesuffix(".tsv")
        try:
            jobs = pd.read_csv(path, sep="\t", na_values=["-", "NA"])
            # More than one line: repeats of one job, of which the last made the output.
            last = jobs.iloc[-1]
            seconds, cpu, memory = (float(last[name]) for name in ("s", "cpu_time", "max_rss"))
            rows.append((rule, seconds, cpu, memory))
        except (KeyError, IndexError, ValueError, pd.errors.EmptyDataError) as error:
            raise InputError(f"{path}: no benchmark file of Snakemake's ({error})") from error
    table = pd.DataFrame(rows, columns=["rule", "seconds", "cpu_seconds", "peak_mb"])
    found = table.groupby("rule", as_index=False).agg(
        jobs=("seconds", "size"),
        slowest=("seconds", "max"),
        seconds=("seconds", "sum"),
        cpu_seconds=("cpu_seconds", lambda own: own.sum(min_count=1)),
        peak_mb=("peak_mb", "max"),
    )
    found["gpus"] = found["rule"].map(held).fillna(0).astype(int)
    found["gpu_hours"] = found["gpus"] * found["seconds"] / 3600
    order = ["seconds", "rule"]
    return found.sort_values(order, ascending=[False, True], ignore_index=True)[COLUMNS]


def _pretrainings(folder: Path) -> list[tuple[str, float, float, float, int]]:
    """Return rule, seconds, processor seconds, memory and devices of every pre-training."""
    rows = []
    for path in sorted(folder.glob("*/fit.json")):
        try:
            fit = json.loads(path.read_text())
            devices = 0 if fit["device"] == "cpu" else int(fit["world_size"])
            seconds, memory = float(fit["seconds"]), float(fit["peak_memory_mb"])
            rows.append((SHARED, seconds, float("nan"), memory, devices))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: not a readable fit.json ({error})") from error
    return rows
