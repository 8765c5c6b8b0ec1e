"""Made-up recordings of activation and mask-out maps, for the figures that show them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from detransfer.data.index import Index
from detransfer.report.metrics import RunMetrics, RunName, write_metrics

RUNS = ("random", "cls", "det")  # in the order of the study


def write_recording(
    folder: Path, target: str, table: pd.DataFrame, maps: dict[str, np.ndarray], recipe: str = "r"
) -> Path:
    """Write the files of one run; the folder is named after its pre-training."""
    folder.mkdir(parents=True)
    table.to_parquet(folder / "images.parquet")
    for name, values in maps.items():
        np.save(folder / f"{name}.npy", values.astype(np.float32))
    run = RunName("visualization", target, target, folder.name, 0)
    write_metrics(folder / "metrics.json", RunMetrics(run, (), {}, {"recipe": recipe}, {}))
    return folder


def covered(index: Index, name: str) -> pd.DataFrame:
    """Return numbers of activation maps: ``det`` gains more on ``cls`` the later the image."""
    count = len(index.images)
    iou = {"random": 0.1, "cls": 0.4, "det": 0.4 + np.arange(count) / 20 - 0.1}[name]
    table = index.images[["image_id", "path"]].assign(best_iou=iou, inside_share=iou / 2)
    return table.assign(trough_iou=0.2, object_area=0.25)


def masked(index: Index, name: str) -> pd.DataFrame:
    """Return numbers of mask-out maps: ``det`` is less fragile, the more so the later the image.

    It gets the last image wrong.
    """
    count = len(index.images)
    fragile = {"random": 0.9, "cls": 0.5, "det": 0.5 - np.arange(count) / 40 + 0.1}[name]
    predicted = np.zeros(count, int)
    predicted[-1] = name == "det"
    table = index.images[["image_id", "path"]].assign(class_id=0, predicted=predicted)
    return table.assign(probability=0.8, mean_drop=0.1, fragile_share=fragile)


def write_recipes(folder: Path) -> list[str]:
    """Write the recipes of the view and of the maps; return the options that name them."""
    view = {"task": "features", "size": 48, "resize": 56, "output_stride": 16, "batch_size": 4}
    recipe = {"task": "visualization", "mask": 14, "stride": 12, "images": None}
    recipe |= {"precision": "fp32", "batch_size": 5}
    for name, content in (("view", view), ("recipe", recipe)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return [f"--view={folder / 'view.yaml'}", f"--recipe={folder / 'recipe.yaml'}"]


def outputs(folder: Path, name: str) -> list[str]:
    """Return the options that name a figure's files."""
    files = {"csv": f"{name}.csv", "images": f"{name}_images.csv"}
    files |= {kind: f"{name}.{kind}" for kind in ("pdf", "png")}
    return [f"--{kind}={folder / file}" for kind, file in files.items()]
