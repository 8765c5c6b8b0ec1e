"""Where each number comes from: the runs of a study, with their digests, devices and logs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detransfer.report.metrics import RunMetrics, RunName, read_metrics

PROBE, PRETRAINING, VISUALIZATION = "probe", "pretraining", "visualization"
FROZEN = (PROBE, VISUALIZATION)  # what trains no network but looks at one
CONTROLS, SHUFFLED = "controls", "shuffled"
Rules = tuple[bool, bool]  # whether they probe, and whether they are of the shuffled control


@dataclass(frozen=True)
class Run:
    """One run: its numbers and origin, and its files relative to the folder of the results."""

    metrics: RunMetrics
    path: Path
    logs: tuple[Path, ...]

    @property
    def control(self) -> str:
        """The control that the run is made for; empty for a run of the study itself."""
        return self.path.parts[1] if self.path.parts[0] == CONTROLS else ""

    @property
    def anchor(self) -> str:
        name = self.metrics.run
        task = f"{CONTROLS}/{self.control}" if self.control else name.task
        return anchor(task, name.target, name.pretraining)

    @property
    def provenance(self) -> dict[str, Any]:
        return self.metrics.provenance

    @property
    def recipe(self) -> str | None:
        """The digest of the recipe: of the training, or of what a frozen network was asked."""
        return self._digest("recipe_digest", "recipe")

    @property
    def data(self) -> str | None:
        """The digest of the images that the run learnt from; where it learnt nothing, looked at."""
        return self._digest("data_digest", "training_data", "evaluation_data")

    @property
    def start(self) -> str | None:
        """The digest of the weights that the training started from, or of the frozen network."""
        return self.provenance.get("model_digest" if self._frozen else "start_digest")

    @property
    def seconds(self) -> float | None:
        """Seconds of the training."""
        return self._fit("seconds")

    @property
    def training_score(self) -> float | None:
        """The score on training images, by the run's own metric (percent)."""
        return self._fit("training_score")

    @property
    def _frozen(self) -> bool:
        return self.metrics.run.task.partition("/")[0] in FROZEN

    def _digest(self, trained: str, *frozen: str) -> str | None:
        """Return a digest: the provenance of frozen runs is that of their network."""
        if not self._frozen:
            return self.provenance.get(trained)
        found = self.metrics.comparability
        return next((str(found[name]) for name in frozen if name in found), None)

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
    pre-training as ``<rule>/<pre-training>.log``; probes are the rules that are called so, and
    those of the control with permuted labels end in ``_shuffled``.

    Raises InputError for a ``metrics.json`` of another form.
    """
    known = _logs(logs)
    runs = []
    for path in sorted(path for task in tasks for path in (results / task).rglob("metrics.json")):
        metrics = read_metrics(path)
        place = path.relative_to(results)
        found = known.get(_place(metrics.run, place.parts[0] == CONTROLS), [])
        runs.append(Run(metrics, place, tuple(file.relative_to(results) for file in found)))
    return sorted(runs, key=_order)


def targets(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Return the runs by their target, pre-trainings' own quality under their own name.

    Runs that are made for a control stand under the control's name.
    """
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.control or run.metrics.run.target, []).append(run)
    return found


def _logs(folder: Path) -> dict[tuple[Rules, str], list[Path]]:
    """Return the logs by the kind of their rule, and by their place below it."""
    found: dict[tuple[Rules, str], list[Path]] = {}
    for file in sorted(folder.rglob("*.log")):
        rule, _, place = file.relative_to(folder).with_suffix("").as_posix().partition("/")
        kind = rule.startswith(PROBE), rule.endswith(SHUFFLED)
        found.setdefault((kind, place), []).append(file)
    return found


def _place(run: RunName, shuffled: bool) -> tuple[Rules, str]:
    """Return the kind of the rules that made a run, and where below them its logs lie."""
    kind = run.task.startswith(PROBE), shuffled
    if run.task == PRETRAINING:
        return kind, run.pretraining
    place = f"{run.target}/{run.pretraining}"
    return kind, place if run.task == VISUALIZATION else f"{place}/seed{run.seed}"


def _order(run: Run) -> tuple[str, str, str, int]:
    name = run.metrics.run
    return name.target, name.task, name.pretraining, name.seed
