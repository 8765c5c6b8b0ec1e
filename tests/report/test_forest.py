from __future__ import annotations

import pandas as pd
import pytest

from detransfer.report.forest import Row, axis_of, counted, read_statements, sections

COLUMNS = [
    "claim", "place", "quantity", "target", "run", "baseline", "unit", "expected", "margin",
    "published", "effect", "low", "high", "verdict", "reason", "matched", "matched_effect",
    "matched_low", "matched_high", "matched_verdict", "detectable",
]  # fmt: skip
ROW = {
    "claim": "map50", "place": "4.1, Table 2", "quantity": "gain", "target": "voc", "run": "coco",
    "baseline": "imagenet_cls", "unit": "points", "expected": "more", "published": 2.2,
    "effect": 3.0, "low": 1.0, "high": 5.0, "verdict": "reproduced", "matched": "coco_labels",
    "matched_effect": 1.0, "matched_low": -1.0, "matched_high": 3.0,
    "matched_verdict": "inconclusive", "detectable": 1.5,
}  # fmt: skip
NOT_RUN = {"claim": "coco50", "place": "4.1, text", "quantity": "q", "verdict": "not run"}


def claims(*rows: dict[str, object]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=COLUMNS)


def test_a_row_has_both_contrasts() -> None:
    (statement,) = read_statements(claims(ROW))
    (row,) = statement.rows
    assert (row.run, row.baseline, row.control, row.published) == (
        "coco", "imagenet_cls", "coco_labels", 2.2,
    )  # fmt: skip
    assert row.ours is not None and row.matched is not None
    assert (row.ours.effect, row.ours.low, row.ours.high) == (3.0, 1.0, 5.0)
    assert (row.matched.effect, row.matched.verdict) == (1.0, "inconclusive")
    assert row.facts["detectable"] == 1.5 and "margin" not in row.facts


def test_a_statement_without_runs_has_no_plot() -> None:
    (statement,) = read_statements(claims(NOT_RUN))
    (row,) = statement.rows
    assert (row.verdict, row.ours, row.matched, row.run) == ("not run", None, None, "")
    assert not statement.plotted and not statement.matched
    assert read_statements(claims(ROW))[0].plotted


def test_statements_keep_their_order_and_sections() -> None:
    other = {**ROW, "claim": "miou", "place": "4.2, Table 4", "verdict": "contradicted"}
    statements = read_statements(claims(ROW, other, {**ROW, "run": "openimages"}))
    assert [(s.claim, len(s.rows)) for s in statements] == [("map50", 2), ("miou", 1)]
    assert list(sections(statements)) == ["4.1", "4.2"]
    assert counted(statements) == {"reproduced": 2, "contradicted": 1}


@pytest.mark.parametrize("scale", [0.003, 1.0, 37.0, 1e4])
def test_the_axis_holds_all_and_is_not_much_longer(scale: float) -> None:
    numbers = {name: scale * value for name, value in ROW.items() if isinstance(value, float)}
    rows = read_statements(claims({**ROW, **numbers}))[0].rows
    axis = axis_of(rows)
    assert 5 * scale <= axis.end <= 12.5 * scale
    assert axis.ticks[0] == -axis.end and axis.ticks[-1] == axis.end and 0 in axis.ticks
    assert axis.at(0) == 50 and axis.at(axis.end) == 100 and axis.at(-axis.end / 2) == 25


def test_a_very_wide_interval_is_cut() -> None:
    axis = axis_of(read_statements(claims({**ROW, "low": -500.0, "high": 500.0}))[0].rows)
    assert axis.beyond(500) and axis.at(500) == 100 and axis.at(-500) == 0
    assert not axis.beyond(3)


def test_an_axis_of_nothing_exists() -> None:
    empty: list[Row] = []
    assert axis_of(empty).end == 1.0
    zero = {**ROW, "published": 0, "effect": 0, "low": 0, "high": 0, "matched_effect": 0,
            "matched_low": 0, "matched_high": 0}  # fmt: skip
    assert axis_of(read_statements(claims(zero))[0].rows).end == 1.0
