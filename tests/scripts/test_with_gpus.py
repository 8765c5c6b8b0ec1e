"""The lease: devices are never shared, never lost, and given out in order."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "scripts/with_gpus.py"
NOT_INHERITED = (
    "CUDA_VISIBLE_DEVICES",
    "SLURM_JOB_ID",
    "SLURM_STEP_ID",
    "DETRANSFER_GPUS",
    "DETRANSFER_LEASE",
)


def environment(**settings: str | None) -> dict[str, str]:
    """This process's environment on a machine of eight pretended devices; None unsets."""
    kept = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    source = str(PROGRAM.parents[1] / "src")
    changed = {**kept, "PYTHONPATH": source, "DETRANSFER_GPUS": "8", **settings}
    return {name: value for name, value in changed.items() if value is not None}


class Lease:
    """Starts leases that share one folder of locks, and ends what a failed test left running."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []

    def start(
        self, gpus: int, script: str, *options: str, **settings: str | None
    ) -> subprocess.Popen[str]:
        return self.start_command(gpus, ["sh", "-c", script], *options, **settings)

    def start_command(
        self, gpus: int, command: list[str], *options: str, **settings: str | None
    ) -> subprocess.Popen[str]:
        words = [sys.executable, str(PROGRAM), "--gpus", str(gpus), "--state"]
        words += [str(self.folder / "locks"), *options, "--", *command]
        process = subprocess.Popen(
            words,
            cwd=self.folder,
            env=environment(**settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A shell that runs the tests in the background has them ignore SIGINT.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.started.append(process)
        return process

    def finish(
        self, gpus: int, script: str, *options: str, **settings: str | None
    ) -> tuple[int, str, str]:
        """Run a lease to its end; return the exit code, its output and its messages."""
        process = self.start(gpus, script, *options, **settings)
        output, messages = process.communicate(timeout=15)
        return process.returncode, output.strip(), messages

    def tickets(self) -> int:
        return len(list((self.folder / "locks").glob("*.ticket")))


@pytest.fixture
def lease(tmp_path: Path):
    leases = Lease(tmp_path)
    yield leases
    for process in leases.started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=5)


def wait_until(condition: Callable[[], object], seconds: float = 10) -> None:
    """Poll until the condition holds; fail after some seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} seconds in vain"
        time.sleep(0.01)


def test_jobs_side_by_side_never_share_a_device(lease: Lease, tmp_path: Path) -> None:
    demands = [1, 3, 2, 8, 1, 4, 5, 1, 2, 3, 1, 2]
    record = 'echo "{} $CUDA_VISIBLE_DEVICES" >> log'
    script = f"{record.format('start')}; sleep 0.1; {record.format('stop')}"
    jobs = [lease.start(gpus, script) for gpus in demands]
    assert [job.wait(timeout=15) for job in jobs] == [0] * len(jobs)

    busy: set[str] = set()
    widths, together = [], 0
    for line in (tmp_path / "log").read_text().splitlines():
        event, names = line.split()
        devices = set(names.split(","))
        if event == "start":
            assert not devices & busy, f"{names} given out while {sorted(busy)} were busy"
            assert devices <= set("01234567")
            widths.append(len(devices))
            busy |= devices
            together = max(together, len(busy))
        else:
            busy -= devices
    assert sorted(widths) == sorted(demands)
    assert together > 4, "jobs that fit side by side ran one after another"
    assert lease.tickets() == 0


def test_a_job_for_all_devices_is_not_overtaken(lease: Lease, tmp_path: Path) -> None:
    first = lease.start(1, "echo first >> log; until [ -e go ]; do sleep 0.02; done")
    wait_until((tmp_path / "log").exists)
    large = lease.start(8, "echo large >> log")
    wait_until(lambda: lease.tickets() == 1)
    small = []
    for number in range(3):  # seven devices are free, yet these wait behind the large job
        small.append(lease.start(1, f"echo small{number} >> log"))
        wait_until(lambda: lease.tickets() == 2 + number)  # noqa: B023 (called at once)
    time.sleep(0.3)
    assert (tmp_path / "log").read_text().split() == ["first"]
    (tmp_path / "go").touch()
    assert [job.wait(timeout=15) for job in (first, large, *small)] == [0] * 5
    order = (tmp_path / "log").read_text().split()
    assert order[:2] == ["first", "large"]
    assert sorted(order[2:]) == ["small0", "small1", "small2"]
    messages = large.communicate()[1]
    assert "waiting for GPUs: 7 of 8 so far" in messages
    assert re.search(r"GPU 0 is held by process \d+: sh -c 'echo first", messages)


