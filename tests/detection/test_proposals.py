from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from detransfer.console import InputError
from detransfer.data.index import BOX
from detransfer.detection.proposals import PROPOSAL_TYPES, read_proposals, write_proposals

ROWS = pd.DataFrame(
    [
        (7, 0.0, 0.0, 10.0, 20.0, 0.5),
        (3, 1.5, 2.0, 30.0, 40.0, 0.1),
        (7, 5.0, 5.0, 25.0, 26.0, 0.9),
        (3, 2.0, 2.0, 9.0, 8.0, 0.1),
    ],
    columns=["image_id", *BOX, "score"],
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_proposals(tmp_path / "made" / "proposals.parquet", ROWS, "abc")
    return tmp_path / "made" / "proposals.parquet"


def test_the_file_has_the_schema_and_the_best_of_each_image_first(path: Path) -> None:
    table = pq.read_table(path)
    assert dict(zip(table.schema.names, map(str, table.schema.types), strict=True)) == {
        name: kind.replace("float32", "float") for name, kind in PROPOSAL_TYPES.items()
    }
    found = table.to_pandas()
    assert found["image_id"].tolist() == [3, 3, 7, 7]
    assert found["score"].tolist() == pytest.approx([0.1, 0.1, 0.9, 0.5])
    assert found["x1"].tolist() == [1.5, 2.0, 5.0, 0.0], "equal scores keep their order"


def test_proposals_are_found_by_image(path: Path) -> None:
    offsets, boxes = read_proposals(path, "abc").of(np.array([9, 7, 1, 3, 5]))
    assert np.diff(offsets).tolist() == [0, 2, 0, 2, 0]
    assert boxes.tolist() == [[5, 5, 25, 26], [0, 0, 10, 20], [1.5, 2, 30, 40], [2, 2, 9, 8]]
    assert boxes.dtype == np.float32


def test_no_proposal_at_all_is_a_table_too(tmp_path: Path) -> None:
    write_proposals(tmp_path / "none.parquet", ROWS.head(0), "abc")
    offsets, boxes = read_proposals(tmp_path / "none.parquet", "abc").of(np.array([3, 7]))
    assert offsets.tolist() == [0, 0, 0] and boxes.shape == (0, 4)


def test_proposals_of_another_index_are_refused_with_the_remedy(path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_proposals(path, "abd")
    assert str(caught.value) == (
        f"{path}: proposals of other images (index abc, this training's abd); propose anew from "
        "the same index and splits"
    )


def test_other_tables_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    with pytest.raises(InputError, match=r"other\.parquet: not a readable table of proposals"):
        read_proposals(path, "abc")
    path.write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"other\.parquet: not a readable table of proposals"):
        read_proposals(path, "abc")
    ROWS.drop(columns="x2").to_parquet(path)
    with pytest.raises(InputError, match=r"other\.parquet: not a readable table of proposals"):
        read_proposals(path, "abc")
    ROWS.to_parquet(path)
    with pytest.raises(InputError, match="index unknown"):
        read_proposals(path, "abc")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("score", np.nan, "proposal 1 (image 3: 2, 2, 9, 8, nan): a number is not finite"),
        ("y2", np.inf, "proposal 1 (image 3: 2, 2, 9, inf, 0.1): a number is not finite"),
        ("x2", 1.0, "proposal 1 (image 3: 2, 2, 1, 8, 0.1): the box is inverted"),
    ],
)
def test_impossible_proposals_are_not_written(
    tmp_path: Path, column: str, value: float, message: str
) -> None:
    wrong = ROWS.copy()
    wrong.loc[3, column] = value
    with pytest.raises(InputError) as caught:
        write_proposals(tmp_path / "wrong.parquet", wrong, "abc")
    assert message in str(caught.value)
    assert not (tmp_path / "wrong.parquet").exists()


def test_images_out_of_order_are_refused_on_reading(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.take([2, 0, 1, 3]), path)
    with pytest.raises(InputError, match=r"proposal 1 .*images are not in order; propose anew"):
        read_proposals(path, "abc")
