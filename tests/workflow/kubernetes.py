"""A cluster of Kubernetes for the tests: kubectl on the PATH is that of kubectl.py."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.workflow.checkout import ENVIRONMENT


@dataclass(frozen=True)
class Kubernetes:
    """The folder of the stand-in."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a program that shall find it."""
        path = f"{self.folder}:{ENVIRONMENT['PATH']}"
        return {**ENVIRONMENT, "PATH": path, "KUBERNETES": str(self.folder)}

    def jobs(self, rule: str) -> list[dict[str, Any]]:
        """Return the Jobs of a rule, in the order of their creation."""
        files = sorted(self.folder.glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
        found = [json.loads(file.read_text()) for file in files]
        return [job for job in found if job["metadata"]["annotations"]["rule"] == rule]

    def process(self, job: dict[str, Any]) -> int:
        """Return the first process of a Job's container."""
        return int((self.folder / f"{job['metadata']['name']}.pid").read_text())


def install(folder: Path) -> Kubernetes:
    """Put the stand-in into an empty folder."""
    program = folder / "kubectl"
    words = map(shlex.quote, (sys.executable, str(Path(__file__).with_name("kubectl.py"))))
    program.write_text(f'#!/bin/sh\nexec {" ".join(words)} "$@"\n')
    program.chmod(0o755)
    return Kubernetes(folder)