def test_a_dead_waiter_stops_nobody(lease: Lease, tmp_path: Path) -> None:
    lease.start(1, "touch up; sleep 30")
    wait_until((tmp_path / "up").exists)
    waiter = lease.start(8, "true")
    wait_until(lambda: lease.tickets() == 1)
    waiter.kill()
    waiter.wait()
    assert lease.finish(7, "echo $CUDA_VISIBLE_DEVICES")[:2] == (0, "1,2,3,4,5,6,7")
    assert lease.tickets() == 0


def test_killing_the_lease_keeps_the_devices_until_the_command_ends(
    lease: Lease, tmp_path: Path
) -> None:
    one = {"DETRANSFER_GPUS": "1"}
    script = "(trap '' HUP; until [ -e go ]; do sleep 0.02; done; touch ended) & touch up; wait"
    holder = lease.start(1, script, **one)
    wait_until((tmp_path / "up").exists)
    holder.kill()
    assert holder.wait(timeout=5) == -signal.SIGKILL
    heir = lease.start(1, "test -e ended", **one)
    time.sleep(0.5)
    assert heir.poll() is None, "the device was given out while its user still ran"
    (tmp_path / "go").touch()
    assert heir.wait(timeout=5) == 0


def test_killing_the_command_frees_its_devices(lease: Lease, tmp_path: Path) -> None:
    holder = lease.start(8, "echo $$ > pid; exec sleep 30")
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    heir = lease.start(8, "true")
    time.sleep(0.3)
    assert heir.poll() is None
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert heir.wait(timeout=5) == 0
    assert holder.wait(timeout=5) == -signal.SIGKILL


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_the_command_gets_the_signals(lease: Lease, tmp_path: Path, sent: signal.Signals) -> None:
    name = sent.name.removeprefix("SIG")
    job = lease.start(
        2, f"trap 'echo {name}; exit 5' {name}; touch up; while :; do sleep 0.02; done"
    )
    wait_until((tmp_path / "up").exists)
    job.send_signal(sent)
    output, _ = job.communicate(timeout=5)
    assert (job.returncode, output.strip()) == (5, name)


@pytest.mark.parametrize("gpus", [0, 3])
def test_the_exit_code_is_the_commands(lease: Lease, gpus: int) -> None:
    assert lease.finish(gpus, "exit 37")[0] == 37
    assert lease.finish(gpus, "kill -TERM $$")[0] == -signal.SIGTERM


def test_without_gpus_the_command_sees_none(lease: Lease) -> None:
    script = 'echo "[${CUDA_VISIBLE_DEVICES-unset}]"'
    assert lease.finish(0, script, CUDA_VISIBLE_DEVICES="0,1")[:2] == (0, "[]")
    assert not (lease.folder / "locks").exists()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({}, "9 GPUs asked for, but this machine has 8:"),
        ({"CUDA_VISIBLE_DEVICES": "4,5"}, "CUDA_VISIBLE_DEVICES=4,5 allows 2:"),
        ({"CUDA_VISIBLE_DEVICES": "3,-1,4"}, "CUDA_VISIBLE_DEVICES=3,-1,4 allows 1:"),
        ({"CUDA_VISIBLE_DEVICES": ""}, "CUDA_VISIBLE_DEVICES= allows 0:"),
        ({"SLURM_JOB_ID": "7"}, "Slurm gave job 7 none (CUDA_VISIBLE_DEVICES is unset):"),
        ({"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "0,1"}, "Slurm gave job 7 2 (0,1):"),
        ({"DETRANSFER_GPUS": "many"}, "DETRANSFER_GPUS=many: give a number"),
    ],
)
def test_a_demand_that_can_never_be_met_is_refused_at_once(
    lease: Lease, settings: dict[str, str], complaint: str
) -> None:
    code, output, messages = lease.finish(9, "echo ran", **settings)
    assert (code, output) == (2, "")
    assert complaint in messages and "Traceback" not in messages


def test_a_lowered_demand_is_refused(lease: Lease) -> None:
    code, output, messages = lease.finish(2, "echo ran", "--expected", "4")
    assert (code, output) == (2, "")
    assert "the configuration asks for 4" in messages and "--resources gpu=4" in messages
    assert lease.finish(2, "echo ran", "--expected", "2")[:2] == (0, "ran")


