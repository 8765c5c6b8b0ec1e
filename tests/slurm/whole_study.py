"""The whole demo as jobs of a real Slurm on this machine, and a log of what became of each job.

No test, for it takes half an hour. As root:

    python -m tests.slurm.whole_study FOLDER LOG

runs the demo of this working tree in FOLDER, which does not exist yet, and writes LOG.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.slurm import cluster
from tests.slurm.test_slurm import SLURM, Watch, fill_in
from tests.workflow.checkout import ENVIRONMENT, copy_repository

GPU = "resources={train: {gpu: 1}, predict: {gpu: 1}}"  # which the demo does without
DEMO = ("--configfile", "config/demo.yaml", "--config", GPU)
LINE = "{:>5} {:>3} {:>8} {:>5} {:>8} {:>9} {:>5}  {}\n"
HEAD = ("job", "GPU", "started", "s", "restarts", "state", "exit", "rule and wildcards")


def main(folder: Path, log: Path) -> int:
    """Run the study, write the log, and return Snakemake's exit status."""
    folder.mkdir(parents=True)
    checkout = copy_repository(Path(__file__).parents[2], folder)
    fill_in(checkout.folder / "profiles/slurm/profile.yaml")
    watch, devices = Watch(), {}
    with tempfile.TemporaryDirectory() as daemons, cluster.run(Path(daemons)):
        start = time.monotonic()
        running = subprocess.Popen(
            [sys.executable, "-m", "snakemake", *DEMO, *SLURM],
            cwd=checkout.folder,
            env={**ENVIRONMENT, "DETRANSFER_GPUS": str(cluster.DEVICES)},
        )
        while running.poll() is None:
            watch.look()
            # Slurm forgets them when the job ends.
            devices |= {
                job["JobId"]: given for job in cluster.jobs() if (given := cluster.devices(job))
            }
            time.sleep(1)
        summary = (
            f"{time.monotonic() - start:.0f} s, Snakemake's exit status {running.returncode}; "
            f"at most {watch.most} GPUs in use, {len(watch.shared)} with two jobs\n\n"
        )
        lines = [line(job, devices.get(job["JobId"], set())) for job in cluster.jobs()]
    log.write_text(summary + LINE.format(*HEAD) + "".join(lines))
    return running.returncode


def line(job: dict[str, str], devices: set[int]) -> str:
    """Return the line of a finished job."""
    hours, minutes, seconds = map(int, job["RunTime"].split(":"))
    return LINE.format(
        job["JobId"],
        ",".join(map(str, sorted(devices))),
        job["StartTime"].partition("T")[2],
        3600 * hours + 60 * minutes + seconds,
        job["Restarts"],
        job["JobState"],
        job["ExitCode"],
        job["Comment"].removeprefix("rule_").replace("_wildcards_", " "),
    )


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
