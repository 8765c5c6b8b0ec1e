"""The look at a data set before training: planted faults are found, a sound set has none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from detransfer.data.index import Index, empty_objects, write_index


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Six images of two classes, four for training and two for evaluation."""
    root = tmp_path / "data"
    root.mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        pixels = rng.integers(0, 255, (20 + number, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.png")
    images = pd.DataFrame(
        {
            "image_id": range(6),
            "path": [f"{n}.png" for n in range(6)],
            "width": 30,
            "height": [20 + n for n in range(6)],
            "split": ["train"] * 4 + ["test"] * 2,
            "class_id": [0, 1, 0, 1, 0, 1],
        }
    )
    classes = pd.DataFrame(
        {"class_id": [0, 1], "name": ["a", "b"], "source_id": ["1", "2"], "superclass": ""}
    )
    write_index(tmp_path / "index", Index(images, empty_objects(), classes, root))
    return tmp_path / "index"


def check(repository: Path, index: Path) -> tuple[subprocess.CompletedProcess[str], Path]:
    output = index.parent / "check.csv"
    command = [sys.executable, repository / "scripts/check_dataset.py", "--index", index]
    options = ["--train-splits", "train", "--eval-split", "test", "--output", output]
    result = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    return result, output


def test_a_sound_data_set_has_no_finding(repository: Path, index: Path) -> None:
    result, output = check(repository, index)
    assert result.returncode == 0, result.stderr
    assert pd.read_csv(output).empty


def test_equal_bytes_in_training_and_evaluation_are_found(repository: Path, index: Path) -> None:
    root = index.parent / "data"
    images = pd.read_parquet(index / "images.parquet")
    images.loc[5, "height"] = 22
    (root / "5.png").write_bytes((root / "2.png").read_bytes())
    classes = pd.read_csv(index / "classes.csv", keep_default_na=False)
    write_index(index, Index(images, empty_objects(), classes, root))
    result, output = check(repository, index)
    assert result.returncode == 0, result.stderr
    (row,) = pd.read_csv(output).to_dict("records")
    assert row["finding"] == "evaluation image is a training image"
    assert (row["path"], row["detail"]) == ("5.png", "equals 2.png")


@pytest.mark.parametrize(
    ("fault", "message"),
    [("missing", "there is no"), ("cut", "damaged"), ("size", "the index says 30 x 21")],
)
def test_unusable_images_are_an_error_that_names_them(
    repository: Path, index: Path, fault: str, message: str
) -> None:
    path = index.parent / "data" / "1.png"
    if fault == "missing":
        path.unlink()
    elif fault == "cut":
        path.write_bytes(path.read_bytes()[:400])
    else:
        Image.new("RGB", (9, 9)).save(path)
    result, output = check(repository, index)
    assert result.returncode == 2
    assert "1.png" in result.stderr
    if fault != "cut":
        assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not output.exists()


def test_a_class_without_training_images_is_reported(repository: Path, index: Path) -> None:
    images = pd.read_parquet(index / "images.parquet")
    images.loc[images["split"] == "train", "class_id"] = 0
    classes = pd.read_csv(index / "classes.csv", keep_default_na=False)
    write_index(index, Index(images, empty_objects(), classes, index.parent / "data"))
    _, output = check(repository, index)
    (row,) = pd.read_csv(output).to_dict("records")
    assert row["finding"] == "class without example in training"
    assert row["detail"] == "b"
