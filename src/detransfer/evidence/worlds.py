"""Controls that other rendered worlds give: nothing to see, ever fainter objects, other classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from detransfer.console import InputError
from detransfer.evidence.controls import answers_of
from detransfer.report.controls import Row, line, one_run, outcome
from detransfer.report.metrics import RunMetrics, check_comparable, read_metrics
from detransfer.segmentation.by_distance import read_confusion
from detransfer.segmentation.scores import iou

ABOVE = 2.0  # points above its floor that a score may be where there is nothing to see
IMAGES = ("evaluation_data", "training_data")  # of a comparability: digests of what a world shows
WORLD_CLAIMS = (  # reported of other worlds
    "map50", "map70", "finetuned_top1", "frozen_top1", "same_cluster", "fragmented",
    "masking_drop", "masking_fragile",
)  # fmt: skip


def blank_rows(folders: list[Path]) -> Iterator[Row]:
    """Yield the scores of runs in a world without objects to see, which must be at their floors."""
    for folder in folders:
        metrics = read_metrics(folder / "metrics.json")
        who, target = metrics.run, metrics.run.target
        detail = f"{who.pretraining}, contrast 0"
        if who.task == "detection":
            score, must = metrics.metric("mAP@0.5").value, f"at most {ABOVE:g} %"
            holds = score <= ABOVE
            yield line("destroyed", target, "mAP@0.5", score, must, holds, detail=detail)
        elif who.task == "segmentation":
            pixels = read_confusion(folder / "confusion.parquet").counts().sum((0, 1))
            score = float(100 * np.nanmean(iou(pixels)[1:]))
            must = f"at most {ABOVE:g} %"
            yield line(
                "destroyed", target, "object mIoU", score, must, score <= ABOVE, detail=detail
            )
        else:
            what = f"top-1 {'fine-tuned' if who.task == 'classification' else who.task}"
            found = one_run(answers_of(folder / "predictions.parquet"))
            yield outcome("destroyed", target, what, found, detail)


def dial_points(points: list[tuple[float, Path]]) -> pd.DataFrame:
    """Return ``contrast target run metric value floor images`` of probes at several contrasts.

    Raises InputError for probes that differ in more than the images.
    """
    runs: list[tuple[float, RunMetrics]] = [
        (contrast, read_metrics(folder / "metrics.json")) for contrast, folder in points
    ]
    _check_alike([(*point, metrics) for point, (_, metrics) in zip(points, runs, strict=True)])
    rows = [
        {
            "contrast": contrast,
            "target": metrics.run.target,
            "run": metrics.run.pretraining,
            "metric": "top1",
            "value": metrics.metric("top1").value,
            "floor": metrics.metric("top1").floor,
            "images": metrics.metric("top1").n,
        }
        for contrast, metrics in runs
    ]
    return pd.DataFrame(rows).sort_values(["target", "run", "contrast"], ignore_index=True)


def _check_alike(points: list[tuple[float, Path, RunMetrics]]) -> None:
    """Compare each probe with that at the highest contrast, which is the study's own."""
    _, _, own = max(points, key=lambda point: point[0])
    for contrast, folder, metrics in points:
        try:
            check_comparable([_but_images(own), _but_images(metrics)])
        except InputError as error:
            raise InputError(
                f"{folder}: this probe at contrast {contrast:g} is not made as the study's own "
                f"({error}); run `make controls` again, or remove the folder"
            ) from error


def _but_images(metrics: RunMetrics) -> RunMetrics:
    kept = {key: value for key, value in metrics.comparability.items() if key not in IMAGES}
    return replace(metrics, comparability=kept)


def dial_rows(path: Path) -> Iterator[Row]:
    """Yield by how much a score rises where the contrast falls, and where it ends."""
    try:
        table = pd.read_csv(path)
        groups = list(table.groupby(["target", "run"], sort=False))
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{path}: not a readable dial ({error})") from error
    for (target, name), part in groups:
        part = part.sort_values("contrast")
        share, images = part["value"].to_numpy() / 100, part["images"].to_numpy()
        variance = 1e4 * share * (1 - share) / images
        rise = -np.diff(100 * share)
        noise = 2 * np.sqrt(variance[1:] + variance[:-1])
        place = int((rise - noise).argmax())
        yield line(
            "dial", str(target), f"largest rise of top-1 of {name} at a lower contrast",
            float(rise[place]), f"at most {noise[place]:.3g}: two standard errors",
            bool(rise[place] <= noise[place]), "points",
            " > ".join(f"{value:.1f}" for value in part["value"][::-1]),
        )  # fmt: skip
        above, room = 100 * share[0] - part["floor"].iloc[0], 2 * float(np.sqrt(variance[0]))
        yield line(
            "dial", str(target), f"top-1 of {name} above the floor at the lowest contrast",
            float(above), f"at most {room:.3g}: two standard errors", bool(above <= room), "points",
        )  # fmt: skip


def world_rows(name: str, claims: Path) -> Iterator[Row]:
    """Yield what comes out in a world of other classes, whatever it is."""
    try:
        table = pd.read_csv(claims)
        table = table[table["claim"].isin(WORLD_CLAIMS) & table["effect"].notna()]
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{claims}: not a readable table of claims ({error})") from error
    for _, row in table.iterrows():
        what = f"{name}: {row['quantity']} ({row['run']} less {row['baseline']})"
        yield line(
            "worlds", row["target"], what, row["effect"], unit="points", detail=row["verdict"],
            low=row["low"], high=row["high"],
        )  # fmt: skip
