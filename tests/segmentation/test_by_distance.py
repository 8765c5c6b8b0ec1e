"""The table of pixels by distance: it stands for the dense counts, and comes back as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from detransfer.console import InputError
from detransfer.segmentation.by_distance import (
    CELL_TYPES,
    FAR,
    Confusion,
    read_confusion,
    write_confusion,
)
from detransfer.segmentation.scores import class_counts


def example() -> tuple[Confusion, np.ndarray]:
    """Random cells of four images, the third without any, and the dense array they stand for."""
    rng = np.random.default_rng(0)
    dense = rng.integers(0, 50, (4, FAR, 3, 3)) * (rng.random((4, FAR, 3, 3)) < 0.2)
    dense[2] = 0
    ids = np.array([30, 7, 12, 9], np.int32)
    places = np.nonzero(dense)
    columns = (ids[places[0]], places[1] + 1, *places[2:], dense[places])
    cells = pd.DataFrame(dict(zip(CELL_TYPES, columns, strict=True))).astype(CELL_TYPES)
    return Confusion(ids, ("background", "cat", "dog"), cells), dense


def test_sparse_cells_stand_for_dense_counts() -> None:
    confusion, dense = example()
    np.testing.assert_array_equal(confusion.counts(), class_counts(dense))


def test_the_table_comes_back_as_it_was(tmp_path: Path) -> None:
    confusion, _ = example()
    for name in ("a", "b"):
        write_confusion(tmp_path / name, confusion)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    back = read_confusion(tmp_path / "a")
    assert back.classes == confusion.classes
    assert back.image_ids.tolist() == confusion.image_ids.tolist()
    pd.testing.assert_frame_equal(back.cells, confusion.cells)


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "confusion.parquet"
    with pytest.raises(InputError, match="not a readable confusion table"):
        read_confusion(path)
    pd.DataFrame({"pixels": [1]}).to_parquet(path)
    with pytest.raises(InputError, match="not a readable confusion table"):
        read_confusion(path)
    path.write_bytes(b"text")
    with pytest.raises(InputError, match=r"confusion\.parquet: not a readable"):
        read_confusion(path)
