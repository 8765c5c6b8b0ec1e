"""pyproject.toml, the lock and the conda environments name the same packages and versions."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from detransfer.imports import imported_files

# What the conda environments install: Python 3.11 on Linux, on the usual processors.
CONDA = {
    "python_version": "3.11",
    "python_full_version": "3.11.9",
    "sys_platform": "linux",
    "platform_machine": "x86_64",
}
ENVIRONMENTS = ("environment.yml", "envs/data.yaml", "envs/torch.yaml", "envs/report.yaml")


@dataclass(frozen=True)
class Locked:
    """One entry of the lock: ``name==version ; marker`` and how many hashes follow."""

    requirement: Requirement
    hashes: int

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> str:
        return str(self.requirement.specifier).removeprefix("==")


def read_lock(text: str) -> list[Locked]:
    lines = [line for line in text.splitlines() if re.match(r"[A-Za-z0-9]|    --hash", line)]
    entries: list[Locked] = []
    for line in lines:
        if line.startswith("    --hash=sha256:"):
            last = entries.pop()
            entries.append(Locked(last.requirement, last.hashes + 1))
        else:
            entries.append(Locked(Requirement(line.rstrip("\\ ")), 0))
    return entries


def faults_of_lock(text: str) -> list[str]:
    """Return what keeps the lock from being installed with --require-hashes from any index."""
    found = [f"{e.name}: no hash" for e in read_lock(text) if e.hashes == 0]
    found += [f"{e.name}: no exact version" for e in read_lock(text) if not pinned(e.requirement)]
    found += [f"address: {a}" for a in re.findall(r"\S+://\S+|^-.+", text, re.M)]
    return found


def pinned(requirement: Requirement) -> bool:
    return bool(re.fullmatch(r"==[\w.]+", str(requirement.specifier))) and not requirement.url


def faults_of_pins(pins: dict[str, str], lock: list[Locked]) -> list[str]:
    """Return the pins (name to version) of a conda environment that differ from the lock."""
    versions = {
        e.name: e.version
        for e in lock
        if e.requirement.marker is None or e.requirement.marker.evaluate(CONDA)
    }
    return [f"{n}: {v}, locked {versions.get(n)}" for n, v in pins.items() if versions.get(n) != v]


def read_pins(path: Path) -> dict[str, str]:
    """Return the pip section of a conda environment, name to exact version."""
    sections = [d for d in yaml.safe_load(path.read_text())["dependencies"] if isinstance(d, dict)]
    assert len(sections) == 1, f"{path}: one pip section"
    requirements = [Requirement(line) for line in sections[0]["pip"]]
    assert all(pinned(r) for r in requirements), f"{path}: every version is pinned by =="
    pins = {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in requirements}
    assert len(pins) == len(requirements), f"{path}: a package stands there twice"
    return pins


@pytest.fixture(scope="module")
def lock_text(repository: Path) -> str:
    return (repository / "envs/requirements.lock").read_text()


@pytest.fixture(scope="module")
def wanted(repository: Path) -> list[Requirement]:
    """All direct dependencies, those for development too."""
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    return [Requirement(line) for line in lines]


def test_the_lock_has_all_that_the_project_wants(wanted: list[Requirement], lock_text: str) -> None:
    lock = read_lock(lock_text)
    for requirement in wanted:
        versions = [e.version for e in lock if e.name == canonicalize_name(requirement.name)]
        assert versions, f"{requirement.name} is not locked: make lock"
        for version in versions:
            assert requirement.specifier.contains(version), f"{requirement}: locked {version}"


def test_the_lock_is_complete_and_names_no_index(lock_text: str) -> None:
    assert len(read_lock(lock_text)) > 100
    assert faults_of_lock(lock_text) == []


def test_faults_of_a_lock_are_found() -> None:
    good = "a==1.0 \\\n    --hash=sha256:12\n    # via b\n"
    assert faults_of_lock(good) == []
    assert faults_of_lock(good + "b==2\n") == ["b: no hash"]
    assert faults_of_lock("a>=1 \\\n    --hash=sha256:12\n") == ["a: no exact version"]
    for line in ("--index-url example", "--find-links wheels", "# from https://example.org/x"):
        assert len(faults_of_lock(f"{line}\n{good}")) == 1, line


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_conda_environments_are_pinned_as_locked(
    repository: Path, lock_text: str, name: str
) -> None:
    pins = read_pins(repository / name)
    assert faults_of_pins(pins, read_lock(lock_text)) == []
    assert set(pins) <= set(read_pins(repository / "environment.yml"))
    content = yaml.safe_load((repository / name).read_text())
    assert "python=3.11" in content["dependencies"] and "pip" in content["dependencies"]
    assert content["channels"] == ["conda-forge", "nodefaults"]
    assert ("torch" in pins) == ("torchvision" in pins)


def test_a_wrong_pin_is_found() -> None:
    lock = read_lock(
        "a==1 ; python_full_version < '3.12' \\\n    --hash=sha256:1\n"
        "a==2 ; python_full_version >= '3.12' \\\n    --hash=sha256:2\n"
    )
    assert faults_of_pins({"a": "1"}, lock) == []
    assert faults_of_pins({"a": "2", "b": "1"}, lock) == ["a: 2, locked 1", "b: 1, locked None"]


def test_the_whole_environment_has_every_direct_dependency(
    repository: Path, wanted: list[Requirement]
) -> None:
    names = {canonicalize_name(requirement.name) for requirement in wanted}
    assert names <= set(read_pins(repository / "environment.yml"))


def test_torch_and_torchvision_are_a_pair(lock_text: str) -> None:
    """torchvision's own metadata says which torch it was built against."""
    versions = {e.name: e.version for e in read_lock(lock_text)}
    if importlib.metadata.version("torchvision").partition("+")[0] == versions["torchvision"]:
        needs = [Requirement(r) for r in importlib.metadata.requires("torchvision") or []]
        torch = next(r for r in needs if r.name == "torch")
        assert torch.specifier.contains(versions["torch"])
    # Since torch 2.0 and torchvision 0.15 the minor versions rise together.
    minor = {name: int(versions[name].split(".")[1]) for name in ("torch", "torchvision")}
    assert minor["torchvision"] == minor["torch"] + 15


