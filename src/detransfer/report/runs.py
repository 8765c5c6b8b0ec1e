"""Where each number comes from: the runs of a study, with their digests, devices and logs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detransfer.report.metrics import RunMetrics, RunName, read_metrics

PROBE, PRETRAINING, VISUALIZATION = "probe", "pretraining", "visualization"


@dataclass(frozen=True)
class Run:
    """One run: its numbers and origin, and its files relative to the folder of the results."""

    metrics: RunMetrics
    path: Path
    logs: tuple[Path, ...]

    @property
    def anchor(self) -> str:
        name = self.metrics.run
        return anchor(name.task, name.target, name.pretraining)

    @property
    def provenance(self) -> dict[str, Any]:
        return self.metrics.provenance

    @property
    def seconds(self) -> float | None:
        """Seconds of the training."""
        return self._fit("seconds")

    @property
    def training_score(self) -> float | None:
        """The score on training images, by the run's own metric (percent)."""
        return self._fit("training_score")

    def _fit(self, name: str) -> float | None:
        value = self.metrics.fit.get(name)
        return float(value) if isinstance(value, int | float) else None


def anchor(task: str, target: str, pretraining: str) -> str:
    """Return the id of the place on a page where the runs of all seeds stand."""
    return re.sub(r"[^\w.-]", "-", f"run-{task}-{target}-{pretraining}")


def read_runs(results: Path, tasks: Iterable[str], logs: Path) -> list[Run]:
    """Return every run that has a ``metrics.json``, by its name.

    Runs lie in the folders of the ``tasks`` in ``results``; what else lies there (other studies,
    say) is none of this one. The logs of a run lie in ``logs`` as
    ``<rule>/<target>/<pre-training>/seed<k>.log`` (of visualizations without the seed), those of a
    pre-training as ``<rule>/<pre-training>.log``; probes are the rules that are called so.

    Raises InputError for a ``metrics.json`` of another form.
    """
    known = _logs(logs)
    runs = []
    for path in sorted(path for task in tasks for path in (results / task).rglob("metrics.json")):
        metrics = read_metrics(path)
        own = tuple(file.relative_to(results) for file in known.get(_place(metrics.run), []))
        runs.append(Run(metrics, path.relative_to(results), own))
    return sorted(runs, key=_order)


def targets(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Return the runs by their target, pre-trainings' own quality under their own name."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.metrics.run.target, []).append(run)
    return found


def _logs(folder: Path) -> dict[tuple[bool, str], list[Path]]:
    """Return the logs by whether they are of a probe, and by their place below their rule."""
    found: dict[tuple[bool, str], list[Path]] = {}
    for file in sorted(folder.rglob("*.log")):
        rule, _, place = file.relative_to(folder).with_suffix("").as_posix().partition("/")
        found.setdefault((rule.startswith(PROBE), place), []).append(file)
    return found


def _place(run: RunName) -> tuple[bool, str]:
    """Return where below their rules the logs of a run lie."""
    if run.task == PRETRAINING:
        return False, run.pretraining
    place = f"{run.target}/{run.pretraining}"
    if run.task == VISUALIZATION:
        return False, place
    return run.task.startswith(PROBE), f"{place}/seed{run.seed}"


def _order(run: Run) -> tuple[str, str, str, int]:
    name = run.metrics.run
    return name.target, name.task, name.pretraining, name.seed
