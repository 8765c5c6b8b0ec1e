"""A real Slurm on this one machine: one node, eight pretended GPUs, no accounting.

Slurm reads /etc/slurm/slurm.conf wherever it is started from (SLURM_CONF does not reach the step
that an inner ``srun`` starts), so a machine that has a cluster's configuration is left alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ETC = Path("/etc/slurm")
MARK = "# written by the tests of detransfer\n"
PACKAGES = ("slurm-wlm", "munge")
DEVICES = 8
CONFIGURATION = f"""{MARK}ClusterName=tests
SlurmctldHost={{host}}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=2,bf_interval=2
GresTypes=gpu
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MailProg=/bin/true
ReturnToService=2
KillWait=30
MinJobAge=36000
StateSaveLocation={{folder}}/state
SlurmdSpoolDir={{folder}}/spool
SlurmctldPidFile={{folder}}/slurmctld.pid
SlurmdPidFile={{folder}}/slurmd.pid
SlurmctldLogFile={{folder}}/slurmctld.log
SlurmdLogFile={{folder}}/slurmd.log
NodeName=localhost NodeHostname={{host}} NodeAddr=127.0.0.1 CPUs={{cpus}} RealMemory={{memory}} \
  Gres=gpu:{{model}}:{DEVICES}
PartitionName=gpu Nodes=ALL Default=YES State=UP
"""
MODEL = "pretended"


def why_not() -> str | None:
    """Return why no Slurm can be started here; None where one can."""
    if os.environ.get("DETRANSFER_SLURM") != "1":
        return "`make slurm` runs this: it installs Slurm and needs root"
    if os.geteuid() != 0:
        return "only root can install Slurm and start it"
    written = ETC / "slurm.conf"
    if written.exists() and not written.read_text().startswith(MARK):
        return f"this machine belongs to a cluster ({written})"
    if shutil.which("slurmctld") is None or shutil.which("munged") is None:
        return install()
    return None


def install() -> str | None:
    """Install Debian's packages without starting their services; return what went wrong."""
    if shutil.which("apt-get") is None:
        return "no apt-get here, and Slurm is not installed"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for words in (("update",), ("install", "--yes", "--no-install-recommends", *PACKAGES)):
        done = subprocess.run(
            ["apt-get", "-qq", *words], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            return f"apt-get {words[0]} failed: {last}"
    return None


@dataclass
class Cluster:
    """The running daemons."""

    folder: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def configure(self) -> None:
        """Write the two configuration files and make the devices."""
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        for number in range(DEVICES):  # what /dev/null is: opened, and never more
            os.mknod(self.folder / f"gpu{number}", 0o666 | 0o020000, os.makedev(1, 3))
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20 * 9 // 10
        text = CONFIGURATION.format(
            host=socket.gethostname().partition(".")[0],
            folder=self.folder,
            cpus=os.cpu_count(),
            memory=memory,
            model=MODEL,
        )
        ETC.mkdir(exist_ok=True)
        (ETC / "slurm.conf").write_text(text)
        files = f"{self.folder}/gpu[0-{DEVICES - 1}]"
        (ETC / "gres.conf").write_text(
            f"{MARK}NodeName=localhost Name=gpu Type={MODEL} File={files}\n"
        )

    def start(self, name: str, *words: str, user: str | None = None) -> None:
        """Start a daemon in the foreground, as a child of this process."""
        log = (self.folder / f"{name}.out").open("ab")
        self.running[name] = subprocess.Popen(
            [name, *words], stdout=log, stderr=log, user=user, start_new_session=True
        )

    def stop(self, name: str, sent: signal.Signals = signal.SIGTERM) -> None:
        """Stop a daemon by its own process id."""
        process = self.running.pop(name)
        process.send_signal(sent)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        if process.poll() is None:
            process.kill()
            process.wait()

    def start_node(self) -> None:
        self.start("slurmd", "-D", "-N", "localhost")

    def wait_until_idle(self, seconds: float = 30) -> None:
        """Wait for the node to answer; raises TimeoutError with what the daemons said."""
        end = time.monotonic() + seconds
        while "idle" not in (said := ask("sinfo", "--noheader", "--format=%T")):
            if time.monotonic() > end:
                logs = "\n".join(f.read_text()[-2000:] for f in self.folder.glob("*.log"))
                raise TimeoutError(f"no node after {seconds} s: {said}\n{logs}")
            time.sleep(0.2)


def ask(*words: str) -> str:
    """Return what one of Slurm's commands prints, errors too."""
    done = subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return done.stdout


def jobs() -> list[dict[str, str]]:
    """Return the fields of every job that Slurm remembers, as scontrol names them."""
    listed = ask("scontrol", "show", "jobs", "--details", "--oneliner")
    return [
        dict(re.findall(r"(\w+)=(\S*)", line))
        for line in listed.splitlines()
        if line.startswith("JobId=")
    ]


def devices(job: dict[str, str]) -> set[int]:
    """Return the numbers of the devices that a running job has."""
    found: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", job.get("GRES", "").partition("IDX:")[2]):
        found |= set(range(int(first), int(last or first) + 1))
    return found


def end_jobs(seconds: float = 40) -> None:
    """Cancel all jobs and wait until they are gone: a step outlives the daemon that started it."""
    ask("scancel", "--user=root")
    end = time.monotonic() + seconds
    while ask("squeue", "--noheader").strip() and time.monotonic() < end:
        ask("scancel", "--user=root", "--signal=KILL", "--full")
        time.sleep(0.5)


@contextlib.contextmanager
def run(folder: Path) -> Iterator[Cluster]:
    """Run munge, the controller and one node for the time of the body."""
    cluster = Cluster(folder)
    cluster.configure()
    Path("/run/munge").mkdir(exist_ok=True)
    shutil.chown("/run/munge", "munge", "munge")
    try:
        cluster.start("munged", "--foreground", "--force", user="munge")
        cluster.start("slurmctld", "-D", "-c")
        cluster.start_node()
        cluster.wait_until_idle()
        yield cluster
    finally:
        end_jobs()
        for name in reversed(list(cluster.running)):
            cluster.stop(name)
        for file in ("slurm.conf", "gres.conf"):
            (ETC / file).unlink(missing_ok=True)
