from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest

from detransfer.console import InputError
from detransfer.report.metrics import Metric, RunMetrics, RunName, write_metrics


def write(folder: Path, run: RunName, values: dict[str, float], recipe: str = "r") -> Path:
    path = folder / f"{run}.json"
    metrics = tuple(Metric(name, value, "%", 50) for name, value in values.items())
    write_metrics(path, RunMetrics(run, metrics, {}, {"recipe": recipe}, {}))
    return path


def tabulate(
    repository: Path, monkeypatch: pytest.MonkeyPatch, runs: list[Path], published: str, *names: str
) -> pd.DataFrame:
    main = runpy.run_path(str(repository / "scripts" / "tabulate_runs.py"))["main"]
    output = runs[0].parent / "table.csv"
    source = repository / "config" / "published" / published
    words = [*map(str, runs), "--metrics", *names, "--published", str(source)]
    monkeypatch.setattr(sys, "argv", ["tabulate_runs.py", *words, "--output", str(output)])
    main()
    return pd.read_csv(output)


def test_table_5(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [
        write(
            tmp_path,
            RunName("classification", dataset, dataset, name, seed),
            {"top1": value + seed},
        )
        for dataset in ("flowers102", "caltech256")
        for name, value in (("random", 20.0), ("coco", 80.0))
        for seed in (0, 1)
    ]
    table = tabulate(repository, monkeypatch, runs, "table5.csv", "top1")
    columns = "target dataset run metric unit mean std n images floor published measured_by"
    assert table.columns.tolist() == [*columns.split(), "difference"]
    assert table["dataset"].unique().tolist() == ["caltech256", "sun397", "flowers102"]
    first = table[table["dataset"] == "caltech256"]
    assert first["run"].tolist() == ["imagenet_loc", "coco", "openimages", "imagenet_cls", "random"]
    coco = first.set_index("run").loc["coco"]
    assert (coco["mean"], coco["n"], coco["published"]) == (80.5, 2, 79.8)
    assert coco["std"] == pytest.approx(0.5**0.5, rel=1e-5)
    assert coco["difference"] == pytest.approx(0.7)
    absent = table[table["dataset"] == "sun397"]
    assert (absent["n"] == 0).all() and absent["target"].isna().all()
    assert first["target"].tolist() == ["caltech256"] * 5


def test_several_targets_of_table_5_on_one_data_set(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [
        write(tmp_path, RunName("classification", target, dataset, "coco", 0), {"top1": value}, key)
        for target, dataset, value, key in (
            ("flowers102", "flowers102", 90.0, "r"),
            ("flowers_long", "flowers102", 92.4, "s"),
            ("my_birds", "my_birds", 50.0, "r"),
        )
    ]
    table = tabulate(repository, monkeypatch, runs, "table5.csv", "top1")
    ours = table[table["n"] == 1].set_index("target")
    assert ours.index.tolist() == ["flowers102", "flowers_long", "my_birds"]
    assert ours["published"].tolist()[:2] == [91.4, 91.4] and ours["published"].isna()["my_birds"]
    assert ours["difference"].tolist()[:2] == pytest.approx([-1.4, 1.0])
    assert table.groupby("target", sort=False).size().tolist() == [4, 4, 1]


def test_table_2_shows_what_the_paper_cites(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"mAP@0.5": 84.0, "mAP@0.7": 76.5}
    runs = [
        write(tmp_path, RunName("detection", "voc", "voc_detection", "imagenet_cls", 0), values)
    ]
    table = tabulate(repository, monkeypatch, runs, "table2.csv", "mAP@0.5", "mAP@0.7")
    assert table["run"].tolist()[::2] == (
        ["dcnv1", "dcnv2", "imagenet_cls", "imagenet_loc", "coco", "openimages"]
    )
    cited = table[table["measured_by"] == "cited"]
    assert cited["published"].tolist() == [81.9, 68.2, 84.9, 73.5]
    assert (cited["n"] == 0).all() and cited["mean"].isna().all()
    ours = table[table["n"] == 1]
    assert ours["difference"].round(6).tolist() == [-0.6, 0.2] and ours["std"].isna().all()
    assert (table["target"] == "voc").all()


def test_table_2_of_another_target_beside_vocs(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its data set has no published number, and it may lack a metric."""
    runs = [
        write(tmp_path, RunName("detection", "voc", "voc_detection", "coco", 0), {"mAP@0.5": 84.0}),
        write(tmp_path, RunName("detection", "nests", "my_boxes", "coco", 0), {"mAP@0.5": 60.0}),
        write(tmp_path, RunName("detection", "coco", "coco", "random", 0), {"AP": 30.0}),
    ]
    table = tabulate(repository, monkeypatch, runs, "table2.csv", "mAP@0.5")
    assert table["target"].tolist() == ["voc"] * 6 + ["nests"]
    other = table.iloc[-1]
    assert (other["dataset"], other["run"], other["mean"], other["n"]) == (
        "my_boxes",
        "coco",
        60,
        1,
    )
    assert other[["published", "measured_by", "difference"]].isna().all()


def test_two_recipes_never_meet_in_one_table(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [
        write(
            tmp_path,
            RunName("detection", "voc", "voc_detection", "coco", seed),
            {"mAP@0.5": 1.0},
            key,
        )
        for seed, key in enumerate("rs")
    ]
    with pytest.raises(InputError, match=r"coco/seed0 and .*coco/seed1 .*recipe \(r against s\)"):
        tabulate(repository, monkeypatch, runs, "table2.csv", "mAP@0.5")
    assert not (tmp_path / "table.csv").exists()
