from __future__ import annotations

import math
from io import StringIO

import numpy as np
import pandas as pd
import pytest

from detransfer.report.comparison import ABOVE, BELOW, UNTESTED, WITHIN, Layout, apart, lay_out

TABLE = """\
target,dataset,run,metric,unit,mean,std,n,images,floor,published,measured_by,difference
voc,voc_detection,dcnv2,mAP@0.5,%,,,0,,,84.9,cited,
voc,voc_detection,coco,mAP@0.5,%,87.0,0.1,3,300,,86.8,authors,0.2
voc,voc_detection,coco,mAP@0.7,%,79.0,0.2,3,300,,80.7,authors,-1.7
voc,voc_detection,mine,mAP@0.5,%,60.0,,1,300,,,,
,other,coco,mAP@0.5,%,,,0,,,50.0,authors,
"""
LAYOUT = Layout(("run",), ("target", "metric"), {})


def test_the_grid_holds_what_the_table_holds_in_its_order() -> None:
    table = pd.read_csv(StringIO(TABLE))
    grid = lay_out(table, LAYOUT)
    assert grid.rows == [("dcnv2",), ("coco",), ("mine",)]
    assert grid.columns == [("voc", "mAP@0.5"), ("voc", "mAP@0.7"), ("other", "mAP@0.5")]
    cell = grid.cell(("coco",), ("voc", "mAP@0.7"))
    assert cell is not None
    assert (cell.mean, cell.std, cell.n, cell.published) == (79.0, 0.2, 3, 80.7)
    assert (cell.difference, cell.target, cell.run) == (-1.7, "voc", "coco")
    assert len(grid.cells) == len(table)


def test_what_was_not_run_or_not_published_is_none() -> None:
    grid = lay_out(pd.read_csv(StringIO(TABLE)), LAYOUT)
    cited = grid.cell(("dcnv2",), ("voc", "mAP@0.5"))
    own = grid.cell(("mine",), ("voc", "mAP@0.5"))
    assert cited is not None and own is not None
    assert (cited.mean, cited.n, cited.published, cited.apart) == (None, 0, 84.9, "")
    assert (own.published, own.difference, own.apart) == (None, None, "")
    assert grid.cell(("mine",), ("voc", "mAP@0.7")) is None


def test_intervals_come_from_their_own_metrics() -> None:
    table = pd.read_csv(
        StringIO(
            "target,dataset,run,metric,mean,std,n,published,difference\n"
            "c,c,coco,top1,50,,1,,\nc,c,coco,top1_low,48,,1,,\nc,c,coco,top1_high,53,,1,,\n"
            "c,c,other,top1,40,,1,,\n"
        )
    )
    layout = Layout(("run",), ("target",), {"metric": ("top1",)}, ("top1_low", "top1_high"))
    grid = lay_out(table, layout)
    assert grid.rows == [("coco",), ("other",)]
    coco, other = (grid.cell((name,), ("c",)) for name in ("coco", "other"))
    assert coco is not None and (coco.low, coco.high) == (48.0, 53.0)
    assert other is not None and (other.low, other.high) == (None, None)


def test_dimensions_in_a_column_with_gaps_stay_whole_numbers() -> None:
    table = pd.read_csv(
        StringIO("target,dataset,run,d,mean,std,n\nc,c,a,50176,1,,1\nc,c,a,,2,,1\n")
    )
    assert lay_out(table, Layout(("run", "d"), ("target",), {})).rows == [("a", "50176"), ("a", "")]


@pytest.mark.parametrize(
    ("difference", "std", "n", "expected"),
    [
        (None, 1.0, 3, ""),
        (5.0, None, 1, UNTESTED),
        # t(0.975, 2) = 4.303 (any printed table of Student's t), times sqrt(4/3): 4.968.
        (4.96, 1.0, 3, WITHIN),
        (4.98, 1.0, 3, ABOVE),
        (-4.98, 1.0, 3, BELOW),
        (0.0, 0.0, 2, WITHIN),
        (0.1, 0.0, 2, ABOVE),
    ],
)
def test_apart(difference: float | None, std: float | None, n: int, expected: str) -> None:
    assert apart(difference, std, n) == expected


@pytest.mark.parametrize("n", [2, 5])
def test_one_of_twenty_further_runs_is_called_apart(n: int) -> None:
    draws = np.random.default_rng(n).normal(size=(4000, n + 1))
    ours, other = draws[:, :n], draws[:, n]
    called = [
        apart(float(mean - one), float(std), n) != WITHIN
        for mean, std, one in zip(ours.mean(1), ours.std(1, ddof=1), other, strict=True)
    ]
    assert abs(np.mean(called) - 0.05) < 3 * math.sqrt(0.05 * 0.95 / len(called))
