"""The configuration of a study: typed, checked before anything runs, refused with a hint.

A study is one YAML file (``config/config.yaml`` is the paper's) beside a folder of recipes
(:mod:`detransfer.recipes`). It names the backbone, the pre-trainings, the targets and the seeds;
everything else follows from these.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from detransfer.console import InputError

NAME = r"^[a-z][a-z0-9_]*$"
Name = Annotated[str, Field(pattern=NAME)]


class Strict(BaseModel):
    """A section of a configuration or recipe: frozen, and without room for unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


M = TypeVar("M", bound=Strict)


class BackboneChoice(Strict):
    """Which network every pre-training of the study trains."""

    name: str = Field(description="timm model name, or one that `file` registers")
    arguments: dict[str, Any] = Field({}, description="further arguments of timm.create_model")
    file: Path | None = Field(None, description="Python file that registers the model with timm")


class Untrained(Strict):
    """A random initialisation: the row every table compares with."""

    kind: Literal["untrained"]
    seed: int = Field(0, ge=0, description="seed of the random weights")


class Imported(Strict):
    """Published weights: exactly one of a file, a URL with its checksum, or a timm tag."""

    kind: Literal["imported"]
    file: Path | None = Field(None, description="a .safetensors or weights-only .pth file")
    url: str | None = Field(None, description="where to download such a file")
    sha256: str | None = Field(None, description="checksum of `url`", pattern="^[0-9a-f]{64}$")
    timm: str | None = Field(None, description="full timm tag, such as resnet101.tv_in1k")

    @model_validator(mode="after")
    def _one_source(self) -> Imported:
        if sum(source is not None for source in (self.file, self.url, self.timm)) != 1:
            raise ValueError("give exactly one of `file`, `url` and `timm`")
        if (self.url is None) != (self.sha256 is None):
            raise ValueError("`url` and `sha256` come together: a download needs its checksum")
        return self


class Trained(Strict):
    """A pre-training that the study runs itself, by the recipe pretrain_<name>.yaml."""

    kind: Literal["classification", "detection"] = Field(description="the task it is trained on")
    dataset: Name = Field(description="the data set it is trained on")
    start: Name = Field(description="the pre-training it starts from (an untrained one: scratch)")
    seed: int = Field(0, ge=0, description="seed of order, augmentation and new layers")


Pretraining = Annotated[Untrained | Imported | Trained, Field(discriminator="kind")]


class Target(Strict):
    """A data set with a task; every pre-training is fine-tuned on it for every seed."""

    task: Literal["detection", "classification"] = Field(description="what is learnt")
    dataset: Name = Field(description="the data set it is learnt on")


class DatasetChange(Strict):
    """What this study does differently from the catalog for one data set, or a new data set."""

    reader: str | None = Field(None, description="format of a data set the catalog does not have")
    archives: tuple[str, ...] | None = Field(None, description="archives, by catalog name")
    folder: Path | None = Field(
        None, description="a folder that is already extracted, instead of archives"
    )
    train_splits: tuple[str, ...] | None = Field(None, description="splits to train on")
    eval_split: str | None = Field(None, description="split to evaluate on")
    occlusion: str | None = Field(
        None, description="archive or folder with occlusion levels of `eval_split`; null: none"
    )
    options: dict[str, Any] = Field({}, description="options of the reader, over the catalog's")


class Resources(Strict):
    """What one job of a kind asks of the machine or the cluster."""

    gpu: int = Field(0, ge=0, description="devices")
    threads: int = Field(1, ge=1, description="processor cores")
    mem_mb: int = Field(2000, gt=0, description="main memory, MB")
    runtime: int = Field(60, gt=0, description="wall-clock limit, minutes")


class JobResources(Strict):
    """Resources by kind of job."""

    train: Resources = Field(description="pre-training and fine-tuning")
    predict: Resources = Field(description="inference and evaluation")
    data: Resources = Field(description="download, extraction, indexing, rendering")