def test_a_command_that_does_not_exist_is_refused_before_waiting(tmp_path: Path) -> None:
    words = [sys.executable, str(PROGRAM), "--gpus", "1", "--state", str(tmp_path / "locks")]
    done = subprocess.run(
        [*words, "--", "no-such-program"], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 2 and "no program called no-such-program" in done.stderr
    assert not (tmp_path / "locks").exists()
    done = subprocess.run(words, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2 and "name the command after --" in done.stderr


def test_only_devices_of_the_surrounding_choice_are_used(lease: Lease) -> None:
    show = "echo $CUDA_VISIBLE_DEVICES $CUDA_DEVICE_ORDER"
    assert lease.finish(2, show, CUDA_VISIBLE_DEVICES="6,2,4")[1] == "6,2 PCI_BUS_ID"


def test_a_device_has_one_lock_whatever_it_is_called(lease: Lease, tmp_path: Path) -> None:
    tool = tmp_path / "bin/nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(
        "#!/bin/sh\n"
        "echo 'GPU 0: NVIDIA H200 (UUID: GPU-aaaa-1)'\n"
        "echo '  MIG 1g.18gb     Device  0: (UUID: MIG-cccc)'\n"
        "echo 'GPU 1: NVIDIA H200 (UUID: GPU-bbbb-2)'\n"
    )
    tool.chmod(0o755)
    real = {"PATH": f"{tool.parent}:{os.environ['PATH']}", "DETRANSFER_GPUS": None}
    show = "echo $CUDA_VISIBLE_DEVICES"
    assert lease.finish(2, show, **real)[1] == "0,1"
    assert lease.finish(1, show, CUDA_VISIBLE_DEVICES="GPU-bbbb", **real)[1] == "1"


def test_under_slurm_only_what_slurm_gave_is_shared_out(lease: Lease, tmp_path: Path) -> None:
    seven = {"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "0,1"}
    lease.start(1, "touch up; sleep 30", **seven)
    wait_until((tmp_path / "up").exists)
    show = "echo $CUDA_VISIBLE_DEVICES"
    # The same allocation shares its devices; another one's device 0 is another device.
    assert lease.finish(1, show, **seven)[1] == "1"
    assert lease.finish(2, show, **{**seven, "SLURM_JOB_ID": "8"})[1] == "0,1"


RANKS = """\
import os, signal, sys, time
from pathlib import Path
from detransfer.ranks import join, rank, world_size
signal.signal(signal.SIGTERM, lambda *_: None)  # as a training that saves its state
join()
line = f"{rank()} {world_size()} {os.environ['CUDA_VISIBLE_DEVICES']} {' '.join(sys.argv[1:])}\\n"
os.write(1, line.encode())  # in one piece: both processes write to the same pipe
Path(f"up{rank()}").touch()
while not Path("go").exists():
    time.sleep(0.02)
"""


def start_ranks(lease: Lease, gpus: int, *options: str) -> subprocess.Popen[str]:
    (lease.folder / "ranks.py").write_text(RANKS)
    command = [sys.executable, "ranks.py", "--start=x", "--", "--node", "y"]
    return lease.start_command(gpus, command, *options)


@pytest.mark.slow
def test_a_python_program_runs_in_one_process_a_device(lease: Lease, tmp_path: Path) -> None:
    """And each of them keeps the devices, whatever becomes of those who started it."""
    agent = start_ranks(lease, 2)
    wait_until(lambda: (tmp_path / "up0").exists() and (tmp_path / "up1").exists(), 120)
    agent.kill()
    assert agent.wait(timeout=5) == -signal.SIGKILL
    heir = lease.start(8, "true")
    time.sleep(0.5)
    assert heir.poll() is None, "devices were given out while a process still used them"
    (tmp_path / "go").touch()
    assert heir.wait(timeout=10) == 0
    lines = sorted(agent.communicate()[0].splitlines())
    assert lines == ["0 2 0,1 --start=x -- --node y", "1 2 0,1 --start=x -- --node y"]


@pytest.mark.slow
def test_several_processes_can_be_tried_without_a_device(lease: Lease, tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    job = start_ranks(lease, 0, "--processes", "2")
    output, messages = job.communicate(timeout=120)
    assert job.returncode == 0, messages
    assert sorted(line.split()[:2] for line in output.splitlines()) == [["0", "2"], ["1", "2"]]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--processes", "2"], "--processes 2: only `python PROGRAM.py ...` runs in several"),
        (["--processes", "0"], "--processes must be 1 or more, not 0"),
    ],
)
def test_processes_that_cannot_be_started_are_refused(
    lease: Lease, options: list[str], complaint: str
) -> None:
    code, output, messages = lease.finish(2, "echo ran", *options)
    assert (code, output) == (2, "") and complaint in messages


def test_nobody_is_starved_by_a_stream_of_small_jobs(lease: Lease, tmp_path: Path) -> None:
    """Small jobs keep coming; the large ones among them run in the order in which they came."""
    jobs = []
    for number in range(24):
        gpus = 8 if number % 8 == 4 else 1 + number % 2
        jobs.append(lease.start(gpus, f"echo {number} >> log; sleep 0.05"))
        wait_until(lambda: begun(tmp_path) + lease.tickets() > number)  # noqa: B023 (called at once)
    assert [job.wait(timeout=30) for job in jobs] == [0] * len(jobs)
    order = [int(line) for line in (tmp_path / "log").read_text().split()]
    assert sorted(order) == list(range(24))
    # Every job came after all that were there when it came had got their devices; one that starts
    # a little later than the next may be written down after it, but none passes a large one.
    for large in (4, 12, 20):
        assert set(order[: order.index(large)]) == set(range(large))


def begun(folder: Path) -> int:
    """Return how many jobs have got their devices."""
    return len((folder / "log").read_text().splitlines()) if (folder / "log").exists() else 0


def test_killing_snakemake_and_its_jobs_leaves_all_devices_free(
    lease: Lease, tmp_path: Path
) -> None:
    """The whole group is killed, with holders, waiters and the command of the holder."""
    for number, gpus in enumerate((3, 5, 8, 1)):
        lease.start(gpus, "echo >> log; sleep 30")
        wait_until(lambda: begun(tmp_path) + lease.tickets() > number)  # noqa: B023 (called at once)
    wait_until(lambda: begun(tmp_path) == 2 and lease.tickets() == 2)
    for job in lease.started:
        os.killpg(job.pid, signal.SIGKILL)
    for job in lease.started:
        job.wait(timeout=5)
    assert lease.finish(8, "echo $CUDA_VISIBLE_DEVICES")[:2] == (0, "0,1,2,3,4,5,6,7")
    assert lease.tickets() == 0


# Devices that failed


def broken(lease: Lease, device: int, message: str = "2026-01-01 job: CUDA error") -> Path:
    mark = lease.folder / "locks" / f"gpu-{device}.lock.broken"
    mark.parent.mkdir(exist_ok=True)
    mark.write_text(f"{message}\n")
    return mark


def test_a_device_that_failed_is_skipped_and_named(lease: Lease) -> None:
    mark = broken(lease, 0)
    code, output, messages = lease.finish(2, "echo $CUDA_VISIBLE_DEVICES")
    assert (code, output) == (0, "1,2")
    assert messages.count("GPU 0 is left out, since it failed: 2026-01-01 job: CUDA error") == 1
    mark.unlink()
    assert lease.finish(2, "echo $CUDA_VISIBLE_DEVICES")[:2] == (0, "0,1")


def test_too_few_sound_devices_are_refused_at_once(lease: Lease, tmp_path: Path) -> None:
    lease.start(6, "touch up; sleep 30")
    wait_until((tmp_path / "up").exists)
    lease.start(5, "true")  # who comes behind a job that waits is refused without waiting
    wait_until(lambda: lease.tickets() == 1)
    marks = [broken(lease, 3), broken(lease, 5)]
    code, output, messages = lease.finish(7, "echo ran")
    assert (code, output) == (2, "")
    assert "7 GPUs asked for, but 6 of 8 are left (GPU 3 failed: 2026-01-01 job" in messages
    assert f"re-admit what works again by: rm {marks[0]} {marks[1]}" in messages


def test_a_device_that_fails_while_it_is_waited_for_is_not_given_out(
    lease: Lease, tmp_path: Path
) -> None:
    one = {"DETRANSFER_GPUS": "1"}
    holder = lease.start(1, "touch up; until [ -e go ]; do sleep 0.02; done", **one)
    wait_until((tmp_path / "up").exists)
    heir = lease.start(1, "echo ran", **one)
    wait_until(lambda: lease.tickets() == 1)
    time.sleep(0.3)
    broken(lease, 0)
    (tmp_path / "go").touch()
    assert holder.wait(timeout=5) == 0
    output, messages = heir.communicate(timeout=5)
    assert (heir.returncode, output) == (2, "") and "0 of 1 are left" in messages
    assert lease.tickets() == 0


def test_a_device_that_fails_at_the_last_moment_is_not_given_out(tmp_path: Path) -> None:
    """Its job marks it and ends just when the next one has looked whether it is sound."""
    collect = runpy.run_path(str(PROGRAM))["collect"]
    mark, lock = tmp_path / "gpu-0.lock.broken", collect.__globals__["try_lock"]

    def failing(descriptor: int) -> bool:
        mark.touch()
        return bool(lock(descriptor))

    collect.__globals__["try_lock"] = failing
    assert list(collect(tmp_path, ["0", "1"], 1)) == ["1"]


# Several users


@pytest.fixture
def common() -> Iterator[Path]:
    """A folder of locks for all users, not made yet, where all can reach it."""
    folder = Path(tempfile.mkdtemp(prefix="detransfer-lease-"))
    folder.chmod(0o755)
    yield folder / "locks"
    shutil.rmtree(folder)


# The program as another user, to whom this Python's files may be closed: read as this one.
AS_USER = """
import os, runpy, sys
program, user = sys.argv[1], int(sys.argv[2])
found = runpy.run_path(program)
sys.argv = [program, *sys.argv[3:]]
os.setgroups([])
os.setresgid(user, user, user)
os.setresuid(user, user, user)
found["run"](found["main"])
"""


def leased(
    script: str, common: Path | None, *options: str, user: int | None = None, umask: int = 0o022
) -> tuple[int, str, str]:
    """Run a lease in a common folder to its end; return the exit code, its output and messages."""
    start = [sys.executable, str(PROGRAM)]
    if user is not None:
        start = [sys.executable, "-c", AS_USER, str(PROGRAM), str(user)]
    done = subprocess.run(
        [*start, *options, "--", "sh", "-c", script],
        env=environment(DETRANSFER_LEASE=common and str(common)),
        capture_output=True,
        text=True,
        timeout=30,
        umask=umask,
        check=False,
    )
    return done.returncode, done.stdout.strip(), done.stderr


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_common_folder_is_open_to_all_whatever_its_first_user_hides(
    common: Path, umask: int
) -> None:
    files = "ls -1 $DETRANSFER_LEASE; umask"
    code, output, messages = leased(files, common, "--gpus=1", umask=umask)
    assert (code, output.split()) == (0, ["gpu-0.lock", "queue.lock", f"0{umask:03o}"]), messages
    assert common.stat().st_mode & 0o7777 == 0o1777
    assert {path.stat().st_mode & 0o777 for path in common.iterdir()} == {0o666}


def test_two_users_of_a_common_folder_share_the_devices(common: Path) -> None:
    """Neither may remove the other's files, nor open them as if to make them."""
    if os.geteuid() != 0:
        pytest.skip("only root can be two users")
    show, nobody = "echo $CUDA_VISIBLE_DEVICES", 65534
    assert leased(show, common, "--gpus=1")[:2] == (0, "0")
    dead = common / "000000000000.ticket"  # of a waiter of root that was killed
    dead.touch()
    dead.chmod(0o666)
    with (common / "gpu-0.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, output, messages = leased(show, common, "--gpus=1", user=nobody)
        assert (code, output) == (0, "1"), messages
    assert (common / "gpu-1.lock").stat().st_uid == nobody
    assert leased(show, common, "--gpus=2")[:2] == (0, "0,1"), "root opens what the other has made"
    code, _, messages = leased(show, None, "--gpus=1", f"--state={common}", user=nobody)
    assert code == 2 and f"{common} belongs to another user" in messages


def test_a_link_in_a_common_folder_is_not_followed(common: Path, tmp_path: Path) -> None:
    assert leased("true", common, "--gpus=1")[0] == 0
    precious = tmp_path / "precious"
    precious.write_text("content")
    for target in (precious, tmp_path / "not there"):
        (common / "gpu-0.lock").unlink()
        (common / "gpu-0.lock").symlink_to(target)
        code, output, messages = leased("echo ran", common, "--gpus=1")
        assert (code, output) == (2, "") and "gpu-0.lock: is a link where a lock" in messages
    assert precious.read_text() == "content" and not (tmp_path / "not there").exists()


def test_a_common_folder_from_which_locks_can_be_taken_is_refused(common: Path) -> None:
    common.mkdir()
    common.chmod(0o777)
    code, _, messages = leased("true", common, "--gpus=1")
    assert code == 2 and f"chmod +t {common}" in messages


def test_without_a_common_folder_each_user_has_his_own() -> None:
    helped = subprocess.run(
        [sys.executable, str(PROGRAM), "--help"], env=environment(), capture_output=True, text=True
    ).stdout
    assert "no other leased job of this user on this machine has" in helped
    assert "DETRANSFER_LEASE,else/tmp/detransfer-gpus-<userid>" in "".join(helped.split())
