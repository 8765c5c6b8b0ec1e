from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from detransfer.console import InputError
from detransfer.report.metrics import Metric, RunMetrics, RunName
from detransfer.report.tables import join_published, summarise

PUBLISHED = pd.DataFrame(
    [
        ["voc", "dcnv1", "mAP@0.5", 81.9, "cited"],
        ["voc", "imagenet_cls", "mAP@0.5", 84.6, "authors"],
        ["voc", "coco", "mAP@0.5", 86.8, "authors"],
        ["voc", "coco", "mAP@0.9", 20.0, "authors"],
    ],
    columns=["dataset", "run", "metric", "published", "measured_by"],
)


def made(
    pretraining: str,
    seed: int,
    value: float,
    dataset: str = "voc",
    recipe: str = "r",
    unit: str = "%",
    images: int = 100,
    task: str = "detection",
    target: str | None = None,
) -> RunMetrics:
    """Return a run; its target is called as the data set if nothing else is said."""
    return RunMetrics(
        run=RunName(task, target or dataset, dataset, pretraining, seed),
        metrics=(
            Metric("mAP@0.5", value, unit, images, 5.0, 100.0),
            Metric("mAP@0.7", value / 2, unit, images),
        ),
        fit={},
        comparability={"recipe": recipe},
        provenance={},
    )


def without(run: RunMetrics, name: str) -> RunMetrics:
    """Return the run as if it had been evaluated without one of its metrics."""
    return replace(run, metrics=tuple(each for each in run.metrics if each.name != name))


def test_mean_and_sample_deviation_over_seeds() -> None:
    # Worked by hand: mean of 80, 83, 86 is 83, deviations -3, 0, 3, so sqrt(18 / 2) = 3.
    runs = [made("coco", seed, value) for seed, value in enumerate((86.0, 80.0, 83.0))]
    table = summarise([*runs, made("random", 0, 10.0)], ["mAP@0.7", "mAP@0.5"])
    coco = table[(table["run"] == "coco") & (table["metric"] == "mAP@0.5")].iloc[0]
    assert (coco["mean"], coco["std"], coco["n"], coco["images"]) == (83.0, 3.0, 3, 100)
    assert (coco["unit"], coco["floor"]) == ("%", 5.0)
    single = table[(table["run"] == "random") & (table["metric"] == "mAP@0.7")].iloc[0]
    assert (single["mean"], single["n"]) == (5.0, 1)
    assert math.isnan(single["std"]) and math.isnan(single["floor"])


def test_a_summary_is_that_of_numpy_and_does_not_depend_on_the_order_of_runs() -> None:
    values = np.random.default_rng(0).normal(80, 3, 5)
    runs = [made("coco", seed, float(value)) for seed, value in enumerate(values)]
    row = summarise(runs, ["mAP@0.5"]).iloc[0]
    assert row["mean"] == pytest.approx(values.mean())
    assert row["std"] == pytest.approx(values.std(ddof=1))
    for order in list(itertools.permutations(runs))[::17]:
        pd.testing.assert_frame_equal(
            summarise(order, ["mAP@0.5"]), summarise(runs, ["mAP@0.5"]), check_exact=True
        )


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([], "no run to tabulate"),
        ([made("coco", 0, 1), made("coco", 0, 1)], "detection/voc/coco/seed0: this run is given"),
        ([made("coco", 0, 1), made("random", 0, 1, recipe="s")], r"differ in recipe \(r against s"),
        ([made("coco", 0, 1), made("coco", 1, 1, unit="1")], "seeds differ in unit"),
        ([made("coco", 0, 1), made("coco", 1, 1, images=9)], "seeds differ in images"),
        ([made("coco", 0, 1), made("coco", 1, 1, task="classification")], "voc: runs of two tasks"),
        (
            [made("coco", 0, 1, target="x"), made("coco", 1, 1, "cats", target="x")],
            r"x: runs of two data sets \(cats, voc\)",
        ),
        ([without(made("coco", 0, 1), "mAP@0.5")], "voc/coco/seed0: no metric 'mAP@0.5'.*mAP@0.7"),
        (
            [made("coco", 0, 1), without(made("coco", 1, 1), "mAP@0.5")],
            "voc/coco/seed1: no metric 'mAP@0.5'",
        ),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(runs: list[RunMetrics], message: str) -> None:
    with pytest.raises(InputError, match=message):
        summarise(runs, ["mAP@0.5"])


def test_each_target_is_compared_on_its_own() -> None:
    """Two targets may share a data set and still be learnt by different recipes."""
    runs = [
        made("coco", 0, 1),
        made("coco", 0, 2, target="voc_frozen", recipe="s"),
        made("coco", 0, 3, dataset="flowers", recipe="t"),
    ]
    table = summarise(runs, ["mAP@0.5"])
    assert table.set_index("target")["mean"].to_dict() == {
        "flowers": 3.0,
        "voc": 1.0,
        "voc_frozen": 2.0,
    }
    assert table["dataset"].tolist() == ["flowers", "voc", "voc"] and (table["n"] == 1).all()


