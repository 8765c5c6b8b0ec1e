"""The programs of profiles/kubernetes, each by itself; test_faults.py runs a study with them."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from tests.workflow.kubernetes import Kubernetes, install

PROGRAMS = Path("profiles/kubernetes")
SCRIPT = """#!/bin/sh
# properties = {properties}
{command}
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Kubernetes:
    folder = tmp_path / "cluster"
    folder.mkdir()
    return install(folder)


def call(repository: Path, cluster: Kubernetes, program: str, *words: str) -> str:
    done = subprocess.run(
        [repository / PROGRAMS / f"{program}.py", *words],
        env=cluster.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def submit(
    repository: Path, cluster: Kubernetes, command: str, resources: dict[str, int | str]
) -> str:
    """Submit a job script like those of Snakemake; return the name of the Job."""
    properties = {
        "rule": "finetune_detector",
        "wildcards": {"target": "voc", "seed": "0"},
        "threads": 3,
        "resources": resources,
    }
    script = cluster.folder / "snakejob.sh"
    script.write_text(SCRIPT.format(properties=json.dumps(properties), command=command))
    return call(repository, cluster, "submit", str(script))


def wait_for_state(repository: Path, cluster: Kubernetes, name: str, wanted: str) -> None:
    end = time.monotonic() + 20
    while (found := call(repository, cluster, "status", name)) != wanted:
        assert found == "running" and time.monotonic() < end, found
        time.sleep(0.05)


def test_a_job_asks_for_what_its_rule_asks_for(repository: Path, cluster: Kubernetes) -> None:
    name = submit(
        repository, cluster, "exit 0", {"mem_mb": 4000, "runtime": 90, "gpu": 2, "tmpdir": "/tmp"}
    )
    assert name.startswith("finetune-detector-") and len(name) <= 63
    (job,) = cluster.jobs("finetune_detector")
    assert job["metadata"]["annotations"]["wildcards"] == "target=voc seed=0"
    assert "activeDeadlineSeconds" not in job["spec"], "it would count the time in the queue"
    assert job["spec"]["template"]["spec"]["activeDeadlineSeconds"] == 90 * 60
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == {
        "requests": {"cpu": 3, "memory": "4000M"},
        "limits": {"nvidia.com/gpu": 2},
    }
    assert container["image"] and container["volumeMounts"], "the template is kept"
    wait_for_state(repository, cluster, name, "success")


def test_a_job_without_a_gpu_asks_for_none_and_its_failure_is_told(
    repository: Path, cluster: Kubernetes
) -> None:
    name = submit(repository, cluster, "exit 3", {"mem_mb": 1000, "gpu": 0})
    (job,) = cluster.jobs("finetune_detector")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert "limits" not in container["resources"]
    wait_for_state(repository, cluster, name, "failed")


def test_a_cancelled_job_gets_sigterm_and_time_to_save(
    repository: Path, cluster: Kubernetes
) -> None:
    """Also what the container's first process started: Kubernetes signals that one alone."""
    started, saved = cluster.folder / "started", cluster.folder / "saved"
    program = (
        f"trap 'sleep 0.3; echo saved > {saved}; exit 1' TERM; touch {started}; sleep 60 & wait"
    )
    name = submit(repository, cluster, f"sh -c {program!r}; true", {"mem_mb": 1000})
    end = time.monotonic() + 20
    while not started.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert call(repository, cluster, "status", name) == "running"
    call(repository, cluster, "cancel", name)
    while not saved.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert call(repository, cluster, "status", name) == "failed"  # it is deleted


def test_a_controller_that_does_not_answer_ends_no_job(
    repository: Path, cluster: Kubernetes
) -> None:
    (cluster.folder / "kubectl").write_text("#!/bin/sh\nexit 1\n")
    assert call(repository, cluster, "status", "any") == "running"
