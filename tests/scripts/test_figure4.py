from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from detransfer.console import InputError
from detransfer.segmentation.by_distance import Confusion, read_confusion, write_confusion
from tests.segmentation.runs import hits, iou_of, write_run


@pytest.fixture(scope="module")
def program(repository: Path) -> dict[str, Any]:
    return runpy.run_path(str(repository / "scripts" / "figure4.py"))


def start(
    program: dict[str, Any], monkeypatch: pytest.MonkeyPatch, folder: Path, words: list[str]
) -> pd.DataFrame:
    files = {kind: folder / f"figure4.{kind}" for kind in ("csv", "pdf", "png")}
    options = [f"--{kind}={path}" for kind, path in files.items()]
    monkeypatch.setattr(sys, "argv", ["figure4.py", *words, *options])
    program["main"]()
    return pd.read_csv(files["csv"], dtype={"baseline": "str"}).fillna({"baseline": ""})


def write_runs(folder: Path, target: str = "voc", images: int = 6, spread: int = 4) -> list[str]:
    """Detection is 20 better up to distance 10, and 10 better beyond."""
    runs = []
    for seed in (0, 1):
        for name, near, far in (("cls", 40, 80), ("coco", 60, 90)):
            planted = hits(near + seed, far + seed, images, spread)
            runs.append(str(write_run(folder, name, seed, planted, target=target)))
    return runs


CONTRAST = ["--contrast", "coco", "cls"]


def test_the_table_holds_what_was_planted(
    program: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*write_runs(tmp_path, spread=0), *CONTRAST]
    table = start(program, monkeypatch, tmp_path, words)
    columns = "target dataset run baseline region metric width mean std n low high classes share"
    assert table.columns.tolist() == columns.split()
    assert len(table) == 3 * 2 * 2 * 40  # runs and gap, regions, metrics, widths
    places = ["run", "baseline", "region", "metric", "width"]
    mean = table.set_index(places)["mean"]
    # Seeds 40 and 41 right near the border, 80 and 81 far away.
    for width in (1, 10):
        near = np.mean([iou_of(40), iou_of(41)])
        assert mean["cls", "", "trimap", "mIoU", width] == pytest.approx(near, rel=1e-4)
        assert mean["cls", "", "trimap", "pixel_accuracy", width] == pytest.approx(40.5)
    for width in (10, 40):
        far = np.mean([iou_of(90), iou_of(91)])
        assert mean["coco", "", "anti-trimap", "mIoU", width] == pytest.approx(far, rel=1e-4)
    # Ten distances of 60 and ten of 90 make 75.
    assert mean["coco", "", "trimap", "pixel_accuracy", 20] == pytest.approx(75.5)
    assert mean["coco", "cls", "trimap", "pixel_accuracy", 5] == pytest.approx(20)
    assert mean["coco", "cls", "anti-trimap", "pixel_accuracy", 30] == pytest.approx(10)
    gap = mean["coco", "cls", "trimap", "mIoU", 20]
    own, other = (mean[name, "", "trimap", "mIoU", 20] for name in ("coco", "cls"))
    assert gap == pytest.approx(own - other, abs=1e-3)
    rows = table[(table["region"] == "trimap") & (table["width"] == 5)]
    assert np.allclose(rows["share"], 5 / 41, rtol=1e-5) and (rows["classes"] == 3).all()
    assert (table["n"] == 2).all() and table["std"].notna().all()


def test_the_band_is_of_the_images_and_the_gap_is_paired(
    program: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*write_runs(tmp_path, images=40, spread=10), *CONTRAST]
    table = start(program, monkeypatch, tmp_path, words)
    rows = table[(table["metric"] == "pixel_accuracy") & (table["region"] == "trimap")]
    rows = rows[rows["width"] == 5].set_index(["run", "baseline"])
    assert (rows["low"] <= rows["mean"]).all() and (rows["mean"] <= rows["high"]).all()
    shifts = np.random.default_rng(0).integers(-10, 10, 40, endpoint=True)
    width = 2 * 1.96 * shifts.std() / np.sqrt(40)
    level = rows.loc[("cls", "")]
    assert level["high"] - level["low"] == pytest.approx(width, rel=0.15)
    # Both runs find the same images hard, so their gap is certain.
    gap = rows.loc[("coco", "cls")]
    assert gap["high"] - gap["low"] < 1e-3 and gap["mean"] == pytest.approx(20)


