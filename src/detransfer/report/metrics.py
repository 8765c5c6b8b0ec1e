"""metrics.json: the numbers of one run, what they mean, and where they come from.

One writer (:func:`write_metrics`) and one reader (:func:`read_metrics`), which hold the file to
the same rules. A number may stand beside another only where the *comparability* of their runs is
equal: everything that decides what a number means except the backbone (evaluation data and split,
training data, recipe of the target, convention of the metric, image size). Seed, hardware and
time are recorded and never part of it.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from detransfer.console import InputError
from detransfer.files import sha256, write_json

LIBRARIES = ("torch", "torchvision", "timm", "numpy")
IDENTITY = ("recipe_digest", "data_digest", "start_digest", "code_digest")
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class RunName:
    """Which run of the study: the folders of its metrics.json, and the target's data set."""

    task: str
    target: str
    dataset: str
    pretraining: str
    seed: int

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __str__(self) -> str:
        return f"{self.task}/{self.target}/{self.pretraining}/seed{self.seed}"


@dataclass(frozen=True)
class Metric:
    """One number: its unit, how many images it rests on, and its floor and ceiling if defined."""

    name: str
    value: float
    unit: str
    n: int
    floor: float | None = None
    ceiling: float | None = None

    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True)
class RunMetrics:
    """The content of a metrics.json (see the module); ``fit`` is that of the run's fit.json."""

    run: RunName
    metrics: tuple[Metric, ...]
    fit: dict[str, Any]
    comparability: dict[str, str | int | float]
    provenance: dict[str, str | int | float | None]

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def metric(self, name: str) -> Metric:
        """Return a metric by name; raises InputError with the names that there are."""
        for metric in self.metrics:
            if metric.name == name:
                return metric
        known = ", ".join(metric.name for metric in self.metrics)
        raise InputError(f"{self.run}: no metric {name!r} in its metrics.json; known: {known}")


def write_metrics(path: Path, run: RunMetrics) -> None:
    """Write a metrics.json; raises InputError for what :func:`read_metrics` would refuse."""
    content = json.dumps(asdict(run))
    _checked(content, path)
    write_json(path, json.loads(content))


def read_metrics(path: Path) -> RunMetrics:
    """Read a metrics.json; raises InputError that names the file and each fault in it."""
    try:
        content = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable metrics file ({error})") from error
    return _checked(content, path)


def check_comparable(runs: Sequence[RunMetrics]) -> None:
    """Raise InputError unless all runs have the same comparability, naming where two differ."""
    for other in runs[1:]:
        first, second = runs[0].comparability, other.comparability
        for name in sorted(first.keys() | second.keys()):
            here, there = first.get(name, "absent"), second.get(name, "absent")
            if here != there:
                raise InputError(
                    f"{runs[0].run} and {other.run} cannot stand in one table: they differ in "
                    f"{name} ({here} against {there}); run the older one again, or leave one out"
                )


Runs = dict[str, dict[str, dict[int, Path]]]  # folders by target, pre-training and seed


def runs_in(folders: Sequence[Path]) -> tuple[Runs, dict[str, str]]:
    """Return the runs whose metrics.json lie in ``folders``, and the data set of each target.

    Raises InputError for a run given twice and for runs of one target that are not comparable.
    """
    found: Runs = {}
    known: dict[str, list[RunMetrics]] = {}
    for folder in folders:
        run = read_metrics(folder / "metrics.json")
        name = run.run
        seeds = found.setdefault(name.target, {}).setdefault(name.pretraining, {})
        if name.seed in seeds:
            raise InputError(f"{name}: this run is given twice ({seeds[name.seed]}, {folder})")
        seeds[name.seed] = folder
        known.setdefault(name.target, []).append(run)
    for runs in known.values():
        check_comparable(runs)
    return found, {target: runs[0].run.dataset for target, runs in known.items()}


def provenance(
    model: Path, header: Mapping[str, Any], evaluation_code: str, device: str
) -> dict[str, str | int | float | None]:
    """Return where the numbers of a model file come from, for ``RunMetrics.provenance``.

    ``header`` is the model file's: the digests of recipe, training data, start and training code
    are taken from it. ``evaluation_code`` is the code digest of the program that evaluates, and
    ``device`` the name of what it ran on.
    """
    return {
        "model_digest": sha256(model),
        **{name: header.get(name) for name in IDENTITY},
        "evaluation_code_digest": evaluation_code,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
        "device": device,
    }


def _checked(content: str, path: Path) -> RunMetrics:
    try:
        run = TypeAdapter(RunMetrics).validate_json(content)
    except ValidationError as error:
        lines = [_describe(path, fault["loc"], fault["msg"]) for fault in error.errors()]
        raise InputError("\n".join(lines)) from None
    names = [metric.name for metric in run.metrics]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{path}: metric {twice[0]!r} stands there twice")
    return run


def _describe(path: Path, place: tuple[int | str, ...], message: str) -> str:
    where = ".".join(str(part) for part in place)
    return f"{path}: {where}: {message}" if where else f"{path}: {message}"
