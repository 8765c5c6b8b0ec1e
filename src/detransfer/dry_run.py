"""What Snakemake says it would do: the jobs of a dry run, and how long they take side by side."""

from __future__ import annotations

import heapq
import re
import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """One job that Snakemake would run."""

    rule: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    benchmark: str
    threads: int
    gpus: int
    command: tuple[str, ...]

    def options(self, name: str) -> list[str]:
        """Return the words behind an option of the command; none where it is not given."""
        if name not in self.command:
            return []
        rest = self.command[self.command.index(name) + 1 :]
        end = next((i for i, word in enumerate(rest) if word.startswith("--")), len(rest))
        return list(rest[:end])

    def option(self, name: str) -> str | None:
        return next(iter(self.options(name)), None)


def read_jobs(text: str) -> list[Job]:
    """Return the jobs of a dry run's output."""
    jobs = []
    for block in text.split("\n\n"):
        head = re.search(r"^(?:local)?rule (\w+):$", block, re.M)
        if head is None:
            continue
        fields = dict(re.findall(r"^    ([\w ]+): (.*)$", block, re.M))
        command = re.search(r"^Shell command: (.*)$", block, re.M)
        resources = dict(re.findall(r"(\w+)=([^,]*)", fields.get("resources", "")))
        jobs.append(
            Job(
                rule=head[1],
                inputs=_names(fields.get("input")),
                outputs=_names(fields.get("output")),
                benchmark=fields.get("benchmark", ""),
                threads=int(fields.get("threads", 1)),
                gpus=int(resources.get("gpu", 0)),
                command=tuple(shlex.split(command[1])) if command else (),
            )
        )
    return jobs


def _names(field: str | None) -> tuple[str, ...]:
    return tuple(field.split(", ")) if field else ()


def wall_time(jobs: Sequence[Job], seconds: Sequence[float], gpus: int, cores: int) -> float:
    """Return the seconds until the last job ends, each started as soon as it can, in order.

    A job that asks for more than there is gets what there is.
    """
    maker = {output: number for number, job in enumerate(jobs) for output in job.outputs}
    waits = [{maker[name] for name in job.inputs if name in maker} for job in jobs]
    after = defaultdict(list)
    for number, needed in enumerate(waits):
        for other in needed:
            after[other].append(number)
    ready = [number for number, needed in enumerate(waits) if not needed]
    free, now = [gpus, cores], 0.0
    running: list[tuple[float, int]] = []
    while ready or running:
        for number in list(ready):
            asked = min(jobs[number].gpus, gpus), min(jobs[number].threads, cores)
            if asked[0] <= free[0] and asked[1] <= free[1]:
                free = [free[0] - asked[0], free[1] - asked[1]]
                ready.remove(number)
                heapq.heappush(running, (now + (seconds[number]), number))
        now, number = heapq.heappop(running)
        free[0] += min(jobs[number].gpus, gpus)
        free[1] += min(jobs[number].threads, cores)
        for other in after[number]:
            waits[other].discard(number)
            if not waits[other]:
                ready.append(other)
    return now
