"""What goes wrong around a workflow: killed, started twice, no room, no permission; and its cache.

A little study (one pre-training, one target) is brought to its last training once, with Snakemake's
cache between workflows; each test breaks something of its own.
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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.workflow.checkout import ENVIRONMENT, Checkout, Result, copy_repository
from tests.workflow.kubernetes import install
from tests.workflow.tiny import write_little

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

WORDS = ("--configfile", "config/tiny.yaml", "--cores", "2")
RUN = Path("results/tiny/classification/caltech256/random/seed0")
MODEL, LOG = (
    RUN / "model.safetensors",
    Path("results/tiny/logs/finetune_classifier") / Path("caltech256/random/seed0.log"),
)
BACKBONES = [
    f"results/tiny/pretraining/{name}/backbone.safetensors" for name in ("random", "imagenet_cls")
]
STATE = Path("state/tiny/classification/caltech256/random/seed0")
INDEX = Path("data/tiny/index/caltech256")
SHARED = {"fetch": 4, "import_backbone": 1, "pretrain_classifier": 1, "export_backbone": 1}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def new_checkout(repository: Path, folder: Path) -> Checkout:
    checkout = copy_repository(repository, folder)
    write_little(checkout.folder, [0], {}, epochs=18)
    return checkout


def sharing(checkout: Checkout, cache: Path, *targets: str) -> Result:
    """Run Snakemake with the cache between workflows."""
    words = ("-m", "snakemake", *WORDS, "--cache", "--", *targets)
    return checkout.run(
        "env", f"SNAKEMAKE_OUTPUT_CACHE={cache}", sys.executable, *words, timeout=300
    )


@pytest.fixture(scope="module")
def little(repository: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The study up to its last training, its outputs in the cache."""
    checkout = new_checkout(repository, tmp_path_factory.mktemp("little"))
    done = sharing(checkout, cache, *BACKBONES, str(INDEX / "images.parquet"))
    assert done.code == 0, done.output
    check = "results/tiny/datasets/caltech256/check.csv"
    done = checkout.snakemake(*WORDS, "--", check, timeout=120)
    assert done.code == 0, done.output
    return checkout


def test_downloads_and_pretrainings_are_shared_between_checkouts(
    repository: Path, little: Checkout, cache: Path, tmp_path: Path
) -> None:
    entries = {file.name for file in cache.iterdir()}
    # One key an output, the model and the record of a training apart.
    assert len(entries) == sum(SHARED.values()) + 1
    other = new_checkout(repository, tmp_path / "other")
    done = sharing(other, cache, *BACKBONES)
    assert done.code == 0, done.output
    assert {file.name for file in cache.iterdir()} == entries
    for name in (*BACKBONES, "results/tiny/pretraining/imagenet_cls/fit.json"):
        assert (other.folder / name).resolve() == (little.folder / name).resolve()
        assert (other.folder / name).resolve().parent == cache
    archives = list((other.folder / "data/tiny/archives").iterdir())
    assert len(archives) == 3 and all(file.is_symlink() for file in archives)  # of ImageNet
    assert not list((other.folder / "state").rglob("run.json")), "it was trained once more"


def test_a_changed_recipe_is_another_key(
    repository: Path, little: Checkout, cache: Path, tmp_path: Path
) -> None:
    """The pre-training is made anew; the downloads are still shared."""
    other = new_checkout(repository, tmp_path / "other")
    recipe = other.folder / "config/recipes/tiny/pretrain_imagenet_cls.yaml"
    recipe.write_text(recipe.read_text().replace("epochs: 4", "epochs: 1"))
    before = len(list(cache.iterdir()))
    done = sharing(other, cache, BACKBONES[1])
    assert done.code == 0, done.output
    assert len(list(cache.iterdir())) == before + 3  # model, record and backbone
    assert list((other.folder / "state").rglob("run.json"))


