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
from detransfer.report.metrics import Metric, RunMetrics, RunName, write_metrics

NAMES = [f"mAP@0.{tenth}" for tenth in range(1, 10)]


def value(pretraining: str, seed: int, tenth: int) -> float:
    return (90.0 if pretraining == "coco" else 60.0) - 5 * tenth + 2 * seed


def write_runs(
    folder: Path, target: str = "voc", unit: str = "%", dataset: str = "voc_detection"
) -> list[Path]:
    paths = []
    for pretraining, seeds in (("random", 1), ("coco", 3)):
        for seed in range(seeds):
            metrics = tuple(
                Metric(name, value(pretraining, seed, tenth), unit, 50)
                for tenth, name in enumerate(NAMES, 1)
            )
            path = folder / target / f"{pretraining}{seed}.json"
            run = RunName("detection", target, dataset, pretraining, seed)
            write_metrics(path, RunMetrics(run, metrics, {}, {"recipe": "r"}, {}))
            paths.append(path)
    return paths


@pytest.fixture
def program(repository: Path) -> dict[str, Any]:
    return runpy.run_path(str(repository / "scripts" / "figure1.py"))


def start(
    program: dict[str, Any], monkeypatch: pytest.MonkeyPatch, folder: Path, words: list[str]
) -> None:
    files = [f"--{kind}={folder / f'figure1.{kind}'}" for kind in ("csv", "pdf", "png")]
    monkeypatch.setattr(sys, "argv", ["figure1.py", *words, *files])
    program["main"]()


def test_the_table_holds_the_numbers(
    program: dict[str, Any], repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = repository / "config/published/table2.csv"
    words = [*map(str, write_runs(tmp_path)), "--published", str(published)]
    start(program, monkeypatch, tmp_path, words)
    table = pd.read_csv(tmp_path / "figure1.csv")
    columns = "target dataset run iou metric mean std n published"
    assert table.columns.tolist() == columns.split()
    assert (table["target"] == "voc").all() and (table["dataset"] == "voc_detection").all()
    assert table["run"].tolist() == ["coco"] * 9 + ["random"] * 9
    assert table["iou"].tolist() == [tenth / 10 for tenth in range(1, 10)] * 2
    coco = table[table["run"] == "coco"]
    # Seeds 0, 2 and 4 points apart: mean 2 above the first, sample deviation 2.
    assert coco["mean"].tolist() == [92.0 - 5 * tenth for tenth in range(1, 10)]
    assert (coco["std"] == 2.0).all() and (coco["n"] == 3).all()
    assert coco["published"].dropna().tolist() == [86.8, 80.7]
    assert table[table["run"] == "random"][["std", "published"]].isna().all().all()


def test_equal_numbers_give_equal_files(
    program: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [str(path) for path in write_runs(tmp_path)]
    start(program, monkeypatch, tmp_path / "a", words)
    start(program, monkeypatch, tmp_path / "b", words[::-1])
    for name in ("figure1.csv", "figure1.pdf", "figure1.png"):
        first = (tmp_path / "a" / name).read_bytes()
        assert first == (tmp_path / "b" / name).read_bytes()
    with Image.open(tmp_path / "a" / "figure1.png") as image:
        assert abs(image.width / 300 - 3.3) < 0.02  # inches
        assert np.array(image.convert("L")).std() > 5


def test_the_lines_are_the_tables(program: dict[str, Any]) -> None:
    table = pd.DataFrame(
        {
            "target": ["voc"] * 4,
            "run": ["a", "a", "b", "b"],
            "iou": [0.1, 0.2] * 2,
            "metric": ["mAP@0.1", "mAP@0.2"] * 2,
            "mean": [10.0, 20.0, 30.0, 40.0],
            "std": [1.0, 2.0, np.nan, np.nan],
            "n": [2, 2, 1, 1],
            "published": [np.nan, 25.0, np.nan, np.nan],
        }
    )
    axes = program["draw"](table).axes[0]
    handles, labels = axes.get_legend_handles_labels()
    assert labels == ["a", "b", "published"]
    lines = {
        label: handle.lines[0].get_xydata().tolist()
        for handle, label in zip(handles[:2], labels[:2], strict=True)
    }
    assert lines == {"a": [[0.1, 10.0], [0.2, 20.0]], "b": [[0.1, 30.0], [0.2, 40.0]]}
    bars = handles[0].lines[2][0].get_segments()
    assert [bar[:, 1].tolist() for bar in bars] == [[9.0, 11.0], [18.0, 22.0]]
    marked = [line.get_ydata() for line in axes.lines if line.get_linestyle() == "None"]
    assert any(np.nansum(np.asarray(y, float)) == 25.0 for y in marked)
    assert axes.get_ylabel() == "mAP (%)" and axes.get_title() == ""


def test_each_target_has_a_panel(
    program: dict[str, Any], repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three targets, two of them on VOC: the paper's numbers are in those two alone."""
    runs = [
        *write_runs(tmp_path),
        *write_runs(tmp_path, "voc_frozen"),
        *write_runs(tmp_path, "nests", dataset="my_boxes"),
    ]
    published = repository / "config/published/table2.csv"
    words = [*map(str, runs), "--published", str(published)]
    start(program, monkeypatch, tmp_path, words)
    table = pd.read_csv(tmp_path / "figure1.csv")
    assert table["target"].unique().tolist() == ["voc", "voc_frozen", "nests"]
    found = table[table["published"].notna()]
    assert found.groupby("target").size().to_dict() == {"voc": 2, "voc_frozen": 2}
    figure = program["draw"](table)
    assert [axes.get_title() for axes in figure.axes] == ["voc", "voc_frozen", "nests"]
    legends = [axes.get_legend_handles_labels() for axes in figure.axes]
    assert [labels for _, labels in legends] == [
        ["coco", "random", "published"],
        ["coco", "random", "published"],
        ["coco", "random"],
    ]
    # A run looks alike in every panel, and all panels have one scale.
    colours = {handles[0].lines[0].get_color() for handles, _ in legends}
    assert len(colours) == 1 and len({axes.get_ylim() for axes in figure.axes}) == 1
    with Image.open(tmp_path / "figure1.png") as image:
        assert abs(image.width / 300 - 6.6) < 0.02 and abs(image.height / 300 - 5.2) < 0.02


def test_a_figure_is_in_percent(
    program: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = [str(path) for path in write_runs(tmp_path, "shares", "1")]
    with pytest.raises(InputError, match="shares: mAP is in '1', not in '%'"):
        start(program, monkeypatch, tmp_path, shares)