class Study(Strict):
    """One study: what is compared, on what, and where the files lie."""

    study: Name = Field(description="name of the study; recipes lie in `recipes`/<study>")
    results: Path = Field(description="folder of all outputs")
    data: Path = Field(description="folder of archives, extracted data sets and indices")
    state: Path = Field(description="folder of checkpoints of running trainings")
    recipes: Path = Field(Path("config/recipes"), description="folder with a folder a study")
    published: Path = Field(Path("config/published"), description="the paper's numbers")
    mirror: str | None = Field(None, description="folder or URL with all archives by name")
    checksums: Path | None = Field(
        None, description="sha256sum file that replaces the catalog's checksums"
    )
    render_world: bool = Field(False, description="render the archives into `mirror` first")
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    backbone: BackboneChoice
    pretrainings: dict[Name, Pretraining] = Field(min_length=1)
    targets: dict[Name, Target] = Field(min_length=1)
    datasets: dict[Name, DatasetChange] = {}
    described: tuple[Name, ...] = Field((), description="data sets of Table 1, used or not")
    resources: JobResources

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        for seed in self.seeds:
            if self.seeds.count(seed) > 1:
                raise ValueError(f"seeds: {seed} stands there twice")
        if self.render_world and (self.mirror is None or "://" in self.mirror):
            raise ValueError("render_world: needs `mirror` to be a folder to render into")
        for name in self.trained:
            self._check_start(name)
        return self

    def _check_start(self, name: str) -> None:
        seen = [name]
        while isinstance(here := self.pretrainings[seen[-1]], Trained):
            if here.start not in self.pretrainings:
                hint = suggest(here.start, self.pretrainings)
                raise ValueError(
                    f"pretrainings.{seen[-1]}.start: there is no pre-training {here.start!r}{hint}"
                )
            if here.start in seen:
                circle = [*seen[seen.index(here.start) :], here.start]
                raise ValueError(
                    f"pretrainings.{here.start}: starts from itself ({' <- '.join(circle)})"
                )
            seen.append(here.start)

    @property
    def trained(self) -> dict[str, Trained]:
        """The pre-trainings that the study trains itself."""
        return {name: p for name, p in self.pretrainings.items() if isinstance(p, Trained)}

    def targets_of(self, task: str) -> dict[str, Target]:
        """The targets with a given task."""
        return {name: target for name, target in self.targets.items() if target.task == task}

    def recipe(self, stage: str) -> Path:
        """The recipe file of a stage, such as ``finetune_caltech256``."""
        return self.recipes / self.study / f"{stage}.yaml"


def load_study(configuration: Mapping[str, Any], source: str) -> Study:
    """Check a configuration as Snakemake hands it over; ``source`` stands in error messages.

    Raises InputError with every fault found, one a line.
    """
    return validate(Study, configuration, source)


def load_recipe_file(path: Path, model: type[M]) -> M:
    """Read one YAML file into a typed model.

    Raises InputError for a missing file, broken YAML (with the line), an unknown key (with the
    closest known one) and a value of the wrong type or range.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file; write one or correct its name") from None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise InputError(f"{path}: {line}not readable as YAML: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected keys and values, found {type(content).__name__}")
    return validate(model, content, str(path))


def validate(model: type[M], content: Mapping[str, Any], source: str) -> M:
    """Return ``content`` as ``model``; raises InputError with one line a fault."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        lines = [f"{source}: {_describe(model, fault)}" for fault in error.errors()]
        raise InputError("\n".join(lines)) from None


def suggest(word: str, known: Mapping[str, Any] | set[str] | list[str]) -> str:
    """Return the hint that closes an error message: the closest known name, or all names."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"


def _describe(model: type[Strict], fault: ErrorDetails) -> str:
    steps = [str(part) for part in fault["loc"]]
    if steps[:1] == ["pretrainings"]:
        del steps[2:3]  # the kind, which pydantic puts between a pre-training and its keys
    place = ".".join(steps)
    if fault["type"] == "union_tag_not_found":
        return f"key '{place}.kind' is missing"
    if fault["type"] == "extra_forbidden":
        known = set(_fields_at(model, [str(part) for part in fault["loc"][:-1]]))
        key = str(fault["loc"][-1])
        return f"unknown key {place!r}{suggest(key, known)}"
    if fault["type"] == "missing":
        return f"key {place!r} is missing"
    message = fault["msg"].removeprefix("Value error, ")
    given = fault["input"]
    shown = "" if isinstance(given, Mapping | BaseModel) else f" (got {given!r})"
    return f"{place}: {message}{shown}" if place else message


def _fields_at(model: type[Strict], place: list[str]) -> Iterator[str]:
    """Yield the keys known at ``place``; steps that are no fields (keys, tags) are passed over."""
    models = [model]
    for step in place:
        fields = [m.model_fields[step].annotation for m in models if step in m.model_fields]
        inner = [m for annotation in fields for m in _models_in(annotation)]
        tagged = [m for m in models if step in _tags(m)]
        models = inner or tagged or models
    for found in models:
        yield from found.model_fields


def _models_in(annotation: Any) -> Iterator[type[Strict]]:
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _tags(model: type[Strict]) -> tuple[Any, ...]:
    return tuple(
        tag
        for name in ("kind", "task")
        if name in model.model_fields
        for tag in get_args(model.model_fields[name].annotation)
    )
