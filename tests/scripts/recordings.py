"""Made-up recordings of activation and mask-out maps, for the figures that show them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from detransfer.data.index import Index
from detransfer.report.metrics import RunMetrics, RunName, write_metrics

RUNS = ("random", "cls", "det")  # in the order of the study
VIEW, RESIZE = 48, 56


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
    fragile = {"random": 0.9, "cls": 0.5, "det": 0.5 - np.arange(count) / 40 + 0.08}[name]
    predicted = np.zeros(count, int)
    predicted[-1] = name == "det"
    table = index.images[["image_id", "path"]].assign(class_id=0, predicted=predicted)
    return table.assign(probability=0.8, mean_drop=0.1, fragile_share=fragile)


def write_recipes(folder: Path) -> list[str]:
    """Write the recipes of the view and of the maps; return the options that name them."""
    view = {
        "task": "features",
        "size": VIEW,
        "resize": RESIZE,
        "output_stride": 16,
        "batch_size": 4,
    }
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


@contextlib.contextmanager
def seen() -> Iterator[list[Any]]:
    """Keep the figures that programs would save in the meantime, and write no pictures."""
    figures: list[Any] = []
    matplotlib.rcdefaults()  # as in a process of their own
    with pytest.MonkeyPatch.context() as patch:
        place = "detransfer.visualization.plotting.save_figure"
        patch.setattr(place, lambda figure, *files: figures.append(figure))
        yield figures


def tiles(figure: Any) -> np.ndarray:
    """Return the panels of a gallery, a row for each image; the scale's is left out."""
    across = figure.axes[0].get_subplotspec().get_gridspec().ncols
    return np.reshape(np.array(figure.axes[:-1]), (-1, across))


def label(figure: Any) -> str:
    """Return what stands below the scale, which must not be cut off."""
    axis = figure.axes[-1].xaxis
    figure.draw_without_rendering()
    place = axis.label.get_window_extent()
    assert place.x0 >= 0 and place.x1 <= figure.bbox.x1, "wider than the picture"
    text: str = axis.get_label_text()
    return text


def array(panel: Any) -> np.ndarray:
    """Return the one image that a panel shows."""
    (shown,) = panel.images
    found: np.ndarray = np.asarray(shown.get_array())
    return found


def check_views(index: Index, image_ids: list[int], rows: np.ndarray) -> None:
    """Hold the views in the first panels against the files of the images, cut by hand."""
    paths = index.images.set_index("image_id")["path"]
    others = []
    for image_id, row in zip(image_ids, rows, strict=True):
        with Image.open(index.root / paths[image_id]) as image:
            scale = RESIZE / min(image.size)
            wide, high = (max(RESIZE, int(side * scale)) for side in image.size)
            left, top = round((wide - VIEW) / 2), round((high - VIEW) / 2)
            whole = image.convert("RGB").resize((wide, high), Image.Resampling.BILINEAR)
        view = np.asarray(whole)[top : top + VIEW, left : left + VIEW]
        np.testing.assert_array_equal(array(row[0]), view)
        assert not any(np.array_equal(view, other) for other in others), "images that differ"
        others.append(view)
