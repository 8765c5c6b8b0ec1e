#!/usr/bin/env python
"""Submit one of Snakemake's job scripts as a Kubernetes Job, and print the Job's name.

The Job is that of job.yaml beside this file, with what the rule asks for put in.
"""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import yaml

TEMPLATE = Path(__file__).with_name("job.yaml")
PROPERTIES = "# properties = "
# Kubernetes signals the first process of a container alone, and with it all others end; so this one
# hands SIGTERM on and stays until the last of them has saved its state.
COMMAND = """\
set -m
trap 'kill -TERM -- -$job' TERM
/bin/sh "$0" & job=$!
wait $job
wait $job
status=$?
while kill -0 -- -$job 2> /dev/null; do sleep 0.2; done
exit $status
"""


def properties(script: Path) -> dict[str, Any]:
    """Return what Snakemake writes of a job at the head of its script."""
    lines = script.read_text().splitlines()
    found: dict[str, Any] = json.loads(
        next(line.removeprefix(PROPERTIES) for line in lines if line.startswith(PROPERTIES))
    )
    return found


def manifest(template: dict[str, Any], job: dict[str, Any], script: Path) -> dict[str, Any]:
    """Return the Job for a script, from the template and the job's properties."""
    asked = job["resources"]
    rule = str(job.get("rule") or job["groupid"])
    requests: dict[str, Any] = {"cpu": job["threads"], "memory": f"{asked['mem_mb']}M"}
    template["metadata"]["name"] = f"{rule.replace('_', '-').lower()[:50]}-{uuid.uuid4().hex[:8]}"
    wildcards = " ".join(f"{name}={value}" for name, value in job.get("wildcards", {}).items())
    template["metadata"]["annotations"] = {"rule": rule, "wildcards": wildcards}
    pod = template["spec"]["template"]["spec"]
    if "runtime" in asked:  # of the pod, for that of a Job also counts the time in the queue
        pod["activeDeadlineSeconds"] = 60 * int(asked["runtime"])
    container = pod["containers"][0]
    container["command"] = ["bash", "-c", COMMAND, str(script.resolve())]
    container["resources"] = {"requests": requests}
    if gpus := int(asked.get("gpu", 0)):
        container["resources"]["limits"] = {"nvidia.com/gpu": gpus}
    return template


def main() -> None:
    script = Path(sys.argv[1])
    job = manifest(yaml.safe_load(TEMPLATE.read_text()), properties(script), script)
    subprocess.run(
        ["kubectl", "create", "--filename=-"],
        input=json.dumps(job),
        text=True,
        stdout=sys.stderr,
        check=True,
    )
    print(job["metadata"]["name"])


if __name__ == "__main__":
    main()