def start(
    checkout: Checkout, *words: str, environment: Mapping[str, str] = ENVIRONMENT
) -> subprocess.Popen[str]:
    """Start Snakemake in the background, in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "snakemake", *WORDS, *words],
        cwd=checkout.folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(happened: Callable[[], bool], what: str, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"{what} did not come"
        time.sleep(0.05)


@contextlib.contextmanager
def killed_at_last(running: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.communicate()


def trained(checkout: Checkout) -> bytes:
    """Return the weights of the last training, made by an undisturbed run."""
    done = checkout.snakemake(*WORDS, "--", str(MODEL), timeout=300)
    assert done.code == 0, done.output
    return (checkout.folder / MODEL).read_bytes()


def lose(checkout: Checkout) -> bytes:
    """Return the weights of the last training, and delete them with all that it left."""
    undisturbed = trained(checkout)
    for file in (MODEL, RUN / "fit.json", LOG):
        (checkout.folder / file).unlink()
    shutil.rmtree(checkout.folder / STATE)
    return undisturbed


def under_way(checkout: Checkout) -> bool:
    return "step 20/" in said(checkout)


def test_a_job_that_outlived_snakemake_is_taken_over(little: Checkout) -> None:
    """SIGKILL to Snakemake alone: its training lives on, and the next one's takes its place."""
    undisturbed = lose(little)
    running = start(little, "--", str(MODEL))
    with killed_at_last(running):
        wait_for(lambda: under_way(little), "the training")
        running.kill()
        (lock,) = (little.folder / STATE).rglob("running")
        left_behind = int(lock.read_text().split()[1])
        os.kill(left_behind, signal.SIGSTOP)  # or it might end before the next one has begun
        assert little.snakemake(*WORDS, "--unlock", timeout=120).code == 0
        again = start(little, "--", str(MODEL))
        with killed_at_last(again):
            wait_for(lambda: "still trains in" in said(little), "the next training")
            os.kill(left_behind, signal.SIGCONT)
            output = again.communicate(timeout=300)[0]
        assert again.returncode == 0, output
    assert re.search(r"resuming after step [1-9]\d", said(little))
    assert (little.folder / MODEL).read_bytes() == undisturbed


def test_ctrl_c_saves_what_was_trained(little: Checkout) -> None:
    """The terminal signals all at once: Snakemake, the shell, the training."""
    undisturbed = lose(little)
    running = start(little, "--", str(MODEL))
    with killed_at_last(running):
        wait_for(lambda: under_way(little), "the training")
        os.killpg(running.pid, signal.SIGINT)
        running.communicate(timeout=60)
    assert running.returncode != 0
    assert "stopped by SIGINT" in said(little)
    assert trained(little) == undisturbed
    assert re.search(r"resuming after step [1-9]\d", said(little))


def test_a_job_that_ended_after_snakemake_is_written_again_without_training(
    little: Checkout,
) -> None:
    """SIGKILL to Snakemake alone: the next one deletes what its training wrote in the end."""
    undisturbed = lose(little)
    running = start(little, "--", str(MODEL))
    with killed_at_last(running):
        wait_for(lambda: under_way(little), "the training")
        running.kill()
        wait_for(lambda: any((little.folder / STATE).rglob("finished")), "the training's end")
    steps = json.loads((little.folder / RUN / "fit.json").read_text())["steps"]
    assert little.snakemake(*WORDS, "--unlock", timeout=120).code == 0
    again = little.snakemake(*WORDS, "--", str(MODEL), timeout=300)
    assert again.jobs() == {"finetune_classifier": 1}
    assert f"resuming after step {steps} from" in said(little)
    assert not re.search(r"step \d+/", said(little)), "it was trained once more"
    assert (little.folder / MODEL).read_bytes() == undisturbed


