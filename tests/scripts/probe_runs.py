"""Made-up probes on disk, for the programs that gather them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detransfer.report.metrics import Metric, RunMetrics, RunName, write_metrics


def write_probe(
    folder: Path,
    layer: str,
    pretraining: str,
    seed: int,
    values: dict[str, float],
    dimension: int = 8,
    target: str = "caltech256",
    **comparability: Any,
) -> Path:
    """Write the metrics.json of a probe; ``values`` are its metrics, on 50 images."""
    path = folder / layer / target / pretraining / str(seed) / "metrics.json"
    metrics = tuple(Metric(name, value, "%", 50, 10.0) for name, value in values.items())
    run = RunName(f"probe/{layer}", target, target, pretraining, seed)
    alike = {"layer": layer, "recipe": "r", **comparability}
    write_metrics(path, RunMetrics(run, metrics, {"dimension": dimension}, alike, {}))
    return path


def top1(value: float) -> dict[str, float]:
    return {"top1": value, "top1_low": value - 2, "top1_high": value + 2}
