from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from detransfer.report.bootstrap import resamples
from detransfer.report.groups import Group
from detransfer.report.paired import Measured, compare

IMAGES = 40
METRICS = ["a", "b"]


def runs() -> dict[str, Measured]:
    rng = np.random.default_rng(0)
    base = rng.normal(50, 20, (IMAGES, 2))
    right = rng.random((2, IMAGES)) < 0.6
    gain = np.stack([rng.normal(5, 1, IMAGES), rng.normal(0, 1, IMAGES)], 1)
    return {"cls": Measured(base, right[0]), "det": Measured(base + gain, right[1])}


def pick(table: pd.DataFrame, run: str, baseline: str, by: str, metric: str) -> pd.Series:
    rows = table[(table["run"] == run) & (table["baseline"] == baseline)]
    return rows[(rows["by"] == by) & (rows["metric"] == metric)].iloc[0]


def test_a_planted_gain_is_found_and_none_is_not() -> None:
    table = compare(runs(), METRICS, [("det", "cls")], [])
    gain, none = (pick(table, "det", "cls", "all", metric) for metric in METRICS)
    assert 4.5 < gain["ci_low"] < gain["mean"] < gain["ci_high"] < 5.5
    assert none["ci_low"] < 0 < none["ci_high"]
    own = pick(table, "det", "", "all", "a")  # unpaired, the images' spread is in the interval
    assert own["ci_high"] - own["ci_low"] > 8
    assert (table["images"][table["by"] == "all"] == IMAGES).all()


def test_the_interval_is_that_of_the_means_of_resampled_images() -> None:
    measured = runs()
    table = compare(measured, METRICS, [("det", "cls")], [])
    difference = (measured["det"].values - measured["cls"].values)[:, 0]
    means = [np.repeat(difference, counts.astype(int)).mean() for counts in resamples(IMAGES)]
    row = pick(table, "det", "cls", "all", "a")
    assert row["mean"] == pytest.approx(difference.mean())
    assert [row["ci_low"], row["ci_high"]] == pytest.approx(np.percentile(means, [2.5, 97.5]))


def test_groups_hold_their_own_images() -> None:
    inside = np.arange(IMAGES) % 4 == 0
    groups = [
        Group("size", 0, 10, inside),
        Group("size", 10, np.inf, ~inside),
        Group("size", 20, 30, np.zeros(IMAGES, bool)),
    ]
    measured = runs()
    table = compare(measured, METRICS, [], groups)
    rows = table[(table["by"] == "size") & (table["run"] == "cls") & (table["metric"] == "b")]
    assert rows["images"].tolist() == [10, 30] and rows["low"].tolist() == [0, 10]
    assert rows["mean"].tolist() == pytest.approx(
        [measured["cls"].values[each, 1].mean() for each in (inside, ~inside)]
    )
    assert rows["high"].isna().tolist() == [False, True]


def test_right_images_are_those_that_both_get_right() -> None:
    measured = runs()
    table = compare(measured, METRICS, [("det", "cls")], [])
    first, second = (measured[name].right for name in ("cls", "det"))
    assert first is not None and second is not None
    assert pick(table, "cls", "", "right", "a")["images"] == first.sum()
    row = pick(table, "det", "cls", "right", "a")
    assert row["images"] == (first & second).sum()
    difference = measured["det"].values - measured["cls"].values
    assert row["mean"] == pytest.approx(difference[first & second, 0].mean())


def test_images_without_a_number_are_left_out_everywhere() -> None:
    measured = {name: Measured(run.values.copy()) for name, run in runs().items()}
    measured["det"].values[:3, 1] = np.nan
    table = compare(measured, METRICS, [("det", "cls")], [])
    assert (table["images"] == IMAGES - 3).all() and set(table["by"]) == {"all"}
    expected = measured["cls"].values[3:, 0].mean()
    assert pick(table, "cls", "", "all", "a")["mean"] == pytest.approx(expected)


def test_a_single_image_has_no_interval() -> None:
    table = compare(
        runs(),
        METRICS,
        [("det", "cls")],
        [
            Group("size", low, low + 10, np.arange(IMAGES) < count)
            for low, count in ((0, 1), (10, 2))
        ],
    )
    one, two = (table[table["low"] == low] for low in (0, 10))
    assert one["mean"].notna().all() and one[["ci_low", "ci_high"]].isna().all(axis=None)
    assert (two["ci_low"] < two["mean"]).all() and (two["mean"] < two["ci_high"]).all()
