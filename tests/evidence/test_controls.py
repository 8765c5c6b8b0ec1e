"""Controls hold where they should, and fail where a fault is planted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from detransfer.console import InputError
from detransfer.evidence.controls import (
    most_by_chance,
    rehearsal_rows,
    rival_rows,
    rivalries,
    rivals,
    shuffled_rows,
    untrained_fits,
    untrained_rows,
)
from detransfer.evidence.worlds import blank_rows, dial_points, dial_rows, world_rows
from detransfer.report.bootstrap import Scores
from detransfer.report.claims import Design, Target, ledger
from detransfer.report.controls import (
    COLUMNS,
    line,
    not_run,
    one_run,
    read_controls,
    several_runs,
    verdicts,
)
from detransfer.report.metrics import Metric, RunMetrics, RunName, write_metrics
from detransfer.report.statements import STATEMENTS
from detransfer.report.tables import write_table

DESIGN = Design({"coco": "cls"}, {}, frozenset({"random"}))


def flat(*values: float) -> dict[int, Scores]:
    return {seed: Scores(np.asarray(v), np.full(1000, v)) for seed, v in enumerate(values)}


def target(random: float) -> Target:
    scores = {"random": flat(random, random + 1), "cls": flat(60, 60.2), "coco": flat(66, 66.2)}
    return Target("voc", "voc_detection", 300, {"mAP@0.5": scores})


@pytest.mark.parametrize(("random", "holds"), [(5, "yes"), (60, "yes"), (64, "no")])
def test_untrained_features_are_worst_or_level(random: float, holds: str) -> None:
    (row,) = untrained_rows(target(random), DESIGN)
    assert row["holds"] == holds and "random less cls" in str(row["quantity"])


def metrics(task: str, pretraining: str, score: float, value: float = 50.0) -> RunMetrics:
    name = RunName(task, "caltech", "caltech256", pretraining, 0)
    found = (Metric("top1", value, "%", 400, 8.0), Metric("mAP@0.5", value, "%", 400))
    fit = {"training_score": score / 2, "best_training_score": score}
    return RunMetrics(name, found, fit, {}, {})


def test_the_probe_of_untrained_features_must_fit() -> None:
    runs = [metrics("probe/conv5", "random", 80.0), metrics("probe/conv5", "cls", 10.0)]
    (row,) = untrained_fits(runs, DESIGN)
    assert row["holds"] == "yes"
    (row,) = untrained_fits([metrics("probe/conv5", "random", 20.0)], DESIGN)
    assert row["holds"] == "no"


def test_rivals_that_differ_by_more_than_seeds_do_are_noticed() -> None:
    """Where one pre-training's seeds lie far apart, they come out as rivals."""
    close = {name: flat(60, 60.2, 60.1) for name in ("cls", "coco", "other", "another")}
    table = {f"mAP@0.{tenth}": close for tenth in (1, 2, 3, 4, 5, 6, 7, 8, 9)}
    alike = Target("voc", "voc_detection", 300, table)
    (row,) = rival_rows(alike, DESIGN, STATEMENTS)
    assert row["value"] == 0 and row["holds"] == "yes"
    # Four of 16 pairs come out: more than chance makes of five in a hundred.
    close = {name: flat(60, 60.2, 60.1, 60.2, 60) for name in close}
    far = {**close, "coco": flat(60, 66, 60, 66, 60)}
    (row,) = rival_rows(Target("voc", "d", 9, {"mAP@0.5": far}), DESIGN, STATEMENTS)
    assert row["holds"] == "no" and row["value"] == 25


def test_rivals_are_held_against_how_far_the_others_seeds_vary() -> None:
    """Two seeds are enough: their difference is no part of its own yardstick."""
    scores = {name: flat(60, 60.2) for name in ("cls", "other", "another")}
    apart = {**scores, "coco": flat(60, 70)}
    found = [each.low > 0 or each.high < 0 for each in rivals(apart, DESIGN)]
    assert found == [False, False, False, True]
    assert list(rivals({"coco": flat(60, 70)}, DESIGN)) == []


def test_what_chance_makes_of_so_many_rivals() -> None:
    assert [most_by_chance(n) for n in (1, 5, 10, 20)] == [100, 20, 20, 15]
    assert most_by_chance(1000) == pytest.approx(6.4)


