from __future__ import annotations

from io import StringIO

import pandas as pd
import pytest

from detransfer.report.gates import read_gates

TABLE = """\
control,target,quantity,value,low,high,chance,unit,must,holds,detail
leaks,caltech,border,9.5,7.0,12.0,9.0,%,chance,yes,
leaks,caltech,byte size,14.0,11.0,17.0,9.0,%,chance,no,sizes tell
floors,voc,mean box,3.0,,,,%,,printed,
dial,,,,,,,,falls,not run,run `make controls`
oracle,voc,mAP,100.0,,,,%,100 %,yes,
a_against_a,,invented studies,4.0,,,,%,at most 5 %,yes,
a_against_a,,seeds,,,,,,at most 5 %,not run,run `snakemake`
"""


def test_a_control_is_as_good_as_its_worst_line() -> None:
    gates = read_gates(pd.read_csv(StringIO(TABLE)))
    assert [(gate.name, gate.outcome, len(gate.lines)) for gate in gates] == [
        ("leaks", "fails", 2),
        ("floors", "printed", 1),
        ("dial", "not run", 1),
        ("oracle", "holds", 1),
        ("a_against_a", "holds", 2),  # a part that was not run neither fails it nor takes it away
    ]


@pytest.mark.parametrize("read", [{}, {"keep_default_na": False}])
def test_lines_keep_their_numbers_and_words(read: dict[str, bool]) -> None:
    gates = read_gates(pd.read_csv(StringIO(TABLE), **read))  # type: ignore[call-overload]
    border, size = gates[0].lines
    assert (border.target, border.quantity, border.value, border.low, border.high) == (
        "caltech", "border", 9.5, 7.0, 12.0,
    )  # fmt: skip
    assert (border.chance, border.unit, border.must, border.outcome, border.detail) == (
        9.0, "%", "chance", "holds", "",
    )  # fmt: skip
    assert (size.outcome, size.detail) == ("fails", "sizes tell")
    dial = gates[2].lines[0]
    assert (dial.value, dial.low, dial.chance, dial.target) == (None, None, None, "")


def test_a_line_leads_to_the_runs_of_its_control_or_else_of_its_target() -> None:
    gates = read_gates(pd.read_csv(StringIO(TABLE)), {"voc", "caltech", "leaks"})
    origins = {(gate.name, line.origin) for gate in gates for line in gate.lines}
    assert origins == {
        ("leaks", "leaks"), ("floors", "voc"), ("dial", ""), ("oracle", "voc"), ("a_against_a", ""),
    }  # fmt: skip
