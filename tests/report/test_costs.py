from __future__ import annotations

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
    job(tmp_path / "pretrain/coco.tsv", (3600, 500, 1800))
    job(tmp_path / "pretrain/openimages.tsv", (1800, 900, 1700))
    job(tmp_path / "detect/voc/coco/seed0.tsv", (60, 100, 50))
    job(tmp_path / "table2.tsv", (2.5, "-", "NA"))
    table = read_costs(tmp_path, {"pretrain": 2, "absent": 8}).set_index("rule")
    assert list(table.index) == ["pretrain", "detect", "table2"]
    first = table.loc["pretrain"]
    assert (first["jobs"], first["seconds"], first["slowest"]) == (2, 5400, 3600)
    assert (first["cpu_seconds"], first["peak_mb"], first["gpus"]) == (3500, 900, 2)
    assert table["gpu_hours"].tolist() == [3.0, 0.0, 0.0]
    assert table.loc["table2", "cpu_seconds"] == 0


def test_of_repeats_the_last_counts(tmp_path: Path) -> None:
    job(tmp_path / "probe/a.tsv", (5, 1, 1), (7, 1, 1))
    assert read_costs(tmp_path, {})["seconds"].tolist() == [7]


def test_nothing_costs_nothing(tmp_path: Path) -> None:
    assert read_costs(tmp_path / "absent", {}).empty


@pytest.mark.parametrize("text", ["", "a\tb\n1\t2\n", HEAD])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.tsv").write_text(text)
    with pytest.raises(InputError, match=r"x\.tsv: no benchmark"):
        read_costs(tmp_path, {})
