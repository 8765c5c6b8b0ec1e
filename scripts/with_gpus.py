"""Run a command on GPUs that no other job of this machine uses at the same time.

    python scripts/with_gpus.py --gpus 2 -- python scripts/train_detector.py --help

Snakemake counts GPUs but gives none out and never sets CUDA_VISIBLE_DEVICES. This program takes
free devices by file lock, names them in CUDA_VISIBLE_DEVICES and *becomes* the command (exec).
The locks live in file descriptors that the command and the processes it forks inherit: the
kernel holds them until the last of these ends, however it ends, and nothing is left to clean up.
Signals and the exit code are the command's own.

A Python program that gets several devices is started by torchrun, in one process a device. These
do not inherit the locks, so they share them (detransfer.ranks): a device stays taken until the
last process that may use it is gone, whichever is killed first.

Leases are served in the order in which they came, so a job that needs all devices is not
overtaken for ever by jobs that need one.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from detransfer.console import InputError, run

POLL_SECONDS = 0.1
REPORT_SECONDS = 600.0
LOCKS = "DETRANSFER_LOCKS"  # names the locks to the command's processes (detransfer.ranks)

DESCRIPTION = """\
Run a command on GPUs that no other job of this machine uses at the same time.

A Python program (python PROGRAM.py ...) that gets several runs in one process a device, started by
torchrun. The command sees its devices in CUDA_VISIBLE_DEVICES; its exit code and its signals are
its own.
A demand that this machine can never meet is refused at once; any other waits, first come, first
served, and says who holds what.
"""
ENVIRONMENT = """\
environment:
  CUDA_VISIBLE_DEVICES  if set, only these devices are given out
  SLURM_JOB_ID          if set, only the devices that Slurm gave (CUDA_VISIBLE_DEVICES) are used
  DETRANSFER_GPUS       pretend that the machine has this many devices (for trying things out)
"""


def parse_arguments(words: list[str]) -> argparse.Namespace:
    """Parse the options before ``--``; what comes after it is the command."""
    parser = argparse.ArgumentParser(
        description=DESCRIPTION,
        epilog=ENVIRONMENT,
        usage="%(prog)s --gpus N [--expected N] [--processes N] [--state DIR] -- COMMAND ...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--gpus", type=int, required=True, help="devices to take; 0: use the CPU")
    parser.add_argument(
        "--expected",
        type=int,
        help="the number that the configuration asks for; another --gpus is refused",
    )
    parser.add_argument(
        "--processes",
        type=int,
        help="processes of a Python program; default: one a device, at least one",
    )
    parser.add_argument(
        "--state",
        type=Path,
        default=Path(f"/tmp/detransfer-gpus-{os.getuid()}"),
        help="folder of the locks, on a local disk (default: %(default)s)",
    )
    border = words.index("--") if "--" in words else len(words)
    arguments = parser.parse_args(words[:border])
    arguments.command = words[border + 1 :]
    if not arguments.command:
        parser.error("name the command after --")
    if arguments.gpus < 0:
        parser.error(f"--gpus must be 0 or more, not {arguments.gpus}")
    if arguments.processes is not None and arguments.processes < 1:
        parser.error(f"--processes must be 1 or more, not {arguments.processes}")
    return arguments


def in_processes(command: list[str], wanted: int | None, gpus: int) -> list[str]:
    """Return the command that starts a Python program in several processes by torchrun.

    Any other command stays what it is. Raises InputError where it was to run in several.
    """
    program = len(command) > 1 and command[1].endswith(".py")
    if not program or not Path(command[0]).name.startswith("python"):
        if (wanted or 1) > 1:
            raise InputError(f"--processes {wanted}: only `python PROGRAM.py ...` runs in several")
        return command
    number = wanted or max(gpus, 1)
    if number == 1:
        return command
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torchrun would say so; programs set their own
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={number}"]
    return [
        command[0],
        *torchrun,
        "--",
        *command[1:],
    ]  # lest torchrun takes our options for its own


def installed_devices() -> list[str]:
    """Return the UUIDs of this machine's devices in PCI order; an unknown UUID is empty."""
    pretended = os.environ.get("DETRANSFER_GPUS")
    if pretended is not None:
        if not pretended.isdecimal():
            raise InputError(f"DETRANSFER_GPUS={pretended}: give a number of devices, e.g. 8")
        return [""] * int(pretended)
    if shutil.which("nvidia-smi"):
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
        if listing.returncode == 0:
            return re.findall(r"^GPU \d+: .*\(UUID: (\S+)\)", listing.stdout, re.MULTILINE)
    with contextlib.suppress(OSError):
        return [""] * len(list(Path("/proc/driver/nvidia/gpus").iterdir()))
    return []


