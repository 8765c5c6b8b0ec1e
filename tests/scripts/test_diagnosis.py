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

KINDS = ("localisation", "similar", "other", "background")
CURVES = ("C75", "C50", "Loc", "Sim", "Oth", "BG", "FN")
STRATA = {
    "objects": ("all",),
    "truncation": ("whole", "truncated"),
    "size": ("extra_small", "small", "medium", "large", "extra_large"),
    "aspect": ("extra_tall", "tall", "medium", "wide", "extra_wide"),
}
LEVELS = {"occlusion": ("none", "low", "medium", "high"), "occluded": ("low", "medium")}


def rows(group: str, strata: dict[str, tuple[str, ...]]) -> list[tuple[str, str, str, str]]:
    metrics = ("AP_N", "missed") if group.endswith("mean") else ("missed",)
    return [
        (group, analysis, stratum, metric)
        for analysis, names in strata.items()
        for stratum in names
        for metric in metrics
    ]


def write_run(
    folder: Path, pretraining: str, seed: int, levels: bool = True, target: str = "things"
) -> Path:
    """Write a run whose numbers are 40 + its seed, the curves' gains 10 + its seed."""
    keys = [*rows("all:mean", STRATA), *rows("all:pooled", STRATA)]
    if levels:
        strata = {**STRATA, **LEVELS}
        keys += [*rows("labelled:mean", strata), *rows("labelled:pooled", strata)]
    keys += [("all:pooled", "top_detections", kind, "share") for kind in KINDS]
    keys += [("all:mean", "coco", curve, "gain") for curve in CURVES]
    table = pd.DataFrame(keys, columns=["class", "analysis", "stratum", "metric"])
    table["value"] = np.where(table["metric"] == "gain", 10.0, 40.0) + seed
    table["n"] = 100 + seed
    path = folder / target / pretraining / str(seed) / "diagnosis.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path.with_suffix(".csv"), index=False)
    run = RunName("detection", target, "things", pretraining, seed)
    metrics = (Metric("missed@any/all", 1.0, "%", 50),)
    comparability = {"occlusion": "some" if levels else "none"}
    write_metrics(path, RunMetrics(run, metrics, {}, comparability, {}))
    return path


@pytest.fixture
def program(repository: Path) -> dict[str, Any]:
    return runpy.run_path(str(repository / "scripts/diagnosis.py"))


def start(
    program: dict[str, Any], monkeypatch: pytest.MonkeyPatch, folder: Path, runs: list[Path]
) -> pd.DataFrame:
    folder.mkdir(exist_ok=True)
    files = [f"--{form}={folder / f'diagnosis.{form}'}" for form in ("csv", "pdf", "png")]
    monkeypatch.setattr(sys, "argv", ["diagnosis.py", *map(str, runs), *files])
    program["main"]()
    return pd.read_csv(folder / "diagnosis.csv")


