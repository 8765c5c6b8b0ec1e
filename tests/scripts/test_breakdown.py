from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from detransfer.console import InputError
from detransfer.data.index import BOX, FLAGS, Index, empty_objects, write_index
from tests.detection.rectangles import call
from tests.scripts.probe_runs import write_probe

WIDTHS = [20, 40, 60, 80, 100, 120, 140, 160]


def write_images(folder: Path, objects: pd.DataFrame) -> Path:
    images = pd.DataFrame(
        {
            "image_id": range(8),
            "path": [f"{number}.jpg" for number in range(8)],
            "width": WIDTHS,
            "height": WIDTHS,
            "split": "test",
        }
    )
    classes = pd.DataFrame({"class_id": [0], "name": ["a"], "source_id": "", "superclass": ""})
    write_index(folder / "index", Index(images, objects, classes, folder))
    return folder / "index"


def boxes() -> pd.DataFrame:
    """Image i has i + 1 objects at most four, the largest with (i + 1) / 8 of the width."""
    rows = []
    for number, width in enumerate(WIDTHS):
        side = width * (number + 1) / 8
        for place in range(min(number + 1, 4)):
            extent = side if place == 0 else 2
            rows.append((number, 0, 0, 0, extent, extent, *[False] * len(FLAGS)))
    rows.append((0, 0, 0, 0, 20, 20, True, *[False] * 4))  # difficult: does not count
    return pd.DataFrame(rows, columns=["image_id", "class_id", *BOX, *FLAGS])


def write_run(folder: Path, run: str, seed: int, right: list[int], target: str = "voc") -> Path:
    path = write_probe(folder, "conv5", run, seed, {"top1": 50.0}, target=target)
    predicted = np.isin(np.arange(8), right) - 1
    table = pd.DataFrame({"image_id": range(8), "class_id": 0, "predicted": predicted})
    table.iloc[::-1].to_parquet(path.with_name("predictions.parquet"))
    return path


def tabulate(repository: Path, folder: Path, index: Path, paths: list[Path]) -> pd.DataFrame:
    output = folder / "breakdown.csv"
    words = [*map(str, paths), "--target", "voc", str(index), "test", f"--output={output}"]
    call(repository / "scripts/breakdown.py", words)
    return pd.read_csv(output)


def test_every_image_counts_in_the_group_of_its_size(repository: Path, tmp_path: Path) -> None:
    index = write_images(tmp_path, boxes())
    paths = [
        write_run(tmp_path, "coco", 0, [0, 1, 2, 3]),
        write_run(tmp_path, "coco", 1, [0, 1, 2, 3, 4, 5, 6, 7]),
        write_run(tmp_path, "random", 0, [7]),
    ]
    table = tabulate(repository, tmp_path, index, paths)
    coco = table[table["run"] == "coco"].set_index("by")
    size = coco.loc["image_size"]
    assert size["images"].tolist() == [2, 2, 2, 2] and size["n"].tolist() == [2] * 4
    assert size["mean"].tolist() == [100, 100, 50, 50]
    assert size["low"].iloc[0] == 0 and size["high"].isna().tolist() == [False] * 3 + [True]
    # Shares 1/8 .. 8/8 at borders .25, .5, .75: one, two, two, three.
    share = coco.loc["object_share"]
    assert share["low"].tolist() == [0, 0.25, 0.5, 0.75]
    assert share["images"].tolist() == [1, 2, 2, 3] and share["mean"].tolist() == [100, 100, 75, 50]
    count = coco.loc["objects"]
    assert count["low"].tolist() == [1, 2, 3] and count["images"].tolist() == [1, 1, 6]
    assert count["mean"].round(3).tolist() == [100, 100, 66.667]
    assert table[table["run"] == "random"]["std"].isna().all()


def test_without_boxes_there_is_the_size_of_the_image_alone(
    repository: Path, tmp_path: Path
) -> None:
    index = write_images(tmp_path, empty_objects())
    table = tabulate(repository, tmp_path, index, [write_run(tmp_path, "coco", 0, [1])])
    assert set(table["by"]) == {"image_size"} and table["images"].sum() == 8


def test_runs_without_an_index_or_of_other_images_are_refused(
    repository: Path, tmp_path: Path
) -> None:
    index = write_images(tmp_path, empty_objects())
    with pytest.raises(InputError, match="sun397: name its index with --target"):
        tabulate(repository, tmp_path, index, [write_run(tmp_path, "coco", 0, [1], "sun397")])
    path = write_run(tmp_path, "coco", 0, [1])
    table = pd.read_parquet(path.with_name("predictions.parquet"))
    table.assign(image_id=table["image_id"] + 5).to_parquet(path.with_name("predictions.parquet"))
    with pytest.raises(InputError, match=r"has images that .* does not; score it again"):
        tabulate(repository, tmp_path, index, [path])
