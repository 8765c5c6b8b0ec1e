"""A stand-in for kubectl: a Job's container is a process on this machine, the cluster a folder.

KUBERNETES names the folder: <job>.json is what was created, <job>.pid the first process of its
container, <job>.exit the status that this ended with.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

CLUSTER = Path(os.environ["KUBERNETES"])


def create() -> None:
    job = json.load(sys.stdin)
    name = job["metadata"]["name"]
    (CLUSTER / f"{name}.json").write_text(json.dumps(job))
    subprocess.Popen(
        [sys.executable, __file__, "container", name],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    print(f"job.batch/{name} created")


def container(name: str) -> None:
    job = json.loads((CLUSTER / f"{name}.json").read_text())
    command = job["spec"]["template"]["spec"]["containers"][0]["command"]
    with (CLUSTER / f"{name}.log").open("wb") as log:
        running = subprocess.Popen(command, cwd="/", stdout=log, stderr=log, start_new_session=True)
    (CLUSTER / f"{name}.pid").write_text(str(running.pid))
    status = running.wait()
    for other in psutil.pids():  # a container ends with its first process
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(other) == running.pid:
                os.kill(other, signal.SIGKILL)
    (CLUSTER / f"{name}.exit").write_text(str(status))


def get(name: str) -> None:
    if not (CLUSTER / f"{name}.json").exists():
        return
    ended, conditions = CLUSTER / f"{name}.exit", []
    if ended.exists():
        kind = "Failed" if int(ended.read_text()) else "Complete"
        conditions = [
            {"type": "Suspended", "status": "False"},
            {"type": kind, "status": "True"},
        ]
    print(json.dumps({"status": {"conditions": conditions}}))


def delete(names: list[str]) -> None:
    for name in names:
        (CLUSTER / f"{name}.json").unlink(missing_ok=True)
        os.kill(int((CLUSTER / f"{name}.pid").read_text()), signal.SIGTERM)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["create", "--filename=-"]:
            create()
        case ["container", name]:
            container(name)
        case ["get", "job", name, "--output=json", "--ignore-not-found"]:
            get(name)
        case ["delete", "job", "--wait=false", "--ignore-not-found", *names]:
            delete(names)
        case words:
            sys.exit(f"kubectl of the tests does not know {words}")
