"""A study on a real Slurm (tests/slurm/cluster.py), with all that happens to jobs on a cluster.

A little study is run on this machine first; then its trainings are done once more as jobs, and
while they run one is preempted, one is cancelled, one reaches its time limit, and the node's daemon
dies. The files are the same, to the bit.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.slurm import cluster
from tests.workflow.checkout import ENVIRONMENT, Checkout, copy_repository
from tests.workflow.tiny import write_little

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

PRETRAININGS = ("random", "imagenet_cls")
WANTED = [
    f"results/tiny/classification/caltech256/{name}/seed0/metrics.json" for name in PRETRAININGS
]
EPOCHS = 60  # of a fine-tuning: some twenty seconds on an idle core
SURVIVED = "node daemon dead"  # the one fault that stops no training
FAULTS = {  # of each training, one after the other
    "random": (SURVIVED, "preempted", "cancelled"),
    "imagenet_cls": ("out of time",),
}
CONFIGURATION = ("--configfile", "config/tiny.yaml")
SLURM = ("--workflow-profile", "profiles/slurm", "--slurm-status-command", "squeue")
SLURM += ("--slurm-no-account", "--latency-wait", "5", "--seconds-between-status-checks", "3")
SLURM += ("--slurm-init-seconds-before-status-checks", "3", "--slurm-keep-successful-logs")
NONE = f"gres:gpu:{cluster.MODEL}:0"
PATIENCE = 400  # seconds for either run


@dataclass
class Watch:
    """Looks at Slurm's jobs over and over while a study runs."""

    shared: list[str] = field(default_factory=list)  # devices that two jobs had at once
    most: int = 0  # devices in use at the same time

    def look(self) -> None:
        running = [job for job in cluster.jobs() if job["JobState"] == "RUNNING"]
        used: dict[int, str] = {}
        for job in running:
            for device in cluster.devices(job):
                if device in used:
                    self.shared.append(f"GPU {device}: jobs {used[device]} and {job['JobId']}")
                used[device] = job["JobId"]
        self.most = max(self.most, len(used))


@dataclass(frozen=True)
class Outcome:
    """A study that was run on Slurm and disturbed."""

    checkout: Checkout
    before: dict[str, bytes]  # the files of the undisturbed run, by place
    code: int
    output: str
    watch: Watch
    disturbed: dict[str, str]  # what was done, and the number of the job it was done to
    resumed: dict[str, int]  # what was done, and the step from which the training went on


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
    write_little(checkout.folder, [0], {"gpu": 1, "mem_mb": 1500}, epochs=EPOCHS)
    fill_in(checkout.folder / "profiles/slurm/profile.yaml")
    words = ("--cores", "2", "--resources", f"gpu={cluster.DEVICES}", "--", *WANTED)
    code, output = snakemake(checkout, *words)
    assert code == 0, output
    return checkout


def fill_in(profile: Path) -> None:
    """Give the profile this cluster's GPU model, as it asks its user to; the partition fits."""
    text = profile.read_text()
    assert text.count("gpu_model: h100") == 1
    profile.write_text(text.replace("gpu_model: h100", f"gpu_model: {cluster.MODEL}"))


