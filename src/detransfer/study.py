"""The configuration of a study: typed, checked before anything runs, refused with a hint.

A study is one YAML file (``config/config.yaml`` is the paper's) beside a folder of recipes
(:mod:`detransfer.recipes`). It names the backbone, the pre-trainings, the targets and the seeds;
everything else follows from these.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from detransfer.console import InputError
from detransfer.strict import Distinct, Name, Place, Plain, Strict, suggest, validate

FOLDERS_OF_DATA = ("archives", "index", "manual")  # what `data` holds besides data sets


class BackboneChoice(Strict):
    """Which network every pre-training of the study trains."""

    name: str = Field(description="timm model name, or one that `file` registers")
    arguments: dict[str, Any] = Field({}, description="further arguments of timm.create_model")
    file: Place | None = Field(None, description="Python file that registers the model with timm")


class Untrained(Strict):
    """A random initialisation: the row every table compares with."""

    kind: Literal["untrained"]
    seed: int = Field(0, ge=0, description="seed of the random weights")


class Imported(Strict):
    """Published weights: exactly one of a file, a URL with its checksum, or a timm tag."""

    kind: Literal["imported"]
    file: Place | None = Field(None, description="a .safetensors or weights-only .pth file")
    url: str | None = Field(None, description="where to download such a file")
    sha256: str | None = Field(
        None,
        description="checksum of `url`, or its first 8 or more digits (which name PyTorch's files)",
        pattern="^[0-9a-f]{8,64}$",
    )
    timm: str | None = Field(None, description="full timm tag, such as resnet101.tv_in1k")
    prefix: Plain = Field(
        "", description="what stands before timm's names in `file` or `url`; all else is left out"
    )
    start: Name | None = Field(
        None, description="a detector's: the pre-training it was trained from, to compare it with"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Imported:
        if sum(source is not None for source in (self.file, self.url, self.timm)) != 1:
            raise ValueError("give exactly one of `file`, `url` and `timm`")
        if (self.url is None) != (self.sha256 is None):
            raise ValueError("`url` and `sha256` come together: a download needs its checksum")
        if self.timm is not None and self.prefix:
            raise ValueError("`prefix` is for a `file` or `url`: a timm tag has timm's own names")
        if self.timm is not None and "." not in self.timm:
            raise ValueError("timm: give the full tag, such as resnet101.tv_in1k")
        return self


class Trained(Strict):
    """A pre-training that the study runs itself, by the recipe pretrain_<name>.yaml."""

    kind: Literal["classification", "detection"] = Field(description="the task it is trained on")
    dataset: Name = Field(description="the data set it is trained on")
    start: Name = Field(description="the pre-training it starts from (an untrained one: scratch)")
    seed: int = Field(0, ge=0, description="seed of order, augmentation and new layers")
    evaluated_on: Name | None = Field(
        None, description="data set that its quality is measured on; null: its own"
    )


class Matched(Strict):
    """The control of a detection pre-training: the same start, chips and steps, but no boxes."""

    kind: Literal["matched"]
    of: Name = Field(description="the detection pre-training that it repeats with labels alone")


Pretraining = Annotated[Untrained | Imported | Trained | Matched, Field(discriminator="kind")]


class Target(Strict):
    """A data set with a task; every pre-training is fine-tuned on it for every seed."""

    task: Literal["detection", "classification", "segmentation"] = Field(
        description="what is learnt"
    )
    dataset: Name = Field(description="the data set it is learnt on")
    pretrainings: Annotated[tuple[Name, ...], Field(min_length=1), Distinct] | None = Field(
        None, description="those that are fine-tuned on it; null: all"
    )


class DatasetChange(Strict):
    """What this study does differently from the catalog for one data set, or a new data set."""

    reader: str | None = Field(None, description="format of a data set the catalog does not have")
    archives: tuple[str, ...] | None = Field(None, description="archives, by catalog name")
    folder: Place | None = Field(
        None, description="a folder that is already extracted, instead of archives"
    )
    train_splits: tuple[Plain, ...] | None = Field(None, description="splits to train on")
    eval_split: Plain | None = Field(None, description="split to evaluate on")
    occlusion: Plain | None = Field(
        None, description="archive or folder with occlusion levels of `eval_split`; null: none"
    )
    options: dict[str, Any] = Field({}, description="options of the reader, over the catalog's")


class Resources(Strict):
    """What one job of a kind asks of the machine or the cluster."""

    gpu: int = Field(0, ge=0, description="devices of one job, a process on each")
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
    results: Place = Field(description="folder of all outputs")
    data: Place = Field(description="folder of archives, extracted data sets and indices")
    state: Place = Field(description="folder of the trainings' checkpoints and logs")
    recipes: Place = Field(Path("config/recipes"), description="folder with a folder a study")
    published: Place = Field(Path("config/published"), description="the paper's numbers")
    mirror: Plain | None = Field(None, description="folder or URL with all archives by name")
    checksums: Place | None = Field(
        None, description="sha256sum file that replaces the catalog's checksums"
    )
    render_world: bool = Field(False, description="render the archives into `mirror` first")
    world: Place | None = Field(None, description="recipe of that world; null: the study's own")
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Distinct] = Field(
        min_length=1, description="every pre-training is fine-tuned once with each"
    )
    backbone: BackboneChoice
    pretrainings: dict[Name, Pretraining] = Field(
        min_length=1, description="what is compared: where a backbone's weights come from"
    )
    targets: dict[Name, Target] = Field(min_length=1, description="what it is compared on")
    datasets: dict[Name, DatasetChange] = Field(
        {}, description="what differs from the catalog, and data sets of your own"
    )
    described: Annotated[tuple[Name, ...], Distinct] = Field(
        (), description="data sets of Table 1, used or not"
    )
    resources: JobResources

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        for name in FOLDERS_OF_DATA:
            if name in self.datasets:
                raise ValueError(f"datasets.{name}: `data` has a folder of that name for all sets")
        if self.render_world and (not self.mirror or "://" in self.mirror):
            raise ValueError("render_world: needs `mirror` to be a folder to render into")
        for name, pretraining in self.pretrainings.items():
            self._check_start(name)
            if isinstance(pretraining, Matched):
                self._check_matched(name, pretraining)
        for name, target in self.targets.items():
            for chosen in target.pretrainings or ():
                if chosen not in self.pretrainings:
                    hint = suggest(chosen, self.pretrainings)
                    raise ValueError(
                        f"targets.{name}.pretrainings: there is no pre-training {chosen!r}{hint}"
                    )
            if name in self.trained:
                raise ValueError(f"targets.{name}: a pre-training is called so too; rename one")
        return self

    def _check_matched(self, name: str, pretraining: Matched) -> None:
        repeated = self.pretrainings.get(pretraining.of)
        if not (isinstance(repeated, Trained) and repeated.kind == "detection"):
            raise ValueError(
                f"pretrainings.{name}.of: {pretraining.of!r} is no detection pre-training that the "
                f"study trains{suggest(pretraining.of, self.detectors)}"
            )

    def _check_start(self, name: str) -> None:
        seen = [name]
        while not isinstance(here := self.pretrainings[seen[-1]], Untrained):
            key, before = ("of", here.of) if isinstance(here, Matched) else ("start", here.start)
            if before is None:
                return
            if before not in self.pretrainings:
                hint = suggest(before, self.pretrainings)
                raise ValueError(
                    f"pretrainings.{seen[-1]}.{key}: there is no pre-training {before!r}{hint}"
                )
            if before in seen:
                circle = [*seen[seen.index(before) :], before]
                raise ValueError(
                    f"pretrainings.{before}: starts from itself ({' <- '.join(circle)})"
                )
            seen.append(before)

    @property
    def trained(self) -> dict[str, Trained]:
        """The pre-trainings that the study trains by a recipe of their own."""
        return {name: p for name, p in self.pretrainings.items() if isinstance(p, Trained)}

    @property
    def detectors(self) -> dict[str, Trained]:
        """The pre-trainings on detection that the study trains itself."""
        return {name: given for name, given in self.trained.items() if given.kind == "detection"}

    @property
    def contrasts(self) -> dict[str, str]:
        """What the paper asks about: a pre-training on detection, and the one it started from."""
        trained = {name: given.start for name, given in self.detectors.items()}
        imported = {
            name: given.start
            for name, given in self.pretrainings.items()
            if isinstance(given, Imported) and given.start
        }
        return trained | imported

    @property
    def matched(self) -> dict[str, Matched]:
        """The controls, which are trained by the recipe of what they repeat."""
        return {name: p for name, p in self.pretrainings.items() if isinstance(p, Matched)}

    @property
    def twins(self) -> dict[str, str]:
        """Pre-trainings on detection, each with another one of the same data set and start.

        Of several that are alike each has the next one, the last one the first.
        """
        alike: dict[tuple[str, str], list[str]] = {}
        for name, given in self.detectors.items():
            alike.setdefault((given.dataset, given.start), []).append(name)
        return {
            name: other
            for names in alike.values()
            if len(names) > 1
            for name, other in zip(names, names[1:] + names[:1], strict=True)
        }

    def source(self, name: str) -> Trained:
        """What a trained or matched pre-training is trained on; a matched one: as its original."""
        pretraining = self.pretrainings[name]
        return self.trained[pretraining.of if isinstance(pretraining, Matched) else name]

    def fine_tuned(self, target: str) -> tuple[str, ...]:
        """The pre-trainings that are fine-tuned on a target."""
        return self.targets[target].pretrainings or tuple(self.pretrainings)

    def targets_of(self, task: str) -> dict[str, Target]:
        """The targets with a given task."""
        return {name: target for name, target in self.targets.items() if target.task == task}

    @property
    def world_recipe(self) -> Path:
        """The recipe file of the rendered world."""
        return self.world or self.recipe("world")

    def recipe(self, stage: str) -> Path:
        """The recipe file of a stage, such as ``finetune_caltech256``."""
        return self.recipes / self.study / f"{stage}.yaml"


def load_study(configuration: Mapping[str, Any], source: str) -> Study:
    """Check a configuration as Snakemake hands it over; ``source`` stands in error messages.

    Raises InputError with every fault found, one a line.
    """
    return validate(Study, configuration, source)


def check_files(study: Study) -> None:
    """Raise InputError, by key, for files and folders that must be there before anything runs."""
    files = {"backbone.file": study.backbone.file}
    for name, given in study.pretrainings.items():
        if isinstance(given, Imported):
            files[f"pretrainings.{name}.file"] = given.file
    if not study.render_world:  # which makes them
        files["checksums"] = study.checksums
    absent = [
        f"{key}: there is no file {path} (seen from {Path.cwd()})"
        for key, path in files.items()
        if path is not None and not path.is_file()
    ]
    # Of a URL, file: ones among them, fetching alone can tell.
    local = study.mirror is not None and not study.render_world and ":" not in study.mirror
    if local and not Path(study.mirror or "").is_dir():
        absent.append(f"mirror: there is no folder {study.mirror} (seen from {Path.cwd()})")
    if absent:
        raise InputError("\n".join(absent))
