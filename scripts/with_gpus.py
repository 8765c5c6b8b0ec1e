"""Run a command on GPUs that no other leased job of this user has at the same time.

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

Several users, or containers, share devices only where they share the folder of the locks
(DETRANSFER_LEASE). A device that failed is left out (detransfer.device_faults): it would be the
first free one for every job.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import logging
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from detransfer.console import InputError, run
from detransfer.locks import LEASED, broken_mark

POLL_SECONDS = 0.1
REPORT_SECONDS = 600.0
OWN = "/tmp/detransfer-gpus-{}"  # folder of the locks of one user
COMMON = "DETRANSFER_LEASE"  # names one for several users

DESCRIPTION = """\
Run a command on GPUs that no other leased job of this user on this machine has at the same time;
where DETRANSFER_LEASE names a common folder, none of all users who name it.

A Python program (python PROGRAM.py ...) that gets several runs in one process a device, started by
torchrun. The command sees its devices in CUDA_VISIBLE_DEVICES; its exit code and its signals are
its own.
A demand that this machine can never meet is refused at once; any other waits, first come, first
served, and says who holds what. A GPU that failed is marked by a file beside its lock, and left out
until that file is removed.
"""
ENVIRONMENT = """\
environment:
  CUDA_VISIBLE_DEVICES  if set, only these devices are given out
  SLURM_JOB_ID          if set, only the devices that Slurm gave (CUDA_VISIBLE_DEVICES) are used
  DETRANSFER_LEASE      folder of the locks that several users or containers share, on a local
                        disk; made for all (mode 1777) if absent. Without it each user has a folder
                        of his own, and does not know of the others' jobs
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
        help=f"folder of this user's locks, on a local disk (default: that of {COMMON}, else "
        f"{OWN.format('<user id>')})",
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


def lock_folder(state: Path | None) -> Path:
    """Create and return the folder of the locks; a Slurm allocation has one of its own.

    Slurm numbers the devices of every step from 0, so two allocations' ``0`` are two devices;
    several leases inside one allocation still share what it holds.
    """
    common = os.environ.get(COMMON)
    if state is None and common:
        folder = common_folder(Path(common))
    else:
        folder = own_folder(state or Path(OWN.format(os.getuid())))
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return folder
    return own_folder(folder / f"slurm-{job}-{os.environ.get('SLURM_STEP_ID', 'batch')}")


def own_folder(folder: Path) -> Path:
    """Create a folder for this user alone; raises InputError for one that is another's."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid():
        raise InputError(
            f"{folder} belongs to another user: name another folder with --state, or one to share "
            f"with that user in {COMMON}"
        )
    return folder


def common_folder(folder: Path) -> Path:
    """Create a folder for all users; raises InputError where others could take the locks away."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with all_permissions(), contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o1777)
        folder.chmod(0o1777)  # not all systems give a new folder the last bit
    mode = folder.stat().st_mode
    if mode & (stat.S_IWGRP | stat.S_IWOTH) and not mode & stat.S_ISVTX:
        raise InputError(
            f"{folder}: others could remove your locks from it; its owner can end that by: "
            f"chmod +t {shlex.quote(str(folder))}"
        )
    return folder


@contextlib.contextmanager
def all_permissions() -> Iterator[None]:
    """Within, files and folders are made with the very permissions that are asked for."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def open_lock(path: Path) -> int:
    """Open a lock file, made if absent for all who may enter its folder; return its descriptor.

    Links are not followed: in a common folder anybody can put one. Nor is a file opened as if it
    were to be made, which Linux refuses for another user's there (fs.protected_regular).
    """
    while True:
        try:
            return os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise InputError(f"{path}: is a link where a lock should be; remove it") from error
            if error.errno != errno.ENOENT:
                raise
        with all_permissions(), contextlib.suppress(FileExistsError):
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)


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
        descriptor = os.open(ticket, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    if not try_lock(descriptor):
        holder = os.pread(descriptor, 4096, 0).decode(errors="replace").strip()
        logging.info("waiting behind %s", holder or "a job that is just starting")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    with contextlib.suppress(PermissionError):  # another user's: a dead one's stops nobody
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
    """Lock ``number`` of the devices, keeping each as it comes free; return their descriptors.

    Those that failed are left out, also when they fail in the hands of a job that is waited for.
    Raises InputError as soon as too few are left.
    """
    taken: dict[str, int] = {}
    named: set[str] = set()
    next_report = time.monotonic()
    while True:
        whole = sound(folder, devices, number, named)
        for device in whole:
            if len(taken) < number and device not in taken:
                descriptor = open_lock(lock_file(folder, device))
                # The mark is looked for again: a failing job writes it before its lock ends.
                if try_lock(descriptor) and not mark(folder, device).exists():
                    taken[device] = descriptor
                else:
                    os.close(descriptor)
        if len(taken) == number:
            return {device: taken[device] for device in devices if device in taken}
        if time.monotonic() >= next_report:
            report_holders(folder, [d for d in whole if d not in taken], len(taken), number)
            next_report = time.monotonic() + REPORT_SECONDS
        time.sleep(POLL_SECONDS)


def sound(folder: Path, devices: list[str], number: int, named: set[str]) -> list[str]:
    """Return the devices without a mark that they failed; log each other one that is not ``named``.

    Raises InputError where fewer than ``number`` are left, with the command that re-admits them.
    """
    broken = {each: mark(folder, each) for each in devices if mark(folder, each).exists()}
    for device in broken.keys() - named:
        logging.info("GPU %s is left out, since it failed: %s", device, reason(broken[device]))
    named.update(broken)
    if len(devices) - len(broken) < number:
        which = "; ".join(f"GPU {device} failed: {reason(m)}" for device, m in broken.items())
        raise InputError(
            f"{number} GPUs asked for, but {len(devices) - len(broken)} of {len(devices)} are left "
            f"({which}). Look at nvidia-smi and dmesg; re-admit what works again by: "
            f"rm {shlex.join(map(str, broken.values()))}"
        )
    return [device for device in devices if device not in broken]


def mark(folder: Path, device: str) -> Path:
    """Return the file that says of a device that it failed."""
    return broken_mark(lock_file(folder, device))


def reason(mark: Path) -> str:
    """Return what a mark says: when which job failed, and how."""
    try:
        return mark.read_text(errors="replace").strip()
    except OSError as error:
        return str(error)


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
    sound(folder, devices, arguments.gpus, set(devices))  # before it waits
    with turn(folder, command):
        taken = collect(folder, devices, arguments.gpus)
        for descriptor in taken.values():
            sign(descriptor, command)
            os.set_inheritable(descriptor, True)
            # From now on the command's processes may hold it too. For a moment it is unlocked,
            # but nobody else takes devices while the turn is ours.
            fcntl.flock(descriptor, fcntl.LOCK_SH)
    os.environ[LEASED] = os.pathsep.join(str(lock_file(folder, device)) for device in taken)
    names = ",".join(taken)
    logging.info("GPU %s: %s", names, shlex.join(command))
    become(command, names)


if __name__ == "__main__":
    run(main)
