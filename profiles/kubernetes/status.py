#!/usr/bin/env python
"""Print whether a Kubernetes Job is `running`, a `success` or `failed`, as Snakemake asks."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

ENDS = {"Complete": "success", "Failed": "failed"}


def state(said: str) -> str:
    """Return the state of a Job from what kubectl says of it; nothing is said of a deleted one."""
    if not said.strip():
        return "failed"
    conditions = json.loads(said)["status"].get("conditions", [])
    ends = [ENDS.get(one["type"]) for one in conditions if one["status"] == "True"]
    return next(filter(None, ends), "running")


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for Snakemake alone
    words = ["kubectl", "get", "job", sys.argv[1], "--output=json", "--ignore-not-found"]
    asked = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    # A controller that does not answer now says nothing about the Job: ask again later.
    print("running" if asked.returncode else state(asked.stdout))


if __name__ == "__main__":
    main()
