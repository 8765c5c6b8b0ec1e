"""The program that groups classes, from files to file."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from detransfer.console import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four classes in two directions; images 10, 11, ... with features and an index."""
    directions = np.float32([[1, 0], [0.1, 2], [3, 0.1], [0, 1]])
    class_ids = np.array([3, 0, 1, 2, 0, 1])
    np.save(tmp_path / "features.npy", directions[class_ids])
    images = pd.DataFrame({"image_id": range(10, 16), "class_id": class_ids})
    images.to_parquet(tmp_path / "images.parquet")
    images.drop(columns="class_id").to_parquet(tmp_path / "bare.parquet")
    # twice the same class in one image, and an image that has no features
    objects = pd.concat([images, images.iloc[:1], images.iloc[:1].assign(image_id=99)])
    objects.to_parquet(tmp_path / "objects.parquet")
    classes = pd.DataFrame({"class_id": range(4), "name": ["a", "é", "c", "d"]})
    classes.to_csv(tmp_path / "classes.csv", index=False)
    return tmp_path


def arguments(folder: Path, k: int, images: str = "images", *more: str) -> list[str]:
    given = {
        "--features": folder / "features.npy",
        "--images": folder / f"{images}.parquet",
        "--classes": folder / "classes.csv",
        "--k": k,
        "--seed": 0,
        "--output": folder / "superclasses.csv",
    }
    return [str(word) for pair in given.items() for word in pair] + list(more)


@pytest.fixture(scope="module")
def program(repository: Path) -> ModuleType:
    path = repository / "scripts/cluster_superclasses.py"
    spec = importlib.util.spec_from_file_location("cluster_superclasses", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_classes_of_one_direction_come_together(repository: Path, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "scripts/cluster_superclasses.py", *arguments(folder, 2)],
        cwd=repository,
        env={"PYTHONPATH": "src", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "2 super-classes of 2 to 2 classes" in done.stderr
    text = (folder / "superclasses.csv").read_text()
    assert text == "class_id,superclass\n0,0\n1,1\n2,0\n3,1\n"


def test_classes_may_come_from_boxes(
    program: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--objects", str(folder / "objects.parquet"))
    monkeypatch.setattr(sys, "argv", ["program", *arguments(folder, 2, "bare", *more)])
    program.main()
    found = pd.read_csv(folder / "superclasses.csv")
    assert found.to_numpy().tolist() == [[0, 0], [1, 1], [2, 0], [3, 1]]


def test_an_image_counts_once_for_each_class_that_it_has_boxes_of(program: ModuleType) -> None:
    images = pd.DataFrame({"image_id": [30, 10, 20]})
    objects = pd.DataFrame({"image_id": [10, 10, 10, 99, 30], "class_id": [1, 1, 0, 0, 2]})
    rows, class_ids = program.memberships(images, objects)
    assert sorted(zip(rows.tolist(), class_ids.tolist(), strict=True)) == [(0, 2), (1, 0), (1, 1)]


def test_faults_are_named_and_leave_no_file(
    program: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(message: str, k: int = 2, images: str = "images") -> None:
        monkeypatch.setattr(sys, "argv", ["program", *arguments(folder, k, images)])
        with pytest.raises(InputError) as caught:
            program.main()
        assert message in str(caught.value)
        assert not (folder / "superclasses.csv").exists()

    fails("5 super-classes of 4 classes", 5)
    fails("bare.parquet: has no column 'class_id'", images="bare")
    fails("none.parquet: not a readable table", images="none")
    np.save(folder / "features.npy", np.zeros((5, 2), np.float32))
    fails("features.npy: has 5 rows, but")
    np.save(folder / "features.npy", np.zeros((6, 2)))
    fails("features.npy: expected float32 of shape (images, features), got float64 of shape (6, 2)")
    (folder / "features.npy").write_bytes(b"x")
    fails("features.npy: not a readable .npy file")
    np.save(folder / "features.npy", np.zeros((6, 2), np.float32))
    (folder / "classes.csv").write_text("class_id,name\n1,a\n0,b\n")
    fails("classes.csv: class ids are not 0, 1, 2, ... in order")
