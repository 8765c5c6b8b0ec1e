"""A study on a real Slurm (tests/slurm/cluster.py), with all that happens to jobs on a cluster.

A little study is run on this machine first; then its trainings are done once more as jobs, and
while they run one is preempted, one is cancelled, one reaches its time limit, and the node's daemon
dies. The files are the same, to the bit.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.slurm import cluster
from tests.workflow.checkout import ENVIRONMENT, Checkout, copy_repository
from tests.workflow.tiny import write_little

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

SEEDS = [0, 1]
PRETRAININGS = ("random", "imagenet_cls")
WANTED = [
    f"results/tiny/classification/caltech256/{pretraining}/seed{seed}/metrics.json"
    for pretraining in PRETRAININGS
    for seed in SEEDS
]
EPOCHS = 150  # of a fine-tuning: long enough to be disturbed
FAULTS = {  # each training has one of its own
    ("random", 0): "preempted",
    ("random", 1): "cancelled",
    ("imagenet_cls", 0): "out of time",
    ("imagenet_cls", 1): "node daemon dead",
}
CONFIGURATION = ("--configfile", "config/tiny.yaml")
SLURM = ("--workflow-profile", "profiles/slurm", "--slurm-status-command", "squeue")
SLURM += ("--slurm-no-account", "--latency-wait", "5", "--seconds-between-status-checks", "3")
SLURM += ("--slurm-init-seconds-before-status-checks", "3", "--slurm-keep-successful-logs")


@dataclass
class Watch:
    """Looks at Slurm's jobs over and over while a study runs."""

    shared: list[str] = field(default_factory=list)  # devices that two jobs had at once
    most: int = 0  # devices in use at the same time
    done: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        running = [job for job in cluster.jobs() if job["JobState"] == "RUNNING"]
        used: dict[int, str] = {}
        for job in running:
            for device in cluster.devices(job):
                if device in used:
                    self.shared.append(f"GPU {device}: jobs {used[device]} and {job['JobId']}")
                used[device] = job["JobId"]
        self.most = max(self.most, len(used))

    def run(self) -> None:
        while not self.done.wait(0.5):
            self.look()