def test_python_is_the_one_that_the_lock_was_made_for(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11"
    makefile = (repository / "Makefile").read_text()
    assert "--python-version 3.11" in makefile
    assert re.search(r"^UV_VERSION := \d+\.\d+\.\d+$", makefile, re.M)


def programs_by_environment(rules: str) -> dict[str, set[str]]:
    """Return the scripts that rules run in each conda environment, read off the .smk text."""
    parents, environments, programs = {}, {}, {}
    for text in re.split(r"^\s*(?=(?:use )?rule )", rules, flags=re.M):
        for parent, name in re.findall(r"^(?:use rule (\w+) as|rule) (\w+)", text):
            parents[name] = parent
            environments[name] = re.findall(r"envs/(\w+\.yaml)", text)
            programs[name] = set(re.findall(r"scripts/(\w+)\.py", text))
            programs[name] |= set(re.findall(r'program="(\w+)"', text))
    found: dict[str, set[str]] = {}
    for name, run in programs.items():
        origin = name
        while origin and not environments[origin]:  # inherited
            origin = parents[origin]
        if origin:
            found.setdefault(f"envs/{environments[origin][0]}", set()).update(run)
    return found


def third_party(program: Path, source: Path) -> set[str]:
    """Return the distributions that a script imports, by itself or through this package."""
    modules: set[str] = set()
    for file in imported_files(program, source):
        for node in ast.walk(ast.parse(file.read_text())) if file.suffix == ".py" else ():
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module.partition(".")[0])
    modules -= {source.name, *sys.stdlib_module_names}
    owners = importlib.metadata.packages_distributions()
    return {canonicalize_name(owners[module][0]) for module in modules}


def with_requirements(names: set[str]) -> set[str]:
    """Return distributions and what they themselves require."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # not for this machine
            lines = []
        for line in lines:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(requirement.name))
    return found


def test_each_rule_finds_what_its_program_imports(repository: Path) -> None:
    rules = "\n".join(file.read_text() for file in (repository / "workflow/rules").glob("*.smk"))
    programs = programs_by_environment(rules)
    assert {"envs/data.yaml", "envs/torch.yaml", "envs/report.yaml"} == set(programs)
    for name, scripts in programs.items():
        assert scripts, f"no program runs in {name}"
        offered = with_requirements(set(read_pins(repository / name)))
        for script in sorted(scripts):
            needs = third_party(repository / f"scripts/{script}.py", repository / "src/detransfer")
            assert needs <= offered, f"{script}.py needs {needs - offered}, not in {name}"
