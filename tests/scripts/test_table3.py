from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from detransfer.console import InputError
from detransfer.report.metrics import Metric, RunMetrics, RunName, write_metrics

LABELLED = {"missed@low": 20.0, "missed@medium": 30.0, "missed@low/mean": 21.0}
ALL = {"missed@low/all": 12.0, "missed@truncated/all": 11.0, "missed@any/all": 10.0}
Tabulate = Callable[..., pd.DataFrame]


def write(folder: Path, run: RunName, values: dict[str, float], occlusion: str = "o") -> Path:
    path = folder / f"{run}.json"
    metrics = tuple(Metric(name, value + run.seed, "%", 50) for name, value in values.items())
    write_metrics(path, RunMetrics(run, metrics, {}, {"occlusion": occlusion}, {}))
    return path


@pytest.fixture
def tabulate(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tabulate:
    program = runpy.run_path(str(repository / "scripts/table3.py"))

    def run(files: list[Path], published: Path | None = None) -> pd.DataFrame:
        table = tmp_path / "table3.csv"
        paper = published or repository / "config/published/table3.csv"
        words = [*map(str, files), "--published", str(paper), "--output", str(table)]
        monkeypatch.setattr(sys, "argv", ["table3.py", *words])
        program["main"]()
        return pd.read_csv(table)

    return run


def test_the_papers_numbers_stand_beside_ours(tabulate: Tabulate, tmp_path: Path) -> None:
    files = [
        write(
            tmp_path,
            RunName("detection", "voc_detection", "voc_detection", run, seed),
            {**LABELLED, **ALL},
        )
        for run in ("imagenet_cls", "coco")
        for seed in (0, 1)
    ]
    table = tabulate(files)
    mine = table[table["run"] == "imagenet_cls"]
    assert mine[["occlusion", "classes"]].to_numpy().tolist() == [
        ["low", "labelled"],
        ["medium", "labelled"],
        ["low", "labelled_mean"],
        ["low", "all"],
        ["truncated", "all"],
        ["any", "all"],
    ]
    assert mine["mean"].tolist() == [20.5, 30.5, 21.5, 12.5, 11.5, 10.5]
    assert (mine["objects"] == 50).all() and (mine["n"] == 2).all()
    assert mine["published"].tolist()[:2] == [14.7, 15.7]
    assert mine["published"].iloc[2:].isna().all()
    assert mine["difference"].tolist()[:2] == pytest.approx([5.8, 14.8])
    # The paper's other row, which was not run here, stays.
    other = table[table["run"] == "openimages"]
    assert other[["occlusion", "published", "n"]].to_numpy().tolist() == [
        ["low", 10.1, 0],
        ["medium", 10.8, 0],
    ]


def test_without_levels_truncation_remains(tabulate: Tabulate, tmp_path: Path) -> None:
    run = RunName("detection", "voc_detection", "voc_detection", "coco", 0)
    names = ("missed@truncated/all", "missed@any/all")
    table = tabulate([write(tmp_path, run, {name: ALL[name] for name in names})])
    assert table[["run", "occlusion", "mean"]].to_numpy().tolist() == [
        ["coco", "truncated", 11.0],
        ["coco", "any", 10.0],
    ]


def test_a_data_set_without_levels_stands_beside_one_with(
    tabulate: Tabulate, tmp_path: Path
) -> None:
    published = tmp_path / "published.csv"
    published.write_text("dataset,run,metric,value\nvoc,coco,missed@low,9.0\n")
    files = [
        write(tmp_path, RunName("detection", "voc", "voc", "coco", 0), {**LABELLED, **ALL}),
        write(
            tmp_path, RunName("detection", "own", "own", "coco", 0), {"missed@any/all": 4.0}, "none"
        ),
    ]
    table = tabulate(files, published)
    assert table.groupby("dataset").size().to_dict() == {"voc": 6, "own": 1}


def test_runs_with_other_levels_are_refused(tabulate: Tabulate, tmp_path: Path) -> None:
    files = [
        write(tmp_path, RunName("detection", "voc", "voc", "coco", seed), LABELLED, f"levels{seed}")
        for seed in (0, 1)
    ]
    with pytest.raises(InputError, match=r"they differ in occlusion \(levels0 against levels1\)"):
        tabulate(files)