def test_of_a_single_seed_no_rivals_are_run_and_nothing_is_said() -> None:
    scores = {"mAP@0.5": {"cls": flat(60), "coco": flat(66)}}
    given = Target("voc", "voc_detection", 300, scores)
    (row,) = rivalries([given], DESIGN, STATEMENTS)
    assert (row["control"], row["holds"]) == ("a_against_a", "not run")
    assert "--config seeds=[0,1]" in str(row["detail"])
    assert verdicts(pd.DataFrame([row], columns=COLUMNS)) == []
    rehearsed = line("a_against_a", "", "invented studies", 4.0, "at most 5 %", True)
    controls = verdicts(pd.DataFrame([rehearsed, row], columns=COLUMNS))
    claims = ledger(STATEMENTS, [given], DESIGN, {}, controls).set_index("claim")
    assert claims.loc["map50", "controls_held"] == "a_against_a"
    assert "a_against_a" not in claims.loc["map50", "controls_not_run"]
    assert claims.loc["map50", "controls_failed"] == ""
    twice = replace(given, scores={"mAP@0.5": {"cls": flat(60, 60.1), "coco": flat(66, 66.1)}})
    (row,) = rivalries([given, twice], DESIGN, STATEMENTS)  # one target's are enough
    assert row["holds"] == "yes"


def test_rivals_are_pairs_of_seeds_and_each_pair_of_twins_once() -> None:
    scores = {"cls": flat(60, 60.2), "coco": flat(66, 66.3), "again": flat(67), "third": flat(69)}
    two = replace(DESIGN, twins={"coco": "again", "again": "coco"})
    three = replace(DESIGN, twins={"coco": "again", "again": "third", "third": "coco"})
    absent = replace(DESIGN, twins={"coco": "elsewhere", "elsewhere": "coco"})

    def found(design: Design) -> list[float]:
        return sorted(round(abs(each.value), 3) for each in rivals(scores, design))

    assert found(DESIGN) == found(absent) == [0.2, 0.3]
    assert found(two) == [0.2, 0.3, 0.85] and found(three) == [0.2, 0.3, 0.85, 2, 2.85]


def test_rehearsals_find_nothing_in_nothing_and_what_was_planted() -> None:
    rows = list(rehearsal_rows())
    assert [row["control"] for row in rows] == ["a_against_a", "planted", "planted"]
    assert all(row["holds"] == "yes" for row in rows)


def answers(right: float, seed: int, classes: int = 10, images: int = 400) -> np.ndarray:
    """Return answers (2, n): of so large a share of images the true class, else any."""
    rng = np.random.default_rng(seed)
    truth = np.arange(images) % classes
    return np.stack([truth, np.where(rng.random(images) < right, truth, rng.permutation(truth))])


def test_an_accuracy_of_chance_and_one_above() -> None:
    found = one_run(tuple(answers(0.0, 0)))
    assert found.as_chance and found.chance == pytest.approx(10, abs=0.5)
    assert not one_run(tuple(answers(0.3, 0))).no_better
    better = several_runs([tuple(answers(0.1, seed)) for seed in range(5)])
    assert not better.as_chance and better.low < better.value < better.high
    assert several_runs([tuple(answers(0.0, seed)) for seed in range(5)]).as_chance


def write_run(folder: Path, found: RunMetrics, table: np.ndarray) -> Path:
    write_metrics(folder / "metrics.json", found)
    frame = pd.DataFrame(table.T, columns=["class_id", "predicted"])
    frame.to_parquet(folder / "predictions.parquet", index=False)
    return folder


def test_a_single_draw_of_permuted_labels_is_none(tmp_path: Path) -> None:
    """As an interrupted `make controls` leaves it: it makes no claim invalid."""
    folder = write_run(tmp_path, metrics("probe/conv5", "cls", 80.0), answers(0.3, 0))
    (row,) = shuffled_rows("shuffled_probe", [folder])
    assert (row["target"], row["holds"]) == ("caltech", "not run")
    assert verdicts(pd.DataFrame([row], columns=COLUMNS)) == []


