"""Say before a launch what a study will cost: jobs, GPU-hours, hours, disk, and what needs a login.

    python scripts/plan.py --gpus 8 --cores 64
    python scripts/plan.py --gpus 0 --cores 2 -- --configfile config/demo.yaml

What stands behind `--` goes to Snakemake, which plans without running anything. Seconds come from
runs of the same target that have finished here (fit.json, the benchmarks), else from the published
speeds in config/rates.yaml; each line says which. Nothing is refused: what cannot be reckoned is
named and left out of the sums.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import shutil
import statistics
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow.parquet as pq
import yaml
from pydantic import Field

from detransfer.console import InputError, run
from detransfer.data.catalog import Archive, load_catalog
from detransfer.dry_run import Job, read_jobs, wall_time
from detransfer.strict import Strict, load_file

REPOSITORY = Path(__file__).parents[1]
RATES = REPOSITORY / "config" / "rates.yaml"
OFFICIAL = REPOSITORY / "config" / "published" / "table1.csv"
STEPS_UP = 2  # folders between a run and its target's: the pre-training's and the target's


class Rate(Strict):
    """The speed of a rule where none has been measured; see config/rates.yaml."""

    unit: Literal["trained", "tested", "images", "bytes", "jobs"] = Field(
        description="what is counted"
    )
    per_second: float = Field(gt=0, description="how many of them one GPU or core does a second")
    factor: float = Field(1.0, gt=0, description="how often each is done")
    megabytes: float = Field(0.0, ge=0, description="files that a job leaves")
    kilobytes: float = Field(0.0, ge=0, description="files that a job leaves for each image")
    source: str = Field(description="who says so")


class Rates(Strict):
    rules: dict[str, Rate]


@dataclass(frozen=True)
class Cost:
    """What a job takes: seconds (None: unknown), and who says so."""

    seconds: float | None
    source: str
    measured: bool = False
    bytes: float = 0.0  # that it leaves on the disk


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--gpus", type=int, default=8, help="GPUs to plan for (default: %(default)s)")
    add("--cores", type=int, default=64, help="processor cores to plan for (default: %(default)s)")
    add(
        "--faster",
        type=float,
        default=1.0,
        metavar="TIMES",
        help="how much faster your GPU is than those of the stated speeds (default: %(default)s)",
    )
    add("--rates", type=Path, default=RATES, help="speeds where none are measured")
    words = sys.argv[1:]
    border = words.index("--") if "--" in words else len(words)
    arguments = parser.parse_args(words[:border])
    arguments.snakemake = words[border + 1 :]
    if arguments.gpus < 0 or arguments.cores < 1 or arguments.faster <= 0:
        parser.error("--gpus must be 0 or more, --cores 1 or more, and --faster above 0")
    return arguments


def dry_run(words: Sequence[str]) -> str:
    """Return what Snakemake says it would do; raises InputError with its own message."""
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--printshellcmds", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"Snakemake cannot plan this:\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout + done.stderr


class Sizes:
    """How many images and bytes the data sets have: counted where they lie here, else official."""

    def __init__(self, official: bool) -> None:
        self.archives = load_catalog().archives
        self.official: dict[str, dict[str, str]] = {}
        if official:
            rows = csv.DictReader(OFFICIAL.read_text().splitlines())
            self.official = {row["dataset"]: row for row in rows}

    def images(self, index: str | None, splits: Sequence[str], role: str) -> float | None:
        """Return the images of some splits (none given: of all) of an index."""
        table = Path(index or "") / "images.parquet"
        if table.is_file():
            counts = Counter(pq.read_table(table, columns=["split"])["split"].to_pylist())
            return float(sum(counts[split] for split in splits or counts))
        row = self.official.get(Path(index or "").name, {})
        roles = (role,) if role != "all" else ("train", "eval")
        known = [_number(row[f"{each}_images"]) for each in roles if row.get(f"{each}_images")]
        return sum(known) if known else None

    def bytes(self, job: Job) -> float | None:
        """Return the size of the archives that a job fetches or unpacks; None where one is not."""
        known, unknown = self.of_archives(job)
        return None if unknown else known

    def of_archives(self, job: Job) -> tuple[float, set[str]]:
        """Return the known bytes that a job fetches or unpacks, and the archives without a size."""
        parts = [Path(path).name for path in job.inputs if Path(path).name in self.archives]
        names = [job.option("--archive") or ""] if job.rule == "fetch" else parts
        places = {Path(path).name: Path(path) for path in (*job.inputs, *job.outputs)}
        sizes = {name: self._archive(name, places.get(name)) for name in names}
        unknown = {name for name, size in sizes.items() if size is None}
        return float(sum(size or 0 for size in sizes.values())), unknown

    def _archive(self, name: str, here: Path | None) -> int | None:
        if here is not None and here.is_file():
            return here.stat().st_size
        return self.archives[name].size if name in self.archives else None


def _number(text: str) -> float:
    """Return a number such as ``16.6K`` or ``1.28M``."""
    return float(text.rstrip("KM")) * {"K": 1e3, "M": 1e6}.get(text[-1], 1)


def work(job: Job, unit: str, sizes: Sizes) -> float | None:
    """Return how much of its unit a job has to do; None where it is not known."""
    index, splits = job.option("--index"), job.options("--splits")
    if unit == "jobs":
        return 1.0
    if unit == "bytes":
        return sizes.bytes(job)
    if unit == "trained":
        recipe, images = job.option("--recipe"), sizes.images(index, splits, "train")
        epochs = yaml.safe_load(Path(recipe or "").read_text())["training"]["epochs"]
        return None if images is None else images * epochs
    if unit == "tested":
        return sizes.images(index, job.options("--split"), "eval")
    return sizes.images(index or job.option("--output"), (), "all")


def measured(job: Job) -> Cost | None:
    """Return the seconds of finished jobs of this rule on this target; None without any."""
    if any(output.endswith("fit.json") for output in job.outputs):
        folder = Path(job.outputs[0]).parent
        if runs := finished(folder, "fit.json", STEPS_UP if "seed" in folder.name else 0):
            seconds = [float(json.loads(file.read_text())["seconds"]) for file in runs]
            return Cost(statistics.median(seconds), f"measured, {len(runs)} runs", True)
    if job.benchmark:
        file = Path(job.benchmark)
        near = finished(file.parent, "*.tsv", STEPS_UP - 1) if "seed" in file.name else []
        if runs := near or [each for each in (file,) if each.is_file()]:
            seconds = [float(row["s"]) for each in runs for row in benchmark(each)]
            return Cost(statistics.median(seconds), f"measured, {len(runs)} jobs", True)
    return None


def finished(folder: Path, name: str, up: int) -> list[Path]:
    """Return the files of a name nearest to a folder: below it, or below those above it."""
    for place in (folder, *folder.parents[:up]):
        if found := sorted(place.rglob(name)) if place.is_dir() else []:
            return found
    return []


def benchmark(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text().splitlines(), delimiter="\t"))


def cost(job: Job, rates: dict[str, Rate], sizes: Sizes, faster: float) -> Cost:
    """Return what a job takes; on a GPU ``faster`` times as fast as the one of a stated speed."""
    rate = rates.get(job.rule, rates["other"])
    amount = work(job, rate.unit, sizes)
    images = amount if rate.unit == "images" else 0.0
    left = rate.megabytes * 1e6 + rate.kilobytes * 1e3 * (images or 0.0)
    known = measured(job)
    if known is not None:
        return Cost(known.seconds, known.source, True, left)
    if amount is None:
        return Cost(None, "unknown: the data are not here yet, and their size is not published")
    speed = rate.per_second * (faster if job.gpus else 1.0)
    return Cost(amount * rate.factor / speed, rate.source, False, left)


def table_of_rules(jobs: Sequence[Job], costs: Sequence[Cost]) -> list[str]:
    """Return a line for each rule, and for each way in which its cost is known."""
    groups: dict[tuple[str, str], list[tuple[Job, Cost]]] = defaultdict(list)
    for job, each in zip(jobs, costs, strict=True):
        kind = each.source if each.seconds is None or each.measured else "stated"
        groups[job.rule, re.sub(r"\d+ ", "", kind)].append((job, each))
    lines = [f"{'rule':<28}{'jobs':>6}{'GPU-hours':>12}{'hours':>10}  known from"]
    for (rule, kind), members in groups.items():
        hours = sum(each.seconds or 0.0 for _, each in members) / 3600
        on_gpus = sum((each.seconds or 0.0) * job.gpus for job, each in members) / 3600
        lines.append(f"{rule:<28}{len(members):>6}{on_gpus:>12.2f}{hours:>10.2f}  {kind}")
    return lines


def totals(jobs: Sequence[Job], costs: Sequence[Cost], gpus: int, cores: int) -> list[str]:
    hours = sum((each.seconds or 0.0) * job.gpus for job, each in zip(jobs, costs, strict=True))
    wall = wall_time(jobs, [each.seconds or 0.0 for each in costs], gpus, cores)
    unknown = sum(each.seconds is None for each in costs)
    known = sum(each.measured for each in costs)
    most = max((job.gpus for job in jobs), default=0)
    lines = [
        f"GPU-hours: {hours / 3600:.1f}",
        f"Wall time on {gpus} GPUs and {cores} cores: about {days(wall)}, each job started as soon "
        "as it can",
        f"Known from: {known} jobs measured here, {len(jobs) - known - unknown} by stated speeds "
        f"(right within a factor of a few), {unknown} unknown and left out of the sums",
    ]
    if most > gpus:
        lines.append(f"A job asks for {most} GPUs: with {gpus} it will not start")
    return lines


def days(seconds: float) -> str:
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 172800 else f"{seconds / 86400:.1f} days"


def stated(jobs: Sequence[Job], costs: Sequence[Cost]) -> list[str]:
    """Return the source of each speed that is not measured here."""
    rules: dict[str, list[str]] = defaultdict(list)
    for job, each in zip(jobs, costs, strict=True):
        if not each.measured and each.seconds is not None and job.rule not in rules[each.source]:
            rules[each.source].append(job.rule)
    return [f"{', '.join(names)}: {source}" for source, names in rules.items() if names]


def downloads(jobs: Sequence[Job], sizes: Sizes) -> tuple[float, list[str]]:
    """Return the bytes to fetch, and what is not known of them or needs a person."""
    total, lines = 0.0, []
    for job in jobs:
        name = job.option("--archive")
        if job.rule != "fetch" or name is None:
            continue
        archive, size = sizes.archives[name], sizes.bytes(job)
        total += size or 0.0
        if size is None:
            lines.append(f"{name}: size not published ({archive.checksum_source})")
        lines += needs_login(job, name, archive)
    return total, lines


def needs_login(job: Job, name: str, archive: Archive) -> list[str]:
    manual = Path(job.option("--manual") or "") / name
    if archive.login is None or job.option("--mirror") or manual.is_file():
        return []
    where = f"{archive.login.page} ({archive.login.account})"
    return [f"{name}: needs a login, get it from {where} and put it at {manual}"]


def disk(
    jobs: Sequence[Job], costs: Sequence[Cost], gpus: int, fetched: float, sizes: Sizes
) -> list[str]:
    """Return what is written where, against what is free there."""
    needs: dict[Path, float] = defaultdict(float)
    unknown: dict[Path, set[str]] = defaultdict(set)
    for job, each in zip(jobs, costs, strict=True):
        if job.outputs:
            place = existing(Path(job.outputs[0]))
            needs[place] += each.bytes
            if job.rule in ("fetch", "extract"):  # photos do not compress: as much once more
                amount, without = sizes.of_archives(job)
                needs[place] += amount
                unknown[place] |= without
    left = [checkpoint(job, each.bytes) for job, each in zip(jobs, costs, strict=True)]
    if any(left):  # each training leaves one; two more while it runs
        state = next(job.option("--state") for job, each in zip(jobs, left, strict=True) if each)
        needs[existing(Path(str(state)))] += sum(left) + 2 * max(left) * max(gpus, 1)
    to_fetch = {name for job in jobs if job.rule == "fetch" for name in sizes.of_archives(job)[1]}
    first = f"to download: {least(fetched, to_fetch)}"
    lines = [f"{first}; unpacked, they are reckoned with as much once more"]
    return lines + by_disk(needs, unknown)


def checkpoint(job: Job, model: float) -> float:
    """Return the bytes of a training's checkpoint, its model having so many; 0 of other jobs.

    Beside the weights it holds their momentum, or the two moments of AdamW.
    """
    if not any(output.endswith("fit.json") for output in job.outputs):
        return 0.0
    recipe = yaml.safe_load(Path(job.option("--recipe") or "").read_text())
    return model * (3 if recipe["training"].get("optimizer") == "adamw" else 2)


def by_disk(needs: Mapping[Path, float], unknown: Mapping[Path, set[str]]) -> list[str]:
    """Return a line for each file system: what is needed, and what is free.

    ``unknown``: archives that go there without a known size.
    """
    devices: dict[int, tuple[Path, float, set[str]]] = {}
    for place, amount in needs.items():
        device = place.stat().st_dev
        first, before, names = devices.get(device, (place, 0.0, set()))
        first = min(first, place, key=lambda p: len(p.parts))
        devices[device] = (first, before + amount, names | unknown.get(place, set()))
    lines = []
    for place, amount, names in devices.values():
        free = shutil.disk_usage(place).free
        verdict = f"{size(free - amount)} are left for those" if names else "enough"
        if free <= amount:
            verdict = f"NOT ENOUGH: {size(amount - free)} are lacking"
        lines.append(
            f"on the disk of {place.resolve()}: needed {least(amount, names)}, "
            f"free {size(free)}: {verdict}"
        )
    return lines


def least(amount: float, unknown: set[str]) -> str:
    """Return an amount in words, as a lower bound where archives without a size come to it."""
    if not unknown:
        return size(amount)
    count = "1 archive" if len(unknown) == 1 else f"{len(unknown)} archives"
    return f"at least {size(amount)}, without {count} of unknown size"


def existing(path: Path) -> Path:
    """Return the nearest folder above a path that is there."""
    return next(place for place in (path, *path.parents, Path()) if place.is_dir())


def size(amount: float) -> str:
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if amount >= unit:
            return f"{amount / unit:.1f} {name}"
    return f"{amount / 1e3:.0f} kB"


def section(title: str, lines: Iterable[str]) -> None:
    lines = list(lines)
    if lines:
        print(f"\n{title}")
        print("\n".join(f"  {line}" for line in lines))


def main() -> None:
    arguments = parse()
    rates = load_file(arguments.rates, Rates).rules
    jobs = read_jobs(dry_run(arguments.snakemake))
    official = not any(job.option("--mirror") for job in jobs if job.rule == "fetch")
    sizes = Sizes(official)
    costs = [cost(job, rates, sizes, arguments.faster) for job in jobs]
    fetched, notes = downloads(jobs, sizes)
    print(f"{len(jobs)} jobs are to be done")
    section("Jobs", table_of_rules(jobs, costs) if jobs else [])
    section("In all", totals(jobs, costs, arguments.gpus, arguments.cores) if jobs else [])
    section("Disk", disk(jobs, costs, arguments.gpus, fetched, sizes) if jobs else [])
    section("Downloads to look after", notes)
    section("Stated speeds", stated(jobs, costs))


if __name__ == "__main__":
    run(main)
