"""What scripts/plan.py makes of a dry run, of published speeds, and of runs that have finished."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from detransfer.dry_run import Job, read_jobs, wall_time

TRAIN = """rule finetune_classifier:
    input: data/index/{dataset}/images.parquet, data/{dataset}, {start}
    output: results/classification/{dataset}/{start}/seed{seed}/model.safetensors, \
results/classification/{dataset}/{start}/seed{seed}/fit.json
    log: x.log
    jobid: 3
    benchmark: results/benchmarks/finetune_classifier/{dataset}/{start}/seed{seed}.tsv
    reason: Missing output files: a, b
    wildcards: target={dataset}, pretraining={start}, seed={seed}
    threads: 8
    resources: tmpdir=<TBD>, gpu=1, mem_mb=48000
Shell command: python scripts/with_gpus.py --gpus 1 -- python scripts/train_classifier.py --index \
data/index/{dataset} --splits train extra --recipe recipe.yaml --state state/x --output y
"""
FETCH = """localrule fetch:
    output: data/archives/{archive}
    jobid: 1
    resources: tmpdir=<TBD>, mem_mb=8000
Shell command: python scripts/fetch.py --archive {archive} --output data/archives/{archive}  \
 --manual data/manual 2> log
"""
TABLE = """localrule table5:
    input: results/classification/birds/random/seed0/model.safetensors
    output: results/table5.csv
    jobid: 0
    resources: tmpdir=<TBD>
Shell command: None
"""
RATES = {
    "finetune_classifier": {"unit": "trained", "per_second": 100, "source": "a paper"},
    "fetch": {"unit": "bytes", "per_second": 1e6, "source": "a guess"},
    "other": {"unit": "jobs", "per_second": 0.1, "source": "another guess"},
}


@pytest.fixture
def plan(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The functions of the program, in a folder with a recipe and an index of 300 images."""
    found = runpy.run_path(str(repository / "scripts/plan.py"))
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text("training: {epochs: 10}\n")
    Path("data/index/birds").mkdir(parents=True)
    splits = ["train"] * 200 + ["extra"] * 50 + ["test"] * 50
    pd.DataFrame({"split": splits}).to_parquet("data/index/birds/images.parquet")
    return found


def jobs(*blocks: str) -> list[Job]:
    return read_jobs("\n\n".join(["Building DAG", *blocks, "Job stats:\n"]))


def cost(plan: dict[str, Any], block: str, faster: float = 1.0, official: bool = True) -> Any:
    rates = {name: plan["Rate"](**rate) for name, rate in RATES.items()}
    (job,) = jobs(block)
    return plan["cost"](job, rates, plan["Sizes"](official), faster)


def train(dataset: str = "birds", start: str = "random", seed: int = 0) -> str:
    return TRAIN.format(dataset=dataset, start=start, seed=seed)


def finish(folder: str, seconds: float) -> None:
    Path(folder).mkdir(parents=True)
    (Path(folder) / "fit.json").write_text(json.dumps({"seconds": seconds}))


def test_a_dry_run_is_read() -> None:
    training, table = jobs(train(), TABLE)
    assert (training.rule, training.gpus, training.threads) == ("finetune_classifier", 1, 8)
    assert training.outputs[0].endswith("random/seed0/model.safetensors")
    assert training.options("--splits") == ["train", "extra"]
    assert (table.rule, table.gpus, table.threads) == ("table5", 0, 1)


def test_stated_speeds_count_what_is_there(plan: dict[str, Any]) -> None:
    found = cost(plan, train())  # 250 images to train on, ten times, 100 a second
    assert found.seconds == pytest.approx(25) and not found.measured and found.source == "a paper"
    assert cost(plan, train(), faster=5).seconds == pytest.approx(5)
    assert cost(plan, TABLE).seconds == pytest.approx(10)


def test_what_is_not_here_is_counted_as_published_or_unknown(plan: dict[str, Any]) -> None:
    """Table 1 of the paper: 15.4 thousand training images of Caltech-256."""
    assert cost(plan, train("caltech256")).seconds == pytest.approx(15_400 * 10 / 100)
    assert cost(plan, train("caltech256"), official=False).seconds is None  # another world's
    assert cost(plan, train("fishes")).seconds is None


def test_finished_runs_of_the_target_take_the_place_of_what_is_stated(plan: dict[str, Any]) -> None:
    finish("results/classification/fishes/random/seed0", 9999)  # of another target: says nothing
    assert cost(plan, train()).seconds == pytest.approx(25)
    finish("results/classification/birds/coco/seed0", 70)
    finish("results/classification/birds/coco/seed1", 90)
    found = cost(plan, train())
    assert found.seconds == pytest.approx(80) and found.measured
    finish("results/classification/birds/random/seed2", 30)  # the same start comes first
    assert cost(plan, train()).seconds == pytest.approx(30)
    assert cost(plan, train(), faster=5).seconds == pytest.approx(30)


