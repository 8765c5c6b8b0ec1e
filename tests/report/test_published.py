from __future__ import annotations

from pathlib import Path

import pytest

from detransfer.console import InputError
from detransfer.report.published import read_published


def test_table_2_has_one_row_a_number(repository: Path) -> None:
    table = read_published(repository / "config/published/table2.csv")
    assert len(table) == 12 and set(table["dataset"]) == {"voc_detection"}
    found = table[(table["run"] == "openimages") & (table["metric"] == "mAP@0.7")].iloc[0]
    assert (found["published"], found["measured_by"]) == (81.1, "authors")
    assert set(table[table["measured_by"] == "cited"]["run"]) == {"dcnv1", "dcnv2"}


def test_every_number_has_its_data_set(repository: Path) -> None:
    """What is about no data set could stand beside the runs on any."""
    found = {
        name: set(read_published(repository / f"config/published/{name}.csv")["dataset"])
        for name in ("table2", "table4", "table5", "table6")
    }
    classified = {"caltech256", "sun397", "flowers102"}
    assert found["table2"] == {"voc_detection"} and found["table4"] == {"voc_segmentation"}
    assert found["table5"] == found["table6"] == classified


def test_table_5_has_one_column_a_metric(repository: Path) -> None:
    table = read_published(repository / "config/published/table5.csv")
    assert len(table) == 12 and set(table["metric"]) == {"top1"}
    found = table[(table["run"] == "imagenet_cls") & (table["dataset"] == "flowers102")].iloc[0]
    assert (found["published"], found["measured_by"]) == (95.0, "authors")
    assert table["run"].unique().tolist() == ["imagenet_loc", "coco", "openimages", "imagenet_cls"]


def test_the_order_of_the_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    path.write_text("run,dataset,top1,top5\nz,b,1,2\na,a,3,4\n")
    table = read_published(path)
    assert table[["run", "metric", "published"]].to_numpy().tolist() == [
        ["z", "top1", 1.0],
        ["z", "top5", 2.0],
        ["a", "top1", 3.0],
        ["a", "top5", 4.0],
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("dataset,top1\na,1\n", "no column 'run'; its columns are dataset, top1"),
        ("run,metric,value\na,top1,1\n", "no column 'dataset'; its columns are run, metric, value"),
        ("run,dataset\na,b\n", "no column with a number"),
        ("run,dataset,top1\na,b,high\n", "top1 of a on b: its value is no number"),
        ("run,dataset,top1\na,b,1\na,b,2\n", "top1 of a on b: stands there twice"),
        ("", "not a readable table"),
    ],
)
def test_a_table_of_another_form_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_published(path)