def test_the_table_is_mean_and_deviation_over_seeds(
    program: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [write_run(tmp_path, name, seed) for name in ("coco", "random") for seed in (0, 2)]
    table = start(program, monkeypatch, tmp_path / "out", runs)
    assert list(table) == [
        *("target", "dataset", "run", "class", "analysis", "stratum", "metric"),
        *("mean", "std", "n", "count"),
    ]
    assert table["run"].unique().tolist() == ["random", "coco"]
    assert (table["mean"] == np.where(table["metric"] == "gain", 11, 41)).all()
    np.testing.assert_allclose(table["std"], np.sqrt(2), rtol=1e-5)
    assert (table["n"] == 2).all() and (table["count"] == 100).all()
    assert not table.duplicated(["run", "class", "analysis", "stratum", "metric"]).any()


@pytest.mark.parametrize("levels", [True, False])
def test_two_targets_on_one_data_set_stay_apart(
    program: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, levels: bool
) -> None:
    """Whether their recipes compare (both with levels) or not."""
    runs = [write_run(tmp_path, name, 0) for name in ("coco", "random")]
    runs += [write_run(tmp_path, name, 2, levels, "few") for name in ("coco", "random")]
    table = start(program, monkeypatch, tmp_path / "out", runs)
    assert table["target"].unique().tolist() == ["few", "things"]
    assert (table["n"] == 1).all() and set(table["dataset"]) == {"things"}
    gains = table[table["metric"] == "gain"].groupby("target")["mean"].unique()
    assert gains["few"].tolist() == [12] and gains["things"].tolist() == [10]
    figure = program["draw"](table)
    titles = [part.get_suptitle() for part in figure.subfigs]
    assert titles == ["few", "things"]
    for part, width in zip(figure.subfigs, (12, 10), strict=True):
        axes = next(a for a in part.subfigs[0].axes if a.get_title() == "COCO's curves")
        assert {bar.get_width() for bar in axes.patches} == {width} and len(axes.patches) == 14


@pytest.mark.parametrize("levels", [True, False])
def test_equal_numbers_give_equal_pictures(
    program: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, levels: bool
) -> None:
    runs = [write_run(tmp_path, name, 0, levels) for name in ("coco", "random")]
    start(program, monkeypatch, tmp_path / "a", runs)
    start(program, monkeypatch, tmp_path / "b", runs[::-1])
    for form in ("csv", "pdf", "png"):
        first, second = (tmp_path / n / f"diagnosis.{form}" for n in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()
    with Image.open(tmp_path / "a" / "diagnosis.png") as image:
        assert abs(image.width / 300 - 7) < 0.05  # inches
        assert np.array(image.convert("L")).std() > 5


def panels(program: dict[str, Any], table: pd.DataFrame) -> dict[str, Any]:
    return {axes.get_title(): axes for axes in program["draw"](table).axes}


def test_the_picture_is_the_tables(
    program: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [write_run(tmp_path, "coco", seed) for seed in (0, 2)]
    axes = panels(program, start(program, monkeypatch, tmp_path / "out", runs))
    assert list(axes) == [
        *("false positives", "COCO's curves", "missed objects"),
        *("by size", "by aspect ratio", "by occlusion"),
    ]
    for name, count, width in (("false positives", 4, 41), ("COCO's curves", 7, 11)):
        bars = axes[name].patches
        assert [bar.get_x() for bar in bars] == [width * k for k in range(count)]
        assert {bar.get_width() for bar in bars} == {width}
    ticks = {"missed objects": 3, "by size": 5, "by aspect ratio": 5, "by occlusion": 4}
    for name, count in ticks.items():
        handle = axes[name].get_legend_handles_labels()[0][0]
        assert handle.lines[0].get_xydata().tolist() == [[k, 41] for k in range(count)]
        spans = [bar[:, 1].tolist() for bar in handle.lines[2][0].get_segments()]
        np.testing.assert_allclose(spans, [[41 - np.sqrt(2), 41 + np.sqrt(2)]] * count, rtol=1e-4)
        assert len(axes[name].get_xticklabels()) == count


def test_without_levels_it_shows_truncation(
    program: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [write_run(tmp_path, "coco", 0, levels=False)]
    axes = panels(program, start(program, monkeypatch, tmp_path / "out", runs))
    labels = [label.get_text() for label in axes["by truncation"].get_xticklabels()]
    assert labels == ["whole", "truncated"] and "by occlusion" not in axes


def test_runs_that_do_not_compare_and_lost_tables_are_refused(
    program: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [write_run(tmp_path, "coco", 0), write_run(tmp_path, "random", 0, levels=False)]
    with pytest.raises(InputError, match="they differ in occlusion"):
        start(program, monkeypatch, tmp_path / "out", runs)
    runs[0].with_suffix(".csv").unlink()
    with pytest.raises(InputError, match=r"diagnosis\.csv: not a readable diagnosis"):
        start(program, monkeypatch, tmp_path / "out", runs[:1])