@dataclass(frozen=True)
class Outcome:
    """A study that was run on Slurm and disturbed."""

    checkout: Checkout
    before: dict[str, bytes]  # the files of the undisturbed run, by place
    code: int
    output: str
    watch: Watch
    disturbed: dict[str, str]  # what was done, and the number of the job it was done to


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[cluster.Cluster]:
    if reason := cluster.why_not():
        pytest.skip(reason)
    with cluster.run(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture(scope="module")
def study(
    slurm: cluster.Cluster, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Checkout:
    """The little study, run to its end on this machine, under the lease of pretended GPUs."""
    checkout = copy_repository(repository, tmp_path_factory.mktemp("study"))
    write_little(checkout.folder, SEEDS, {"gpu": 1, "mem_mb": 1500}, epochs=EPOCHS)
    fill_in(checkout.folder / "profiles/slurm/profile.yaml")
    words = (*CONFIGURATION, "--cores", "2", "--resources", f"gpu={cluster.DEVICES}", "--", *WANTED)
    lease = ("env", f"DETRANSFER_GPUS={cluster.DEVICES}", sys.executable, "-m", "snakemake")
    done = checkout.run(*lease, *words, timeout=300)
    assert done.code == 0, done.output
    return checkout


def fill_in(profile: Path) -> None:
    """Give the profile this cluster's GPU model, as it asks its user to; the partition fits."""
    text = profile.read_text()
    assert text.count("gpu_model: h100") == 1
    profile.write_text(text.replace("gpu_model: h100", f"gpu_model: {cluster.MODEL}"))


@pytest.fixture(scope="module")
def outcome(slurm: cluster.Cluster, study: Checkout) -> Outcome:
    """What became of the study when its trainings were lost and made anew on Slurm."""
    files = [study.folder / file for name in WANTED for file in made_in(Path(name).parent)]
    files += sorted((study.folder / "results/tiny/pretraining/imagenet_cls").iterdir())
    before = {str(file.relative_to(study.folder)): file.read_bytes() for file in files}
    for file in files:
        file.unlink()
    watch = Watch()
    watcher = threading.Thread(target=watch.run)
    watcher.start()
    said = (study.folder / "snakemake.out").open("w")
    words = (*CONFIGURATION, *SLURM, "--", *WANTED)
    running = subprocess.Popen(
        [sys.executable, "-m", "snakemake", *words],
        cwd=study.folder,
        env=ENVIRONMENT,
        stdout=said,
        stderr=subprocess.STDOUT,
    )
    try:
        disturbed = disturb(slurm, study.folder, running)
        running.wait(240)
    finally:
        running.kill()
        running.wait()
        watch.done.set()
        watcher.join()
    output = (study.folder / "snakemake.out").read_text()
    return Outcome(study, before, running.returncode, output, watch, disturbed)


def made_in(folder: Path) -> list[Path]:
    return [folder / name for name in ("model.safetensors", "fit.json", "metrics.json")]


def disturb(
    slurm: cluster.Cluster, folder: Path, running: subprocess.Popen[bytes]
) -> dict[str, str]:
    """Do each of FAULTS to a training of its own, once that is under way; return the jobs."""
    done: dict[str, str] = {}
    end = time.monotonic() + 240
    while len(done) < len(FAULTS) and running.poll() is None and time.monotonic() < end:
        for (pretraining, seed), fault in FAULTS.items():
            under_way = re.findall(r"step (\d+)/", read(folder / log_of(pretraining, seed)))
            job = training_job(pretraining, seed)
            if fault not in done and job and under_way:
                strike(slurm, fault, job)
                done[fault] = job
        time.sleep(0.3)
    return done


def strike(slurm: cluster.Cluster, fault: str, job: str) -> None:
    match fault:
        case "preempted":
            cluster.ask("scontrol", "requeue", job)
        case "cancelled":
            cluster.ask("scancel", job)
        case "out of time":
            cluster.ask("scontrol", "update", f"JobId={job}", "TimeLimit=1")
        case "node daemon dead":
            slurm.stop("slurmd", signal.SIGKILL)
            time.sleep(2)
            slurm.start_node()


def training_job(pretraining: str, seed: int) -> str | None:
    """Return the number of the running job that trains this run."""
    comment = f"rule_finetune_classifier_wildcards_caltech256_{pretraining}_{seed}"
    for job in cluster.jobs():
        if job["JobState"] == "RUNNING" and job.get("Comment") == comment:
            return job["JobId"]
    return None


def log_of(pretraining: str, seed: int) -> Path:
    return Path(f"results/tiny/logs/finetune_classifier/caltech256/{pretraining}/seed{seed}.log")


def read(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def test_the_study_finishes_with_the_same_bits(outcome: Outcome) -> None:
    assert outcome.code == 0, outcome.output[-5000:]
    assert set(outcome.disturbed) == set(FAULTS.values()), outcome.output[-5000:]
    for name, content in outcome.before.items():
        if name.endswith(".safetensors"):
            assert (outcome.checkout.folder / name).read_bytes() == content, name
    runs = [json.loads((outcome.checkout.folder / name).read_text())["metrics"] for name in WANTED]
    assert runs == [json.loads(outcome.before[name])["metrics"] for name in WANTED]


@pytest.mark.parametrize("fault", ["preempted", "cancelled", "out of time"])
def test_a_stopped_training_goes_on_from_the_state_it_saved(outcome: Outcome, fault: str) -> None:
    (place,) = [run for run, what in FAULTS.items() if what == fault]
    log = read(outcome.checkout.folder / log_of(*place))
    resumed = re.search(r"resuming after step (\d+)", log)
    assert resumed and int(resumed[1]) > 0, log


def test_a_preempted_job_keeps_its_number_and_a_failed_one_is_submitted_anew(
    outcome: Outcome,
) -> None:
    states = {job["JobId"]: job for job in cluster.jobs()}
    assert states[outcome.disturbed["preempted"]]["JobState"] == "COMPLETED"
    assert states[outcome.disturbed["preempted"]]["Restarts"] == "1"
    assert states[outcome.disturbed["cancelled"]]["JobState"] == "CANCELLED"
    assert states[outcome.disturbed["node daemon dead"]]["JobState"] == "COMPLETED"
    assert outcome.output.count("Trying to restart job") == 2  # cancelled, out of time


def test_no_device_had_two_jobs_at_a_time(outcome: Outcome) -> None:
    assert outcome.watch.shared == []
    assert outcome.watch.most >= 2  # or nothing has been shown


def test_jobs_ask_for_the_model_where_they_use_a_gpu(outcome: Outcome) -> None:
    asked = {job["Comment"]: job.get("TresPerJob", "") for job in cluster.jobs()}
    for comment, tres in asked.items():
        uses = "finetune" in comment or "rule_pretrain" in comment
        assert tres == (f"gres:gpu:{cluster.MODEL}:1" if uses else ""), comment
    assert "rule_export_backbone_wildcards_imagenet_cls" in asked
