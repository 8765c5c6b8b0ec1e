# The study, checked before anything is planned, and the names that the rules share.
import json
import os
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

REPOSITORY = Path(workflow.basedir)
sys.path.insert(0, str(REPOSITORY / "src"))
os.environ["PYTHONPATH"] = str(REPOSITORY / "src")  # jobs need no installed package

from detransfer.console import InputError
from detransfer.data.datasets import study_datasets
from detransfer.imports import imported_files
from detransfer.recipes import check_recipes
from detransfer.study import Imported, Untrained, load_study

try:
    STUDY = load_study(config, "configuration")
    DATASETS = study_datasets(STUDY)
    check_recipes(STUDY)
except InputError as error:
    raise WorkflowError(str(error)) from None

RESULTS, DATA, STATE = STUDY.results, STUDY.data, STUDY.state
LOGS, TIMES = RESULTS / "logs", RESULTS / "benchmarks"
ARCHIVES = sorted({name for dataset in DATASETS.values() for name in dataset.archives})
GIVEN = [name for name in STUDY.pretrainings if name not in STUDY.trained]
RUN = RESULTS / "{task}" / "{target}" / "{pretraining}" / "seed{seed}"


def one_of(names):
    """The constraint that a wildcard is one of a closed set of names."""
    return "|".join(re.escape(name) for name in sorted(names)) or "(?!)"


wildcard_constraints:
    archive=one_of(ARCHIVES),
    dataset=one_of(DATASETS),
    pretraining=one_of(STUDY.pretrainings),
    target=one_of(STUDY.targets),
    seed=one_of(str(seed) for seed in STUDY.seeds),


def code(program):
    """The program and every module that it imports: an edit makes stale what used it."""
    files = imported_files(REPOSITORY / "scripts" / f"{program}.py", REPOSITORY / "src/detransfer")
    return [os.path.relpath(file) for file in files]


def index_folder(dataset):
    return DATA / "index" / dataset


def index(dataset):
    """The files of an index, and the images they speak of."""
    folder = index_folder(dataset)
    tables = [folder / name for name in ("images.parquet", "objects.parquet", "classes.csv")]
    return {"index": tables, "images": DATA / dataset}


def target_index(wildcards):
    return index(STUDY.targets[wildcards.target].dataset)


def source_index(wildcards):
    return index(STUDY.trained[wildcards.pretraining].dataset)


def target_index_folder(wildcards):
    return index_folder(STUDY.targets[wildcards.target].dataset)


def source_index_folder(wildcards):
    return index_folder(STUDY.trained[wildcards.pretraining].dataset)


def target_dataset(wildcards):
    return DATASETS[STUDY.targets[wildcards.target].dataset]


def target_recipe(stage):
    """An input function: the recipe of a stage for the target in the wildcards."""
    return lambda wildcards: STUDY.recipe(f"{stage}_{wildcards.target}")


def backbone(pretraining):
    return RESULTS / "pretraining" / pretraining / "backbone.safetensors"


def runs(task, file):
    """One file of every run of a task: all targets, pre-trainings and seeds."""
    return expand(
        RUN / file,
        task=task,
        target=STUDY.targets_of(task),
        pretraining=STUDY.pretrainings,
        seed=STUDY.seeds,
    )


def tables_and_figures():
    made = []
    if STUDY.targets_of("detection"):
        made += ["table2.csv", "figure1.csv", "figure1.pdf", "figure1.png"]
    if STUDY.targets_of("classification"):
        made += ["table5.csv"]
    return [RESULTS / name for name in made]