def test_a_target_without_a_metric_has_no_row_for_it() -> None:
    runs = [made("coco", 0, 1), without(made("coco", 0, 2, dataset="cats"), "mAP@0.5")]
    table = summarise(runs, ["mAP@0.5", "mAP@0.7"])
    rows = table[["target", "metric", "mean"]].to_numpy().tolist()
    assert rows == [["cats", "mAP@0.7", 1.0], ["voc", "mAP@0.5", 1.0], ["voc", "mAP@0.7", 0.5]]


def test_published_numbers_stand_beside_every_target_on_their_data_set_and_no_other() -> None:
    runs = [
        made("coco", 0, 86.0),
        made("coco", 0, 80.0, target="voc_frozen"),
        made("coco", 0, 40.0, dataset="cats"),
    ]
    table = join_published(summarise(runs, ["mAP@0.5"]), PUBLISHED)
    coco = table[table["run"] == "coco"].set_index("target")["published"]
    assert coco.dropna().to_dict() == {"voc": 86.8, "voc_frozen": 86.8}
    assert coco.index.tolist() == ["voc", "voc_frozen", "cats"]
    # Each block is whole: what the paper has and we do not is in both.
    for target in ("voc", "voc_frozen"):
        block = table[table["target"] == target]
        assert block["run"].tolist() == ["dcnv1", "imagenet_cls", "coco"]
        assert block["n"].tolist() == [0, 0, 1]
    assert len(table) == 7


def test_published_quality_stands_beside_its_own_pretraining_alone() -> None:
    """Not beside its twin, which is a target on the same data set."""
    runs = [made(name, 0, 40.0, target=name) for name in ("coco", "coco_again")]
    table = join_published(summarise(runs, ["mAP@0.5"]), PUBLISHED).set_index("run")
    assert table.loc["coco", ["target", "published", "n"]].tolist() == ["coco", 86.8, 1]
    assert table.loc["coco_again", "n"] == 1 and pd.isna(table.loc["coco_again", "published"])
    assert pd.isna(table.loc["imagenet_cls", "target"]) and len(table) == 4


def test_published_numbers_on_another_data_set_have_no_target() -> None:
    table = join_published(summarise([made("coco", 0, 40.0, "cats")], ["mAP@0.5"]), PUBLISHED)
    paper, ours = table[table["dataset"] == "voc"], table[table["dataset"] == "cats"]
    assert paper["target"].isna().all() and (paper["n"] == 0).all() and len(paper) == 3
    assert ours["run"].tolist() == ["coco"] and ours["published"].isna().all()


def test_the_papers_numbers_stand_beside_ours() -> None:
    runs = [made("coco", 0, 86.0), made("coco", 1, 88.0), made("random", 0, 50.0)]
    table = join_published(summarise(runs, ["mAP@0.5"]), PUBLISHED).set_index("run")
    coco = table.loc["coco"]
    assert (coco["mean"], coco["published"], coco["measured_by"]) == (87.0, 86.8, "authors")
    assert coco["difference"] == pytest.approx(0.2)
    assert pd.isna(table.loc["random", ["published", "measured_by", "difference"]]).all()
    for absent, source in (("dcnv1", "cited"), ("imagenet_cls", "authors")):
        row = table.loc[absent]
        assert (row["n"], row["measured_by"], row["unit"]) == (0, source, "%")
        assert pd.isna(row[["mean", "std", "images", "floor", "difference"]]).all()
    assert (table["metric"] == "mAP@0.5").all()  # what is not asked for is not in the table


def test_rows_follow_the_paper_then_the_random_start_then_other_names() -> None:
    names = ["zebra", "random", "coco", "apple", "imagenet_cls"]
    expected = ["dcnv1", "imagenet_cls", "coco", "random", "apple", "zebra"]
    for order in list(itertools.permutations(names))[::17]:
        runs = [made(name, 0, 1.0) for name in order]
        table = join_published(summarise(runs, ["mAP@0.7", "mAP@0.5"]), PUBLISHED)
        assert table[table["metric"] == "mAP@0.5"]["run"].tolist() == expected
        coco = table[table["run"] == "coco"]
        assert coco["metric"].tolist() == ["mAP@0.7", "mAP@0.5"]


def test_data_sets_follow_the_paper_too() -> None:
    published = pd.DataFrame(
        [["b", "coco", "mAP@0.5", 1.0, "authors"], ["a", "coco", "mAP@0.5", 2.0, "authors"]],
        columns=PUBLISHED.columns,
    )
    runs = [made("coco", 0, 1.0, dataset=name) for name in ("a", "0", "b")]
    table = join_published(summarise(runs, ["mAP@0.5"]), published)
    assert table["dataset"].tolist() == ["b", "a", "0"]


def test_a_share_never_stands_beside_a_percentage() -> None:
    summary = summarise([made("coco", 0, 0.87, unit="1")], ["mAP@0.5"])
    with pytest.raises(InputError, match=r"voc/coco: mAP@0\.5 is in '1', .* in '%'"):
        join_published(summary, PUBLISHED)
