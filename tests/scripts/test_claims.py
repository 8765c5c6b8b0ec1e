"""The program that tests the claims, on made-up classifiers: one better than the other, or none."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from detransfer.data.index import Index, empty_objects, write_index
from detransfer.report.metrics import Metric, RunMetrics, RunName, write_metrics
from detransfer.report.statements import STATEMENTS

IMAGES = 400
SHARES = {"imagenet_cls": 0.9, "coco": 0.6, "coco_labels": 0.75, "random": 0.2}


def write_target(folder: Path) -> Path:
    images = pd.DataFrame(
        {"image_id": range(IMAGES), "path": "a", "width": 9, "height": 9, "split": "test"}
    )
    images["class_id"] = np.arange(IMAGES) % 4
    names = pd.DataFrame({"class_id": range(4), "name": list("abcd")})
    names = names.assign(source_id="", superclass="")
    write_index(folder / "index", Index(images, empty_objects(), names, folder))
    return folder / "index"


def write_run(folder: Path, task: str, pretraining: str, seed: int, training: float) -> Path:
    """Write a run that is right on a share of the images, those that are easy."""
    rng = np.random.default_rng((seed, len(pretraining), len(task)))
    easy = np.random.default_rng(0).permutation(IMAGES) / IMAGES
    right = easy + rng.normal(0, 0.02, IMAGES) < SHARES[pretraining]
    truth = np.arange(IMAGES) % 4
    path = folder / task / pretraining / str(seed)
    metrics = (Metric("top1", 100 * right.mean(), "%", IMAGES, 25.0, 100.0),)
    name = RunName(task, "caltech256", "caltech256", pretraining, seed)
    fit = {"training_score": training, "best_training_score": training}
    write_metrics(path / "metrics.json", RunMetrics(name, metrics, fit, {"recipe": "r"}, {}))
    table = {"image_id": range(IMAGES), "class_id": truth}
    answers = pd.DataFrame({**table, "predicted": np.where(right, truth, (truth + 1) % 4)})
    answers.to_parquet(path / "predictions.parquet", index=False)
    return path


@pytest.fixture(scope="module")
def tables(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Claims and controls of a study of two seeds, a control and a pre-training of which fail."""
    folder = tmp_path_factory.mktemp("study")
    index = write_target(folder)
    runs = [
        write_run(folder, task, name, seed, 95.0)
        for task in ("classification", "probe/conv5")
        for name in SHARES
        for seed in (0, 1)
    ]
    shuffled = [write_run(folder / "s", "probe/conv5", "coco", seed, 40.0) for seed in (0, 1, 2)]
    words = [*map(str, runs), "--index", "caltech256", str(index), "test"]
    words += ["--start", "coco", "imagenet_cls", "--matched", "coco", "coco_labels"]
    fits = {"imagenet_cls": 80.0, "coco": 5.0}
    for name, score in fits.items():
        (folder / f"{name}.json").write_text(json.dumps({"training_score": score}))
        words += ["--pretraining", name, str(folder / f"{name}.json")]
    words += ["--untrained", "random", "--published", str(repository / "config/published")]
    words += [word for path in shuffled for word in ("--shuffled-probe", str(path))]
    words += ["--controls", str(folder / "controls.csv"), "--output", str(folder / "claims.csv")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["claims.py", *words])
        runpy.run_path(str(repository / "scripts/claims.py"), run_name="program")["main"]()
    return pd.read_csv(folder / "claims.csv"), pd.read_csv(folder / "controls.csv")


def test_every_statement_has_a_row(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    claims, _ = tables
    assert list(dict.fromkeys(claims["claim"])) == [statement.id for statement in STATEMENTS]
    tested = claims.set_index("claim")
    assert (tested.loc["map50", "verdict"], tested.loc["map50", "published"]) == ("not run", 2.2)
    row = tested.loc["finetuned_top1"]
    assert (row["verdict"], row["matched_verdict"]) == ("reproduced", "reproduced")
    assert row["effect"] == pytest.approx(-30, abs=3) and row["published"] == pytest.approx(-6.5)
    assert row["matched_effect"] == pytest.approx(-15, abs=3)
    assert row["low"] < row["effect"] < row["high"] < 0 and row["seeds"] == 2


def test_a_control_that_fails_makes_its_claims_invalid(
    tables: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    claims, controls = tables
    failed = controls[controls["holds"] == "no"]
    assert failed["control"].tolist() == ["shuffled_probe"]  # which answered much too well
    row = claims.set_index("claim").loc["frozen_top1"]
    reason = "control shuffled_probe fails; coco: a training did not fit"  # that of coco itself
    assert (row["verdict"], row["reason"]) == ("invalid", reason)
    assert "random" in row["controls_held"] and "dial" in row["controls_not_run"]
    absent = set(controls.loc[controls["holds"] == "not run", "control"])
    assert absent >= {"dial", "destroyed", "shuffled_finetuning", "oracle"}
