from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from detransfer.console import InputError
from detransfer.data.occlusion import read_occlusion, write_occlusion

OBJECTS = pd.DataFrame({"image_id": [1, 1, 4], "class_id": [0, 2, 0]}).astype("int32")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_occlusion(tmp_path / "x.parquet", OBJECTS, np.array([3, -1, 0]))
    level = read_occlusion(tmp_path / "x.parquet", OBJECTS)
    assert level.tolist() == [3, -1, 0] and level.dtype == np.int8


def test_levels_of_other_objects_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write_occlusion(path, OBJECTS, np.array([3, -1, 0]))
    for other in (OBJECTS.iloc[:2], OBJECTS.assign(class_id=1), OBJECTS.iloc[::-1]):
        with pytest.raises(InputError, match=r"x\.parquet: its 3 objects are not the \d of the"):
            read_occlusion(path, other)
    write_occlusion(path, OBJECTS, np.array([4, 0, 0]))
    with pytest.raises(InputError, match="a level does not lie in -1 to 3"):
        read_occlusion(path, OBJECTS)


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    for make in (lambda: None, lambda: path.write_text("level"), lambda: OBJECTS.to_parquet(path)):
        make()
        with pytest.raises(InputError, match=r"x\.parquet: not a readable table of occlusion"):
            read_occlusion(path, OBJECTS)
