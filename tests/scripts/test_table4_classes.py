from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest

from detransfer.console import InputError
from detransfer.segmentation.by_distance import Confusion, read_confusion, write_confusion
from tests.segmentation.runs import CLASSES, hits, iou_of, write_run

CONTRAST = ["--contrast", "coco", "cls"]


def tabulate(
    repository: Path, monkeypatch: pytest.MonkeyPatch, folder: Path, words: list[str]
) -> pd.DataFrame:
    published = repository / "config/published/text.csv"
    options = [f"--published={published}", f"--output={folder / 'table.csv'}"]
    monkeypatch.setattr(sys, "argv", ["table4_classes.py", *words, *options])
    runpy.run_path(str(repository / "scripts/table4_classes.py"))["main"]()
    return pd.read_csv(folder / "table.csv").fillna({"baseline": ""})


def write_runs(folder: Path) -> list[str]:
    return [
        str(write_run(folder, name, seed, hits(right + seed, right + seed)))
        for name, right in (("random", 20), ("cls", 60), ("coco", 70))
        for seed in (0, 1)
    ]


def test_each_class_has_a_row_a_run_and_one_a_difference(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tabulate(repository, monkeypatch, tmp_path, [*write_runs(tmp_path), *CONTRAST])
    columns = "target dataset class run baseline mean std n low high images published"
    assert table.columns.tolist() == columns.split()
    assert table["class"].tolist() == list(CLASSES) * 4
    assert table["run"].tolist() == [n for n in ("random", "cls", "coco", "coco") for _ in CLASSES]
    rows = table.set_index(["run", "baseline", "class"])
    sheep = rows.loc[("cls", "", "sheep")]
    assert sheep["mean"] == pytest.approx((iou_of(60) + iou_of(61)) / 2, rel=1e-4)
    assert (sheep["n"], sheep["images"]) == (2, 6) and pd.isna(sheep["published"])
    gained = rows.loc[("coco", "cls", "sheep")]
    wanted = (iou_of(70) + iou_of(71) - iou_of(60) - iou_of(61)) / 2
    assert gained["mean"] == pytest.approx(wanted, rel=1e-4)
    assert gained["low"] <= gained["mean"] <= gained["high"]
    assert gained["published"] == 7.5
    assert rows.loc[("coco", "cls", "pottedplant"), "published"] == 0
    assert pd.isna(rows.loc[("coco", "cls", "background"), "published"])


def test_an_absent_class_has_a_row_without_numbers(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = write_runs(tmp_path)
    for folder in words:
        path = Path(folder) / "confusion.parquet"
        kept = read_confusion(path)
        cells = kept.cells[kept.cells["truth"] != 1]
        write_confusion(path, Confusion(kept.image_ids, kept.classes, cells))
    table = tabulate(repository, monkeypatch, tmp_path, [*words, *CONTRAST])
    sheep = table[table["class"] == "sheep"]
    assert sheep[["mean", "low", "high"]].isna().all(axis=None) and (sheep["images"] == 0).all()
    assert table[table["class"] != "sheep"]["mean"].notna().all()


def test_a_table_of_the_text_that_is_none_is_refused(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config/published").mkdir(parents=True)
    (tmp_path / "config/published/text.csv").write_text("a,b\n1,2\n")
    (tmp_path / "scripts").symlink_to(repository / "scripts")
    with pytest.raises(InputError, match="not a readable table of the paper's text"):
        tabulate(tmp_path, monkeypatch, tmp_path, write_runs(tmp_path))
