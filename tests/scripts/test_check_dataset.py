"""The look at a data set before training: planted faults are found, a sound set has none."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from detransfer.data.index import FLAGS, Index, empty_objects, read_index, write_index


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


def check(
    repository: Path, index: Path, evaluation: str = "test", training: tuple[str, ...] = ("train",)
) -> tuple[subprocess.CompletedProcess[str], Path]:
    output = index.parent / "check.csv"
    command = [sys.executable, repository / "scripts/check_dataset.py", "--index", index]
    options = ["--train-splits", *training, "--eval-split", evaluation, "--output", output]
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


def test_one_split_for_training_and_evaluation_has_no_duplicates(
    repository: Path, index: Path
) -> None:
    result, output = check(repository, index, "train")
    assert result.returncode == 0, result.stderr
    (row,) = pd.read_csv(output).to_dict("records")
    assert row["severity"] == "note"
    assert row["finding"] == "the split for evaluation is one for training"
    assert row["detail"].startswith("train: ")


def test_a_data_set_to_evaluate_on_needs_no_training_split(repository: Path, index: Path) -> None:
    result, output = check(repository, index, training=())
    assert result.returncode == 0, result.stderr
    assert pd.read_csv(output).empty


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


def test_a_class_without_training_images_stops_the_study(repository: Path, index: Path) -> None:
    """Before the trainings, and not at the probe that could not know it."""
    images = pd.read_parquet(index / "images.parquet")
    images.loc[images["split"] == "train", "class_id"] = 0
    classes = pd.read_csv(index / "classes.csv", keep_default_na=False)
    write_index(index, Index(images, empty_objects(), classes, index.parent / "data"))
    result, output = check(repository, index)
    assert result.returncode == 2 and not output.exists()
    assert "  class without example in training: b\n" in result.stderr
    (row,) = pd.read_csv(output.with_suffix(".failed.csv")).to_dict("records")
    assert (row["severity"], row["detail"]) == ("error", "b")


def write_parquet(index: Path, table: str, content: pd.DataFrame) -> None:
    """Write a table behind the back of write_index, with the metadata that it gave it."""
    path = index / f"{table}.parquet"
    metadata = pq.read_schema(path).metadata
    pq.write_table(pa.Table.from_pandas(content).replace_schema_metadata(metadata), path)


@pytest.mark.parametrize(
    ("table", "column", "value", "message"),
    [
        ("objects", "x2", 31.0, "1.png: box [0.0, 0.0, 31.0, 5.0] is empty, inverted or leaves"),
        ("objects", "class_id", 2, "an object has a class that classes.csv does not list (row 0"),
        ("objects", "image_id", 9, "an object belongs to an image that the index does not have"),
        ("images", "class_id", 2, "an image has a class that classes.csv does not list (row 0"),
    ],
)
def test_rows_that_the_index_should_not_have_are_an_error(
    repository: Path, index: Path, table: str, column: str, value: float, message: str
) -> None:
    found = read_index(index)
    objects = pd.DataFrame({"image_id": [1], "class_id": 0, "x1": 0, "y1": 0, "x2": 5, "y2": 5})
    objects = objects.assign(**dict.fromkeys(FLAGS, False))
    write_index(index, replace(found, objects=objects))
    content = pd.read_parquet(index / f"{table}.parquet")
    content.loc[0, column] = value
    write_parquet(index, table, content)
    result, output = check(repository, index)
    assert result.returncode == 2
    assert f"{index}: {message}" in result.stderr
    assert not output.exists()
    (row,) = pd.read_csv(failed(output)).to_dict("records")
    assert row["path"] == str(index) and row["detail"].startswith(message)


def failed(output: Path) -> Path:
    """The report of a data set that is refused."""
    return output.with_name("check.failed.csv")


def test_what_is_refused_leaves_its_whole_report(repository: Path, index: Path) -> None:
    found = read_index(index)
    objects = pd.DataFrame({"image_id": [1] * 9, "class_id": 0, "x1": 0, "y1": 0, "x2": 5, "y2": 5})
    write_index(index, replace(found, objects=objects.assign(**dict.fromkeys(FLAGS, False))))
    content = pd.read_parquet(index / "objects.parquet")
    content.loc[1:6, "x2"] = 99
    content.loc[0, "image_id"], content.loc[8, "class_id"] = -4, 7
    write_parquet(index, "objects", content)
    sound = {path: path.read_bytes() for path in sorted(found.root.glob("[0-5].png"))}
    sound.popitem()
    for path in sound:
        path.unlink()
    result, output = check(repository, index)
    assert result.returncode == 2 and "13 faults" in result.stderr
    assert str(failed(output)) in result.stderr and not output.exists()
    table = pd.read_csv(failed(output))
    assert table["finding"].value_counts().to_dict() == {
        "broken row of the index": 8,
        "unreadable image": 5,
    }
    assert table["detail"].str.contains(r"box \[0.0, 0.0, 99.0, 5.0\] is empty").sum() == 6
    for path, data in sound.items():
        path.write_bytes(data)
    write_index(index, found)
    assert check(repository, index)[0].returncode == 0
    assert output.exists() and not failed(output).exists(), "no report of what is no more"


@pytest.mark.parametrize(("size", "fault"), [((30, 9), "30 x 9, its image 30 x 20"), (None, "not")])
def test_masks_are_looked_at_too(
    repository: Path, index: Path, size: tuple[int, int] | None, fault: str
) -> None:
    found = read_index(index)
    masks = [f"m{number}.png" for number in range(6)]
    for number, name in enumerate(masks):
        Image.new("L", (30, 20 + number), 1).save(found.root / name)
    write_index(index, replace(found, images=found.images.assign(mask=masks)))
    assert check(repository, index)[0].returncode == 0
    if size is None:
        (found.root / "m0.png").write_bytes(b"")
    else:
        Image.new("L", size).save(found.root / "m0.png")
    result, _ = check(repository, index)
    assert result.returncode == 2 and "m0.png" in result.stderr and fault in result.stderr