def test_equal_numbers_give_equal_files(
    program: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*write_runs(tmp_path), *CONTRAST]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        start(program, monkeypatch, tmp_path / name, words)
    for name in ("figure4.csv", "figure4.pdf", "figure4.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with Image.open(tmp_path / "a" / "figure4.png") as image:
        assert abs(image.width / 300 - 3.3) < 0.02  # inches: a column
        assert np.array(image.convert("L")).std() > 5


def test_the_picture_shows_the_table_and_the_gap_below(
    program: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = start(program, monkeypatch, tmp_path, [*write_runs(tmp_path), *CONTRAST])
    figure = program["draw"](table)
    above, gaps = figure.axes[:2], figure.axes[2:]
    assert [axes.get_title() for axes in above] == ["trimap", "anti-trimap"]
    assert gaps[0].get_ylabel() == "minus cls\n(points)"
    table = table[table["metric"] == "mIoU"].set_index(["run", "baseline", "region"])
    for axes, region in zip(above, ("trimap", "anti-trimap"), strict=True):
        lines = {line.get_label(): line.get_ydata() for line in axes.lines}
        for name in ("cls", "coco"):
            np.testing.assert_allclose(lines[name], table.loc[(name, "", region), "mean"])
    for axes, region in zip(gaps, ("trimap", "anti-trimap"), strict=True):
        zero, line = axes.lines
        assert set(zero.get_ydata()) == {0}
        np.testing.assert_allclose(line.get_ydata(), table.loc[("coco", "cls", region), "mean"])
        band = axes.collections[0].get_paths()[0].vertices[:, 1]
        assert band.max() == pytest.approx(table.loc[("coco", "cls", region), "high"].max())
    assert gaps[0].get_ylim() == gaps[1].get_ylim() and above[0].get_ylim() == above[1].get_ylim()


def test_widths_at_which_a_class_is_missing_are_in_the_table_alone(
    program: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = write_runs(tmp_path)
    for folder in words:
        path = Path(folder) / "confusion.parquet"
        confusion = read_confusion(path)
        gone = (confusion.cells["truth"] == 2) & (confusion.cells["distance"] > 15)
        left = Confusion(confusion.image_ids, confusion.classes, confusion.cells[~gone])
        write_confusion(path, left)
    table = start(program, monkeypatch, tmp_path, [*words, *CONTRAST])
    outside = table[table["region"] == "anti-trimap"].set_index("width")["classes"]
    assert set(outside[:14]) == {3} and set(outside[outside.index > 14]) == {2}
    panel = program["draw"](table).axes[1]
    assert max(panel.lines[0].get_xdata()) == 14


def test_targets_are_drawn_below_each_other(
    program: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*write_runs(tmp_path), *write_runs(tmp_path, "frozen"), *CONTRAST]
    table = start(program, monkeypatch, tmp_path, words)
    assert table["target"].unique().tolist() == ["voc", "frozen"]
    titles = [axes.get_title() for axes in program["draw"](table).axes if axes.get_title()]
    assert titles == ["voc: trimap", "voc: anti-trimap", "frozen: trimap", "frozen: anti-trimap"]


def test_without_a_contrast_there_is_no_gap(
    program: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = start(program, monkeypatch, tmp_path, write_runs(tmp_path))
    assert (table["baseline"] == "").all() and len(program["draw"](table).axes) == 2


def test_runs_that_do_not_belong_together_are_refused(
    program: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = write_runs(tmp_path)
    with pytest.raises(InputError, match=r"voc/cls/seed0: this run is given twice"):
        start(program, monkeypatch, tmp_path, [*words, words[0]])
    with pytest.raises(InputError, match=r"seeds \[0, 1\] cannot be compared with seeds \[1\]"):
        start(program, monkeypatch, tmp_path, [*words[1:], *CONTRAST])
    other = str(write_run(tmp_path, "random", 0, hits(10, 10), recipe="s"))
    with pytest.raises(InputError, match="differ in recipe"):
        start(program, monkeypatch, tmp_path, [*words, other])