def test_an_evicted_pod_saves_its_state_and_the_next_one_goes_on(
    little: Checkout, tmp_path: Path
) -> None:
    """The training is a Job of Kubernetes; its container gets SIGTERM, as at its deadline."""
    undisturbed, cluster = lose(little), install(tmp_path)
    words = ("--workflow-profile", "profiles/kubernetes", "--seconds-between-status-checks", "1")
    words += ("--latency-wait", "5", "--", str(MODEL))
    running = start(little, *words, environment=cluster.environment)
    with killed_at_last(running):
        wait_for(lambda: under_way(little), "the training")
        (evicted,) = cluster.jobs("finetune_classifier")
        os.kill(cluster.process(evicted), signal.SIGTERM)
        output = running.communicate(timeout=300)[0]
    assert running.returncode == 0, output
    assert len(cluster.jobs("finetune_classifier")) == 2
    assert re.search(r"resuming after step [1-9]\d", said(little))
    assert (little.folder / MODEL).read_bytes() == undisturbed


def said(checkout: Checkout) -> str:
    log = checkout.folder / LOG
    return log.read_text(errors="replace") if log.exists() else ""


def test_of_two_snakemakes_on_one_checkout_the_second_is_refused(little: Checkout) -> None:
    lose(little)
    running = start(little, "--", str(MODEL))
    with killed_at_last(running):
        wait_for(lambda: any((little.folder / ".snakemake").glob("locks/*")), "the lock")
        second = little.snakemake(*WORDS, "--", str(MODEL))
        assert second.code == 1 and "Directory cannot be locked" in second.output
        assert "Select jobs to execute" not in second.output
        output = running.communicate(timeout=300)[0]
    assert running.returncode == 0, output


def test_a_failed_job_is_named_with_its_log_and_what_it_said(little: Checkout) -> None:
    archive = next((little.folder / "data/tiny/mirror").glob("256_Object*"))
    content = archive.read_bytes()
    fetched = little.folder / "data/tiny/archives" / archive.name
    aside = fetched.rename(fetched.with_name("aside"))
    archive.write_bytes(content[:-1] + b"x")
    try:
        failed = little.snakemake(
            *WORDS, "--retries", "0", "--", str(fetched.relative_to(little.folder))
        )
    finally:
        archive.write_bytes(content)
        aside.rename(fetched)
    assert failed.code == 1
    log = f"results/tiny/logs/fetch/{archive.name}.log"
    assert f"log: {log} (check log file(s) for error details)" in failed.output
    said = failed.output.partition(f"Logfile {log}:")[2]
    assert re.search(r"^error: .*wrong sha256: expected", said, re.M), failed.output


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """Put a small memory disk in the place of a folder, with its content; root may do that."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_is_full_at_the_index_is_said_and_leaves_none(little: Checkout) -> None:
    folder = little.folder / INDEX
    aside = folder.rename(folder.with_name("aside"))
    folder.mkdir()
    try:
        with mounted(folder, "size=8k"):
            (folder / "kept").touch()  # Snakemake clears away empty folders
            failed = little.snakemake(*WORDS, "--", str(INDEX / "images.parquet"), timeout=120)
            assert failed.code == 1
            assert re.search(r"^error: .*No space left on device.*free some", failed.output, re.M)
            assert [file.name for file in folder.glob("*.parquet")] == []
    finally:
        folder.rmdir()
        aside.rename(folder)
    assert trained(little)


def test_a_disk_that_is_full_at_the_results_is_said_and_room_mends_it(little: Checkout) -> None:
    undisturbed = trained(little)
    folder = little.folder / RUN
    for file in folder.iterdir():
        file.unlink()
    with mounted(folder, "size=64k"):
        failed = little.snakemake(*WORDS, "--", str(MODEL), timeout=300)
        assert failed.code == 1 and "No space left on device" in failed.output
        assert not (folder / MODEL.name).exists()
    assert trained(little) == undisturbed


def test_read_only_results_are_said_and_stay_as_they_are(little: Checkout) -> None:
    table = little.folder / "results/tiny/table5.csv"
    done = little.snakemake(*WORDS, "--", "results/tiny/table5.csv", timeout=300)
    assert done.code == 0, done.output
    with mounted(little.folder / RUN, "size=64k"):
        subprocess.run(["mount", "-o", "remount,ro", str(little.folder / RUN)], check=True)
        failed = little.snakemake(*WORDS, "--", str(MODEL), timeout=300)
        assert failed.code == 1 and "Read-only file system" in failed.output
    assert table.exists()
