"""Features on disk: appended, interrupted, finished, mapped, and refused where they do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from detransfer.console import InputError
from detransfer.data.index import Index, empty_objects
from detransfer.features.store import FeatureWriter, open_features, rows_of
from detransfer.files import sha256

ROWS = 10
VALUES = {
    "conv5": np.arange(ROWS * 3, dtype=np.float32).reshape(ROWS, 3),
    "fc1": np.float32(np.random.default_rng(0).normal(size=(ROWS, 5))),
}


@pytest.fixture
def index(tmp_path: Path) -> Index:
    images = pd.DataFrame(
        {
            "image_id": np.arange(20, 20 + ROWS),
            "path": [f"{number}.png" for number in range(ROWS)],
            "width": 40,
            "height": 30,
            "split": ["train"] * 6 + ["test"] * 4,
            "class_id": [0, 1] * 5,
        }
    )
    classes = pd.DataFrame(
        {"class_id": [0, 1], "name": ["a", "b"], "source_id": "", "superclass": ""}
    )
    return Index(images, empty_objects(), classes, tmp_path)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(b"weights")
    return path


def write(folder: Path, index: Index, weights: Path, steps: tuple[int, ...] = (4, 10)) -> Path:
    writer = FeatureWriter(folder / "state", ROWS)
    for start, end in zip((0, *steps), steps, strict=False):
        writer.append({name: rows[start:end] for name, rows in VALUES.items()})
    header = {
        "index_digest": index.split("train", "test").digest(),
        "weights_digest": sha256(weights),
        "splits": ["train", "test"],
    }
    writer.finish(folder / "features", index.images, header)
    return folder / "features"


def test_row_i_is_image_i(tmp_path: Path, index: Index, weights: Path) -> None:
    found = open_features(write(tmp_path, index, weights))
    assert found.layers == ("conv5", "fc1")
    for name, values in VALUES.items():
        layer = found.layer(name)
        assert isinstance(layer, np.memmap) and layer.dtype == np.float32
        assert np.array_equal(layer, values)
    assert found.images["image_id"].tolist() == list(range(20, 30))
    assert found.images["class_id"].tolist() == [0, 1] * 5
    assert sorted(path.name for path in found.folder.iterdir()) == [
        "conv5.npy",
        "fc1.npy",
        "features.json",
        "images.parquet",
    ]
    assert not (tmp_path / "state").exists()
    assert rows_of(found, ["test"]).tolist() == [6, 7, 8, 9]
    with pytest.raises(InputError, match="no image of val; recorded are train, test"):
        rows_of(found, ["val"])
    found.check_source(index, weights)


def test_what_came_after_the_mark_is_written_again(
    tmp_path: Path, index: Index, weights: Path
) -> None:
    whole = write(tmp_path / "whole", index, weights)
    writer = FeatureWriter(tmp_path / "state", ROWS)
    writer.append({name: rows[:4] for name, rows in VALUES.items()})
    writer.mark()
    writer.append({name: rows[4:5] * 0 + 99 for name, rows in VALUES.items()})
    for file in writer._files.values():
        file.flush()
        file.write(b"torn")
        file.close()  # killed here
    again = FeatureWriter(tmp_path / "state", ROWS)
    assert again.rows == 4
    again.append({name: rows[4:] for name, rows in VALUES.items()})
    again.finish(
        tmp_path / "features", index.images, json.loads((whole / "features.json").read_text())
    )
    for name in VALUES:
        assert (tmp_path / f"features/{name}.npy").read_bytes() == (
            whole / f"{name}.npy"
        ).read_bytes()


def test_a_new_recording_takes_the_place_of_the_old_one(
    tmp_path: Path, index: Index, weights: Path
) -> None:
    folder = write(tmp_path, index, weights)
    (folder / "fc9.npy").touch()
    write(tmp_path, index, weights)
    assert not (folder / "fc9.npy").exists() and open_features(folder).layers == ("conv5", "fc1")


def test_damage_is_found(tmp_path: Path, index: Index, weights: Path) -> None:
    folder = write(tmp_path, index, weights)
    content = (folder / "fc1.npy").read_bytes()
    (folder / "fc1.npy").write_bytes(content[:-1] + b"\x00")
    found = open_features(folder)
    found.layer("conv5")
    with pytest.raises(InputError, match=r"fc1.npy: is lost or damaged; delete .*record it again"):
        found.layer("fc1")
    (folder / "fc1.npy").unlink()
    with pytest.raises(InputError, match=r"fc1.npy: is lost or damaged"):
        found.layer("fc1")


def test_features_of_something_else_are_refused_with_the_remedy(
    tmp_path: Path, index: Index, weights: Path
) -> None:
    found = open_features(write(tmp_path, index, weights))
    with pytest.raises(InputError, match=r"has no layer 'fc3', only conv5, fc1; name one of these"):
        found.layer("fc3")
    weights.write_bytes(b"others")
    with pytest.raises(InputError, match=r"of other weights \(.* than .*weights .*record them aga"):
        found.check_source(index, weights)
    weights.write_bytes(b"weights")
    index.images.loc[3, "class_id"] = 0
    with pytest.raises(InputError, match=r"of other index \(.* delete the folder and record them"):
        found.check_source(index, weights)
    with pytest.raises(InputError, match=r"nothing: holds no features .*extract_features.py"):
        open_features(tmp_path / "nothing")
    found.images.iloc[:-1].to_parquet(found.folder / "images.parquet")
    with pytest.raises(InputError, match=r"has other images than its features"):
        open_features(found.folder)