def test_wall_time_is_that_of_a_schedule_by_hand(plan: dict[str, Any]) -> None:
    """Three trainings of 25 s, and a table of 10 s that waits for the first."""
    blocks = [train(seed=0), train(seed=1), train(seed=2), TABLE]
    found = jobs(*blocks)
    costs = [cost(plan, block).seconds for block in blocks]
    assert wall_time(found, costs, 3, 64) == pytest.approx(35)
    assert wall_time(found, costs, 2, 64) == pytest.approx(50)  # the table beside the third
    assert wall_time(found, costs, 1, 64) == pytest.approx(75)
    assert wall_time(found, costs, 8, 8) == pytest.approx(
        85
    )  # eight cores each: nothing side by side
    assert wall_time(found, costs, 0, 1) == pytest.approx(
        85
    )  # what can never run is not waited for


def test_downloads_name_what_needs_a_person_and_what_has_no_size(plan: dict[str, Any]) -> None:
    found = jobs(
        FETCH.format(archive="ILSVRC2012_img_val.tar"),
        FETCH.format(archive="words.txt"),
        FETCH.format(archive="VOCtest_06-Nov-2007.tar"),
    )
    total, notes = plan["downloads"](found, plan["Sizes"](True))
    assert total > 6_744_924_160 and len(notes) == 2
    assert notes[0].startswith("ILSVRC2012_img_val.tar: needs a login, get it from https://image")
    assert notes[0].endswith("put it at data/manual/ILSVRC2012_img_val.tar")
    assert notes[1].startswith("words.txt: size not published")
    Path("data/manual").mkdir()
    Path("data/manual/ILSVRC2012_img_val.tar").touch()
    assert len(plan["downloads"](found, plan["Sizes"](True))[1]) == 1


def test_a_disk_that_is_too_small_is_said(plan: dict[str, Any], tmp_path: Path) -> None:
    (line,) = plan["by_disk"]({tmp_path: 1e18, Path(): 1e6}, {})  # both on one disk
    assert "NOT ENOUGH" in line and "needed 1000000.0 TB" in line
    (line,) = plan["by_disk"]({tmp_path: 1.0}, {})
    assert line.endswith("enough")


EXTRACT = """rule extract:
    input: data/archives/{archive}, data/archives/words.txt
    output: data/{archive}.unpacked
    jobid: 2
    resources: tmpdir=<TBD>, mem_mb=8000
Shell command: python scripts/extract.py --output data/{archive}.unpacked
"""


def test_no_disk_is_enough_for_archives_without_a_size(plan: dict[str, Any]) -> None:
    known = "VOCtest_06-Nov-2007.tar"
    blocks = [FETCH.format(archive=name) for name in (known, "words.txt")]
    blocks.append(EXTRACT.format(archive=known))
    found, sizes = jobs(*blocks), plan["Sizes"](True)
    costs = [cost(plan, block) for block in blocks]
    assert [each.seconds is None for each in costs] == [False, True, False]
    first, line = plan["disk"](found, costs, 0, sizes.bytes(found[0]), sizes)
    size = sizes.archives[known].size
    assert size > 4e8
    assert f"to download: at least {size / 1e6:.1f} MB, without 1 archive of unknown size;" in first
    # Fetched and unpacked: what is known counts twice, the one that is not known once.
    assert f"needed at least {2 * size / 1e6:.1f} MB, without 1 archive of unknown size" in line
    verdict = line.rpartition(": ")[2]
    assert verdict.endswith(" are left for those") and "enough" not in verdict
    (line,) = plan["by_disk"]({Path(): 1e18}, {Path(): {"a", "b"}})
    assert "without 2 archives of unknown size" in line and "NOT ENOUGH" in line
    (line,) = plan["by_disk"]({Path(): 1e18}, {})
    assert "at least" not in line


def test_each_training_leaves_a_checkpoint_on_the_disk(plan: dict[str, Any]) -> None:
    """Weights of 100 MB, with momentum 200, with the moments of AdamW 300; two more at once."""
    rate = plan["Rate"](**{**RATES["finetune_classifier"], "megabytes": 100})
    rates = {"finetune_classifier": rate, "other": plan["Rate"](**RATES["other"])}
    blocks = [train(seed=0), train(seed=1), TABLE]
    found = jobs(*blocks)
    costs = [plan["cost"](job, rates, plan["Sizes"](True), 1.0) for job in found]

    def needed(gpus: int) -> str:
        return str(plan["disk"](found, costs, gpus, 0.0, plan["Sizes"](True))[1])

    assert "needed 1.0 GB" in needed(1)  # 2 x 100, and 2 x 200 + 2 x 200
    assert "needed 1.4 GB" in needed(2)
    Path("recipe.yaml").write_text("training: {epochs: 10, optimizer: adamw}\n")
    assert "needed 1.4 GB" in needed(1)  # 2 x 100, and 2 x 300 + 2 x 300


def test_the_stated_speeds_are_those_of_rules_that_exist(repository: Path) -> None:
    """A misspelt rule would be reckoned with `other` in silence."""

    text = "".join(file.read_text() for file in (repository / "workflow/rules").glob("*.smk"))
    rules = set(re.findall(r"^ *rule (\w+):", text, re.M)) | set(
        re.findall(r" as (\w+) with:", text)
    )
    stated = set(yaml.safe_load((repository / "config/rates.yaml").read_text())["rules"])
    assert stated - {"other"} <= rules and "other" in stated
