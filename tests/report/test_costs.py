from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from detransfer.console import InputError
from detransfer.report.costs import read_costs

HEAD = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"


def job(path: Path, *lines: tuple[float | str, float | str, float | str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{s}\t0:00:01\t{rss}\t1\t1\t1\t0\t0\t50\t{cpu}\n" for s, rss, cpu in lines]
    path.write_text(HEAD + "".join(rows))


def test_jobs_are_added_up_by_rule(tmp_path: Path) -> None:
    job(tmp_path / "benchmarks/finetune/coco.tsv", (3600, 500, 1800))
    job(tmp_path / "benchmarks/finetune/openimages.tsv", (1800, 900, 1700))
    job(tmp_path / "benchmarks/detect/voc/coco/seed0.tsv", (60, 100, 50))
    job(tmp_path / "benchmarks/table2.tsv", (2.5, "-", "NA"))
    table = read_costs(tmp_path, {"finetune": 2, "absent": 8}).set_index("rule")
    assert list(table.index) == ["finetune", "detect", "table2"]
    first = table.loc["finetune"]
    assert (first["jobs"], first["seconds"], first["slowest"]) == (2, 5400, 3600)
    assert (first["cpu_seconds"], first["peak_mb"], first["gpus"]) == (3500, 900, 2)
    assert table["gpu_hours"].tolist() == [3.0, 0.0, 0.0]
    assert math.isnan(table.loc["table2", "cpu_seconds"])  # too short to be measured


def test_pretrainings_count_by_what_their_training_wrote(tmp_path: Path) -> None:
    """Those rules have no benchmark: Snakemake takes none of what checkouts can share."""
    fit = {"seconds": 1800, "peak_memory_mb": 700, "device": "NVIDIA H100", "world_size": 4}
    for name, seconds in (("coco", 1800), ("openimages", 5400)):
        (tmp_path / "pretraining" / name).mkdir(parents=True)
        file = tmp_path / "pretraining" / name / "fit.json"
        file.write_text(json.dumps({**fit, "seconds": seconds}))
    (row,) = read_costs(tmp_path, {}).to_dict("records")
    assert (row["rule"], row["jobs"], row["seconds"], row["slowest"]) == ("pretrain", 2, 7200, 5400)
    assert (row["gpus"], row["gpu_hours"], row["peak_mb"]) == (4, 8.0, 700)
    assert math.isnan(row["cpu_seconds"])
    file.write_text("{}")
    with pytest.raises(InputError, match=r"openimages/fit\.json: not a readable"):
        read_costs(tmp_path, {})


def test_of_repeats_the_last_counts(tmp_path: Path) -> None:
    job(tmp_path / "benchmarks/probe/a.tsv", (5, 1, 1), (7, 1, 1))
    assert read_costs(tmp_path, {})["seconds"].tolist() == [7]


def test_nothing_costs_nothing(tmp_path: Path) -> None:
    assert read_costs(tmp_path / "absent", {}).empty


@pytest.mark.parametrize("text", ["", "a\tb\n1\t2\n", HEAD])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/x.tsv").write_text(text)
    with pytest.raises(InputError, match=r"x\.tsv: no benchmark"):
        read_costs(tmp_path, {})
