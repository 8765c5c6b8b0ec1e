"""Table 1 and the descriptions of data sets, against counts known by construction."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from detransfer.data.index import FLAGS, Index, empty_objects, write_index

CLASSES = pd.DataFrame(
    {"class_id": [0, 1], "name": ["cat", "dog"], "source_id": ["1", "2"], "superclass": ""}
)


def images(splits: list[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image_id": range(len(splits)),
            "path": [f"{n}.jpg" for n in range(len(splits))],
            "width": 100,
            "height": 80,
            "split": splits,
        }
    )


@pytest.fixture
def detection(tmp_path: Path) -> Path:
    """Three training images with 2, 1 and 0 objects, one of them difficult, and one for testing."""
    rows = [(0, 0, 0, 0, 10, 10), (0, 1, 5, 5, 25, 25), (1, 0, 0, 0, 40, 40), (3, 1, 1, 1, 50, 50)]
    objects = pd.DataFrame(rows, columns=["image_id", "class_id", "x1", "y1", "x2", "y2"])
    objects[FLAGS] = False
    objects.loc[1, "difficult"] = True
    index = Index(images(["train"] * 3 + ["test"]), objects, CLASSES, tmp_path)
    write_index(tmp_path / "detection", index)
    return tmp_path / "detection"


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    table = images(["train"] * 4 + ["test"]).assign(class_id=[0, 1, 1, 1, 0])
    write_index(tmp_path / "labelled", Index(table, empty_objects(), CLASSES, tmp_path))
    return tmp_path / "labelled"


def run(repository: Path, program: str, *options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, repository / "scripts" / program, *options]
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)


def test_table1(repository: Path, detection: Path, labelled: Path, tmp_path: Path) -> None:
    published = tmp_path / "published.csv"
    published.write_text(
        "dataset,role,classes,train_images,eval_images,train_objects,eval_objects\n"
        "flowers,target,2,0.004K,1,,\nvoc,target,20,3,2,2,0.5K\n"
    )
    options = ["--dataset", "voc", detection, "test", "train"]
    options += ["--dataset", "flowers", labelled, "test", "train"]
    output = tmp_path / "table1.csv"
    result = run(repository, "table1.py", *options, "--published", published, "--output", output)
    assert result.returncode == 0, result.stderr
    table = pd.read_csv(output).set_index(["dataset", "quantity"])
    assert list(dict.fromkeys(table.index.get_level_values(0))) == ["flowers", "voc"]
    voc, flowers = table.loc["voc"], table.loc["flowers"]
    assert voc["value"].to_dict() == {
        "classes": 2,
        "train_images": 3,
        "eval_images": 1,
        "train_objects": 2,  # without the difficult one
        "eval_objects": 1,
    }
    assert voc["agrees"].tolist() == [False, True, False, True, False]
    assert voc.loc["eval_objects", "difference"] == -499
    assert "train_objects" not in flowers.index
    assert flowers["agrees"].tolist() == [True, True, True]


def test_table1_counts_no_split_twice(repository: Path, detection: Path, tmp_path: Path) -> None:
    published, output = tmp_path / "published.csv", tmp_path / "table1.csv"
    published.write_text(
        "dataset,role,classes,train_images,eval_images,train_objects,eval_objects\n"
    )
    options = ["--dataset", "one_split", detection, "train", "train"]
    options += ["--dataset", "evaluated", detection, "test"]
    result = run(repository, "table1.py", *options, "--published", published, "--output", output)
    assert result.returncode == 0, result.stderr
    table = pd.read_csv(output).set_index("dataset")
    found = {
        name: dict(part[["quantity", "value"]].to_numpy()) for name, part in table.groupby(level=0)
    }
    assert found["one_split"] == {"classes": 2, "train_images": 3, "train_objects": 2}
    assert found["evaluated"] == {"classes": 2, "eval_images": 1, "eval_objects": 1}


def describe(repository: Path, index: Path) -> tuple[pd.DataFrame, pd.DataFrame, Path]:
    folder = index.parent
    files = [folder / name for name in ("statistics.csv", "statistics.png", "scales.csv")]
    options = ["--index", index, "--name", "set", "--splits", "train", "--chip", 128]
    options += ["--statistics", files[0], "--picture", files[1], "--advice", files[2]]
    result = run(repository, "describe_dataset.py", *options)
    assert result.returncode == 0, result.stderr
    return pd.read_csv(files[0]), pd.read_csv(files[2]), files[1]


def test_statistics_of_boxes(repository: Path, detection: Path) -> None:
    table, scales, picture = describe(repository, detection)
    parts = dict(iter(table.groupby("distribution")))
    held = parts["objects_per_image"].set_index("at")["count"]
    assert held.to_dict() == {0: 1, 1: 1, 2: 1}
    sizes = parts["object_size"]
    assert sizes["count"].sum() == 3
    filled = sizes[sizes["count"] > 0]["at"].to_numpy()
    assert (filled <= [10, 20, 40]).all()
    assert (filled > [8, 16, 33]).all()
    classes = parts["class_frequency"].set_index("name")["count"]
    assert classes.to_dict() == {"cat": 2, "dog": 1}
    assert scales["valid_low"].iloc[0] == 0
    assert scales["fit_long_side"].iloc[-1] == 128
    assert picture.stat().st_size > 1000


def test_a_set_without_boxes_has_class_frequencies_only(repository: Path, labelled: Path) -> None:
    table, scales, _ = describe(repository, labelled)
    assert table["distribution"].unique().tolist() == ["class_frequency"]
    assert table["count"].tolist() == [3, 1]
    assert table["name"].tolist() == ["dog", "cat"]
    assert scales.empty