@pytest.mark.parametrize(("right", "holds"), [(0.0, "yes"), (0.2, "no")])
def test_permuted_labels(tmp_path: Path, right: float, holds: str) -> None:
    folders = [
        write_run(tmp_path / str(seed), metrics("probe/conv5", "cls", 80.0), answers(right, seed))
        for seed in range(4)
    ]
    (row,) = shuffled_rows("shuffled_probe", folders)
    assert (row["control"], row["target"], row["holds"]) == ("shuffled_probe", "caltech", holds)
    assert "training top-1 40.0 %" in str(row["detail"])


def test_where_there_is_nothing_to_see(tmp_path: Path) -> None:
    blind = write_run(tmp_path / "a", metrics("classification", "cls", 9.0), answers(0.0, 1))
    seeing = write_run(tmp_path / "b", metrics("classification", "cls", 9.0), answers(0.3, 1))
    found = write_run(tmp_path / "c", metrics("detection", "cls", 9.0, 1.5), answers(0.0, 1))
    more = write_run(tmp_path / "d", metrics("detection", "cls", 9.0, 12.0), answers(0.0, 1))
    rows = list(blank_rows([blind, seeing, found, more]))
    assert [row["holds"] for row in rows] == ["yes", "no", "yes", "no"]
    assert {row["control"] for row in rows} == {"destroyed"}


@pytest.mark.parametrize(("values", "holds"), [((8, 20, 60), "yes"), ((40, 20, 60), "no")])
def test_the_dial_must_fall(tmp_path: Path, values: tuple[float, ...], holds: str) -> None:
    points = {"contrast": (0, 0.5, 1), "value": values}
    table = pd.DataFrame({**points, "target": "c", "run": "cls", "floor": 8.0, "images": 400})
    table.to_csv(tmp_path / "dial.csv", index=False)
    falls, ends = dial_rows(tmp_path / "dial.csv")
    assert falls["holds"] == holds and ends["holds"] == holds


def point(folder: Path, contrast: float, **comparability: str) -> tuple[float, Path]:
    given = replace(metrics("probe/conv5", "cls", 90.0), comparability=comparability)
    write_metrics(folder / f"{contrast}" / "metrics.json", given)
    return contrast, folder / f"{contrast}"


def test_points_of_the_dial_differ_in_their_images_alone(tmp_path: Path) -> None:
    own = point(tmp_path, 1.0, recipe="r", evaluation_data="a", training_data="b")
    faint = point(tmp_path, 0.5, recipe="r", evaluation_data="c", training_data="d")
    assert dial_points([faint, own])["contrast"].tolist() == [0.5, 1.0]
    older = point(tmp_path, 0.25, recipe="older", evaluation_data="e", training_data="f")
    with pytest.raises(InputError) as caught:
        dial_points([older, faint, own])
    for words in (
        f"{older[1]}: ",
        "contrast 0.25",
        "differ in recipe",
        "run `make controls` again",
    ):
        assert words in str(caught.value)


def test_other_worlds_are_reported_whatever_comes_out(tmp_path: Path) -> None:
    claims = pd.DataFrame(
        {
            "claim": ["map50", "miou", "map70", "masking_drop"],
            "quantity": "gain",
            "target": "voc",
            "run": "coco",
            "baseline": "cls",
            "effect": [3.0, 4.0, np.nan, -2.0],
            "low": 1.0,
            "high": 5.0,
            "verdict": "reproduced",
        }
    )
    claims.to_csv(tmp_path / "claims.csv", index=False)
    rows = list(world_rows("part_only", tmp_path / "claims.csv"))
    assert [(row["value"], row["holds"], row["detail"]) for row in rows] == [
        (3.0, "printed", "reproduced"),
        (-2.0, "printed", "reproduced"),
    ]


def test_lines_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = [
        line("oracle", "voc", "mAP", 100.0, "100 %", True),
        line("floors", "voc", "mAP of a box", 1.0),
        line("leaks", "", "top-1", 30.0, "chance", False),
        not_run("dial", "falls", "make controls"),
    ]
    write_table(tmp_path / "controls.csv", pd.DataFrame(rows, columns=COLUMNS))
    found = verdicts(read_controls(tmp_path / "controls.csv"))
    assert [(c.name, c.target, c.holds) for c in found] == [
        ("oracle", "voc", True),
        ("leaks", "", False),
    ]