def usable_devices() -> tuple[list[str], str]:
    """Return the devices that may be given out, and in words where they come from."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    job = os.environ.get("SLURM_JOB_ID")
    if named is None and job:
        return [], f"Slurm gave job {job} none (CUDA_VISIBLE_DEVICES is unset)"
    if named is None:
        devices = [str(index) for index in range(len(installed_devices()))]
        return devices, f"this machine has {len(devices)}"
    entries = [entry.strip() for entry in named.split(",")]
    # As in CUDA itself, the list ends at the first entry that is no device ("", "-1").
    count = next((i for i, entry in enumerate(entries) if entry in ("", "-1")), len(entries))
    devices = list(dict.fromkeys(entries[:count]))
    if job:
        return devices, f"Slurm gave job {job} {len(devices)} ({named})"
    return indices(devices), f"CUDA_VISIBLE_DEVICES={named} allows {len(devices)}"


def indices(devices: list[str]) -> list[str]:
    """Replace UUIDs by indices, so that a device has one lock whatever it is called."""
    if all(device.isdecimal() for device in devices):
        return devices
    uuids = installed_devices()
    return [
        next((str(i) for i, uuid in enumerate(uuids) if uuid and uuid.startswith(device)), device)
        for device in devices
    ]


def lock_folder(state: Path) -> Path:
    """Create and return the folder of the locks; a Slurm allocation has one of its own.

    Slurm numbers the devices of every step from 0, so two allocations' ``0`` are two devices;
    several leases inside one allocation still share what it holds.
    """
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    if state.stat().st_uid != os.getuid():
        raise InputError(f"{state} belongs to another user: name another folder with --state")
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return state
    folder = state / f"slurm-{job}-{os.environ.get('SLURM_STEP_ID', 'batch')}"
    folder.mkdir(exist_ok=True, mode=0o700)
    return folder


def open_lock(path: Path) -> int:
    """Open a lock file, made if absent, and return its descriptor."""
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def try_lock(descriptor: int) -> bool:
    """Lock an open file exclusively, unless somebody else has; say whether it is ours."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sign(descriptor: int, command: list[str]) -> None:
    """Write into a lock file who holds it, for those who wait."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()}: {shlex.join(command)}\n".encode(), 0)


def wait_for(ticket: Path) -> None:
    """Wait until the lease with this ticket has its devices, or is dead."""
    try:
        descriptor = os.open(ticket, os.O_RDWR)
    except FileNotFoundError:
        return
    if not try_lock(descriptor):
        holder = os.pread(descriptor, 4096, 0).decode(errors="replace").strip()
        logging.info("waiting behind %s", holder or "a job that is just starting")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    ticket.unlink(missing_ok=True)
    os.close(descriptor)


@contextlib.contextmanager
def turn(folder: Path, command: list[str]) -> Iterator[None]:
    """Queue, wait for every lease that came before, and keep the turn while the body runs.

    A ticket is a numbered file, locked by its owner: a dead owner's ticket stops nobody. While a
    lease waits, its own ticket keeps every earlier number from being used again.
    """
    queue = open_lock(folder / "queue.lock")
    fcntl.flock(queue, fcntl.LOCK_EX)
    earlier = sorted(folder.glob("*.ticket"))
    number = int(earlier[-1].stem) + 1 if earlier else 0
    ticket = folder / f"{number:012}.ticket"
    own = open_lock(ticket)
    fcntl.flock(own, fcntl.LOCK_EX)
    sign(own, command)
    os.close(queue)
    for other in earlier:
        wait_for(other)
    try:
        yield
    finally:
        ticket.unlink()
        os.close(own)


def collect(folder: Path, devices: list[str], number: int) -> dict[str, int]:
    """Lock ``number`` of the devices, keeping each as it comes free; return their descriptors."""
    taken: dict[str, int] = {}
    next_report = time.monotonic()
    while True:
        for device in devices:
            if len(taken) < number and device not in taken:
                descriptor = open_lock(lock_file(folder, device))
                if try_lock(descriptor):
                    taken[device] = descriptor
                else:
                    os.close(descriptor)
        if len(taken) == number:
            return {device: taken[device] for device in devices if device in taken}
        if time.monotonic() >= next_report:
            report_holders(folder, [d for d in devices if d not in taken], len(taken), number)
            next_report = time.monotonic() + REPORT_SECONDS
        time.sleep(POLL_SECONDS)


def lock_file(folder: Path, device: str) -> Path:
    """Return the lock file of a device."""
    return folder / f"gpu-{re.sub(r'[^A-Za-z0-9-]', '_', device)}.lock"


def report_holders(folder: Path, devices: list[str], have: int, number: int) -> None:
    """Log which devices a waiting lease waits for, and who holds them."""
    logging.info("waiting for GPUs: %d of %d so far", have, number)
    for device in devices:
        holder = lock_file(folder, device).read_text(errors="replace").strip()
        logging.info("  GPU %s is held by %s", device, holder or "a job that is just starting")


def become(command: list[str], devices: str) -> None:
    """Replace this process by the command, which sees the given devices."""
    os.environ["CUDA_VISIBLE_DEVICES"] = devices
    # CUDA's own default order is by speed; the locks count in PCI order, as nvidia-smi does.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    # Python ignores SIGPIPE, and what is ignored stays so in the command.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execvp(command[0], command)


def check_demand(gpus: int, expected: int | None) -> None:
    """Refuse a demand that Snakemake lowered on the way from the configuration."""
    if expected is not None and gpus != expected:
        raise InputError(
            f"--gpus {gpus}, but the configuration asks for {expected}: Snakemake silently cuts a "
            f"rule's demand to --resources gpu=. Start it with --resources gpu={expected} or more, "
            f"or ask for {gpus} in the configuration."
        )


def main() -> None:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a wait without a traceback
    arguments = parse_arguments(sys.argv[1:])
    command: list[str] = arguments.command
    if shutil.which(command[0]) is None:
        raise InputError(f"no program called {command[0]}: check the words after --")
    check_demand(arguments.gpus, arguments.expected)
    command = in_processes(command, arguments.processes, arguments.gpus)
    if arguments.gpus == 0:
        become(command, "")
    devices, origin = usable_devices()
    if arguments.gpus > len(devices):
        raise InputError(
            f"{arguments.gpus} GPUs asked for, but {origin}: ask for fewer, or run where there are "
            "more (--gpus 0 runs on the CPU)"
        )
    folder = lock_folder(arguments.state)
    with turn(folder, command):
        taken = collect(folder, devices, arguments.gpus)
        for descriptor in taken.values():
            sign(descriptor, command)
            os.set_inheritable(descriptor, True)
            # From now on the command's processes may hold it too. For a moment it is unlocked,
            # but nobody else takes devices while the turn is ours.
            fcntl.flock(descriptor, fcntl.LOCK_SH)
    os.environ[LOCKS] = os.pathsep.join(str(lock_file(folder, device)) for device in taken)
    names = ",".join(taken)
    logging.info("GPU %s: %s", names, shlex.join(command))
    become(command, names)


if __name__ == "__main__":
    run(main)
