from __future__ import annotations

from pathlib import Path
from typing import Any

from detransfer.report.metrics import Metric, RunMetrics, RunName, write_metrics
from detransfer.report.runs import Run, anchor, read_runs, targets

TASKS = ("detection", "probe", "pretraining", "absent")
FOLDERS = {"detection": "detection", "probe/conv5": "probe", "pretraining": "pretraining"}


def write(results: Path, task: str, target: str, pretraining: str, seed: int) -> None:
    folder = results / FOLDERS[task] / target / pretraining / f"seed{seed}"
    run = RunName(task, target, target, pretraining, seed)
    metrics = (Metric("x", 1.0, "%", 5),)
    fit = {"seconds": 3.5, "training_score": 90.0} if task == "detection" else {}
    write_metrics(folder / "metrics.json", RunMetrics(run, metrics, fit, {}, {"device": "cpu"}))


def log(results: Path, *places: str) -> None:
    for place in places:
        path = results / "logs" / f"{place}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_each_run_has_its_own_logs(tmp_path: Path) -> None:
    for seed in (1, 0):
        write(tmp_path, "detection", "voc", "coco", seed)
    write(tmp_path, "probe/conv5", "voc", "coco", 0)
    write(tmp_path, "pretraining", "coco", "coco", 0)
    write(tmp_path / "controls/other_world", "detection", "voc", "coco", 0)
    log(tmp_path, "detect/voc/coco/seed0", "finetune/voc/coco/seed0", "finetune/voc/coco/seed1",
        "probe/voc/coco/seed0", "pretrain/coco", "table2", "extract/voc")  # fmt: skip
    runs = read_runs(tmp_path, TASKS, tmp_path / "logs")
    found = {(str(run.metrics.run)): [file.as_posix() for file in run.logs] for run in runs}
    assert found == {
        "pretraining/coco/coco/seed0": ["logs/pretrain/coco.log"],
        "detection/voc/coco/seed0": [
            "logs/detect/voc/coco/seed0.log",
            "logs/finetune/voc/coco/seed0.log",
        ],
        "detection/voc/coco/seed1": ["logs/finetune/voc/coco/seed1.log"],
        "probe/conv5/voc/coco/seed0": ["logs/probe/voc/coco/seed0.log"],
    }
    assert list(found) == [str(run.metrics.run) for run in runs]
    detection = runs[1]
    assert (detection.seconds, detection.training_score) == (3.5, 90.0)
    assert (runs[0].seconds, runs[0].training_score) == (None, None)
    assert detection.path.as_posix() == "detection/voc/coco/seed0/metrics.json"
    assert list(targets(runs)) == ["coco", "voc"] and len(targets(runs)["voc"]) == 3


def test_seeds_share_a_place_and_other_runs_do_not(tmp_path: Path) -> None:
    for seed in (0, 1):
        write(tmp_path, "detection", "voc", "coco", seed)
    write(tmp_path, "probe/conv5", "voc", "coco", 0)
    places = [run.anchor for run in read_runs(tmp_path, TASKS, tmp_path / "logs")]
    assert places[0] == places[1] != places[2]
    assert anchor("probe/conv5", "my set", "a") == "run-probe-conv5-my-set-a"


def run_of(task: str, comparability: dict[str, Any]) -> Run:
    name = RunName(task, "voc", "voc", "coco", 0)
    origin: dict[str, Any] = {
        f"{what}_digest": f"network's {what}" for what in ("model", "recipe", "data", "start")
    }
    return Run(RunMetrics(name, (), {}, comparability, origin), Path("x/metrics.json"), ())


def test_a_run_on_a_frozen_network_has_its_own_recipe_and_data() -> None:
    own = {"recipe": "own", "training_data": "learnt", "evaluation_data": "seen"}
    seen = {"recipe": "own", "evaluation_data": "seen"}
    origins = [
        (run.recipe, run.data, run.start)
        for run in (
            run_of("detection", own),
            run_of("pretraining", seen),
            run_of("probe/head/fc1", own),
            run_of("visualization", seen),
        )
    ]
    trained = ("network's recipe", "network's data", "network's start")
    assert origins[:2] == [trained, trained]
    assert origins[2:] == [("own", "learnt", "network's model"), ("own", "seen", "network's model")]


def test_no_results_have_no_runs(tmp_path: Path) -> None:
    assert read_runs(tmp_path / "absent", TASKS, tmp_path / "absent/logs") == []


def test_runs_of_a_control_stand_apart_with_their_own_logs(tmp_path: Path) -> None:
    write(tmp_path, "probe/conv5", "voc", "coco", 0)
    write(tmp_path, "detection", "voc", "coco", 0)
    for control, task in (("shuffled_probe", "probe/conv5"), ("shuffled_finetuning", "detection")):
        write(tmp_path / "made", task, "voc", "coco", 0)
        (tmp_path / "controls").mkdir(exist_ok=True)
        (tmp_path / "made" / FOLDERS[task]).rename(tmp_path / "controls" / control)
    log(tmp_path, *(f"{rule}/voc/coco/seed0" for rule in
                    ("probe", "probe_shuffled", "detect", "finetune_shuffled")))  # fmt: skip
    own = read_runs(tmp_path, TASKS, tmp_path / "logs")
    places = ("controls/shuffled_probe", "controls/shuffled_finetuning")
    made = read_runs(tmp_path, places, tmp_path / "logs")
    groups = targets([*own, *made])
    assert {
        name: [[file.parts[1] for file in run.logs] for run in runs]
        for name, runs in groups.items()
    } == {
        "voc": [["detect"], ["probe"]],
        "shuffled_finetuning": [["finetune_shuffled"]],
        "shuffled_probe": [["probe_shuffled"]],
    }
    assert len({run.anchor for run in [*own, *made]}) == 4