def snakemake(
    checkout: Checkout,
    *words: str,
    meanwhile: Callable[[subprocess.Popen[bytes]], None] | None = None,
) -> tuple[int, str]:
    """Run Snakemake while something else happens; nothing that it started outlives this."""
    file = checkout.folder / "snakemake.out"
    with file.open("w") as said:
        running = subprocess.Popen(
            [sys.executable, "-m", "snakemake", *CONFIGURATION, *words],
            cwd=checkout.folder,
            env={**ENVIRONMENT, "DETRANSFER_GPUS": str(cluster.DEVICES)},
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        if meanwhile:
            meanwhile(running)
        running.wait(PATIENCE)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    return running.returncode, file.read_text()


@pytest.fixture(scope="module")
def outcome(slurm: cluster.Cluster, study: Checkout) -> Outcome:
    """What became of the study when its trainings were lost and made anew on Slurm."""
    places = [Path(name).parent for name in WANTED] + [
        Path("results/tiny/pretraining/imagenet_cls")
    ]
    files = [file for place in places for file in (study.folder / place).iterdir()]
    before = {str(file.relative_to(study.folder)): file.read_bytes() for file in files}
    for file in [*files, *(study.folder / log_of(name) for name in PRETRAININGS)]:
        file.unlink()
    shutil.rmtree(study.folder / "state")  # or no training would be made anew
    watch, disturbed, resumed = Watch(), {}, {}

    def meanwhile(running: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + PATIENCE
        while running.poll() is None and time.monotonic() < end:
            watch.look()
            for pretraining, faults in FAULTS.items():
                disturb(slurm, study.folder, pretraining, faults, disturbed, resumed)
            time.sleep(0.3)

    code, output = snakemake(study, *SLURM, "--", *WANTED, meanwhile=meanwhile)
    for pretraining, faults in FAULTS.items():
        note_resumption(study.folder, pretraining, faults, disturbed, resumed)
    return Outcome(study, before, code, output, watch, disturbed, resumed)


def disturb(
    slurm: cluster.Cluster,
    folder: Path,
    pretraining: str,
    faults: tuple[str, ...],
    disturbed: dict[str, str],
    resumed: dict[str, int],
) -> None:
    """Do the next fault to a training, once it is under way after the one before."""
    note_resumption(folder, pretraining, faults, disturbed, resumed)
    fault = next((each for each in faults if each not in disturbed), None)
    before = [each for each in faults if each in disturbed and each != SURVIVED]
    log = read(folder / log_of(pretraining))
    job = training_job(pretraining)
    if fault and job and re.search(r"step \d+/", log) and all(each in resumed for each in before):
        strike(slurm, fault, job, folder / "state")
        disturbed[fault] = job


def note_resumption(
    folder: Path,
    pretraining: str,
    faults: tuple[str, ...],
    disturbed: dict[str, str],
    resumed: dict[str, int],
) -> None:
    """Note from which step a training went on after the last thing that was done to it."""
    last = [each for each in faults if each in disturbed][-1:]
    log = read(folder / log_of(pretraining))
    found = re.search(r"resuming after step (\d+)", log)
    # The log of the job that was stopped still lies there until the next one starts.
    known = [resumed[each] for each in faults if each in resumed]
    if last and found and last[0] not in resumed and int(found[1]) not in known:
        resumed[last[0]] = int(found[1])


def strike(slurm: cluster.Cluster, fault: str, job: str, state: Path) -> None:
    match fault:
        case "preempted":
            cluster.ask("scontrol", "requeue", job)
        case "cancelled":
            cluster.ask("scancel", job)
        case "out of time":  # as slow as a training in earnest: Slurm looks every half minute
            cluster.ask("scontrol", "update", f"JobId={job}", "TimeLimit=2")
            training = process_of(job)
            os.kill(training, signal.SIGSTOP)
            time.sleep(32)
            with contextlib.suppress(ProcessLookupError):  # Slurm's SIGTERM woke it up already
                os.kill(training, signal.SIGCONT)
        case "node daemon dead":
            slurm.stop("slurmd", signal.SIGKILL)
            time.sleep(2)
            slurm.start_node()


def process_of(job: str) -> int:
    """Return the training's process, the one that became the trainer under the lease."""
    for line in cluster.ask("scontrol", "listpids", job).splitlines()[1:]:
        pid = line.split()[0]
        command = read(Path("/proc") / pid / "cmdline").split("\0")
        if command[1:2] == ["scripts/train_classifier.py"]:
            return int(pid)
    raise AssertionError(f"job {job} trains nothing")


def training_job(pretraining: str) -> str | None:
    """Return the number of the running job that trains this run."""
    comment = f"rule_finetune_classifier_wildcards_caltech256_{pretraining}_0"
    for job in cluster.jobs():
        if job["JobState"] == "RUNNING" and job.get("Comment") == comment:
            return job["JobId"]
    return None


def log_of(pretraining: str) -> Path:
    return Path(f"results/tiny/logs/finetune_classifier/caltech256/{pretraining}/seed0.log")


def read(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def test_the_study_finishes_with_the_same_bits(outcome: Outcome) -> None:
    assert outcome.code == 0, outcome.output[-5000:]
    assert set(outcome.disturbed) == set(sum(FAULTS.values(), ())), outcome.output[-5000:]
    for name, content in outcome.before.items():
        if name.endswith(".safetensors"):
            assert (outcome.checkout.folder / name).read_bytes() == content, name
    runs = [json.loads((outcome.checkout.folder / name).read_text())["metrics"] for name in WANTED]
    assert runs == [json.loads(outcome.before[name])["metrics"] for name in WANTED]


@pytest.mark.parametrize("fault", ["preempted", "cancelled", "out of time"])
def test_a_stopped_training_goes_on_from_the_state_it_saved(outcome: Outcome, fault: str) -> None:
    """No checkpoint was due yet: the state is what SIGTERM made the training save."""
    assert outcome.resumed[fault] >= 10, outcome


def test_a_preempted_job_keeps_its_number_and_a_failed_one_is_submitted_anew(
    outcome: Outcome,
) -> None:
    states = {job["JobId"]: job for job in cluster.jobs()}
    assert states[outcome.disturbed["preempted"]]["Restarts"] == "1"
    assert outcome.disturbed["cancelled"] == outcome.disturbed["preempted"]
    assert states[outcome.disturbed["cancelled"]]["JobState"] == "CANCELLED"
    assert states[outcome.disturbed["out of time"]]["JobState"] == "FAILED"
    # The daemon's death neither started the job again (Restarts) nor gave it another number.
    assert outcome.disturbed[SURVIVED] == outcome.disturbed["preempted"]
    assert SURVIVED not in outcome.resumed
    assert outcome.output.count("Trying to restart job") == 2  # cancelled, out of time


def test_no_device_had_two_jobs_at_a_time(outcome: Outcome) -> None:
    assert outcome.watch.shared == []
    assert outcome.watch.most >= 2  # or nothing has been shown


def test_jobs_ask_for_the_model_where_they_use_a_gpu(outcome: Outcome) -> None:
    asked = {job["Comment"]: job.get("TresPerJob", "") for job in cluster.jobs()}
    assert "rule_export_backbone_wildcards_imagenet_cls" in asked
    for comment, tres in asked.items():
        uses = "finetune" in comment or "rule_pretrain" in comment
        # What could use one and is told not to asks for none of the model.
        assert tres in ([f"gres:gpu:{cluster.MODEL}:1"] if uses else ["", NONE]), comment
