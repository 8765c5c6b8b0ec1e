# The study, checked before anything is planned, and the names that the rules share.
import json
import os
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

REPOSITORY = Path(workflow.basedir)
sys.path.insert(0, str(REPOSITORY / "src"))
os.environ.update(PYTHONPATH=str(REPOSITORY / "src"))  # jobs need no installed package

from detransfer.console import InputError
from detransfer.data.datasets import study_datasets
from detransfer.data.formats import READERS
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
ARCHIVES = sorted({name for dataset in DATASETS.values() for name in dataset.fetched})
GIVEN = [name for name in STUDY.pretrainings if name not in STUDY.trained]


def one_of(names):
    """The constraint that a wildcard is one of a closed set of names."""
    return "|".join(re.escape(name) for name in sorted(names)) or "(?!)"


wildcard_constraints:
    archive=one_of(ARCHIVES),
    dataset=one_of(DATASETS),
    pretraining=one_of(STUDY.pretrainings),
    target=one_of(STUDY.targets),
    seed=one_of(str(seed) for seed in STUDY.seeds),


def code(program, loaded=None):
    """The program and every module that it imports: an edit makes stale what used it."""
    script, package = REPOSITORY / "scripts" / f"{program}.py", REPOSITORY / "src/detransfer"
    return [os.path.relpath(file) for file in imported_files(script, package, loaded)]


def index_code(wildcards):
    """What an index depends on: of all readers, the one for the data set's format."""
    reader = READERS[DATASETS[wildcards.dataset].reader]
    return code("index", {"detransfer.data.readers": [reader]})


def images(dataset):
    """The folder of a data set's files: a given one, or that of its extracted archives."""
    return DATASETS[dataset].folder or DATA / dataset


def index_folder(dataset):
    return DATA / "index" / dataset


def index_files(dataset):
    """The three files of an index; those that some readers add lie beside them."""
    names = ("images.parquet", "objects.parquet", "classes.csv")
    return [index_folder(dataset) / name for name in names]


def occlusion_release(wildcards):
    """Where the occlusion levels of a data set come from: a fetched archive, or a given folder."""
    given = DATASETS[wildcards.dataset].occlusion
    return DATA / "archives" / given if given in ARCHIVES else given


def target_occlusion(wildcards):
    """The occlusion levels of a target's test objects, where its data set has some."""
    dataset = STUDY.targets[wildcards.target].dataset
    return index_folder(dataset) / "occlusion.parquet" if DATASETS[dataset].occlusion else []


def index(dataset):
    """The files of an index, and the images they speak of."""
    return {"index": index_files(dataset), "images": images(dataset)}


def checked_index(dataset):
    """An index that has been looked over; the report's date says nothing about the numbers."""
    findings = RESULTS / "datasets" / dataset / "check.csv"
    return {**index(dataset), "check": ancient(findings)}


def target_index(wildcards):
    return checked_index(STUDY.targets[wildcards.target].dataset)


def source_index(wildcards):
    return checked_index(STUDY.trained[wildcards.pretraining].dataset)


def target_index_folder(wildcards):
    return index_folder(STUDY.targets[wildcards.target].dataset)


def source_index_folder(wildcards):
    return index_folder(STUDY.trained[wildcards.pretraining].dataset)


def source_dataset(wildcards):
    return DATASETS[STUDY.trained[wildcards.pretraining].dataset]


def target_dataset(wildcards):
    return DATASETS[STUDY.targets[wildcards.target].dataset]


def target_recipe(stage):
    """An input function: the recipe of a stage for the target in the wildcards."""
    return lambda wildcards: STUDY.recipe(f"{stage}_{wildcards.target}")


def rendered_archive(wildcards):
    """Where an archive is rendered first, if the study's world is a rendered one."""
    return f"{STUDY.mirror}/{wildcards.archive}" if STUDY.render_world else []


def trained_by(kind):
    """The constraint on pre-trainings that the study trains on a kind of task."""
    return one_of(name for name, given in STUDY.trained.items() if given.kind == kind)


def given_weights(wildcards):
    """The options of import_backbone.py that say where the weights come from."""
    given = STUDY.pretrainings[wildcards.pretraining]
    if isinstance(given, Untrained):
        return f"--untrained --seed {given.seed}"
    if given.timm:
        return f"--timm {given.timm}"
    if given.url:
        return f"--url {given.url} --sha256 {given.sha256}"
    return f"--weights {given.file}"


def given_file(wildcards):
    given = STUDY.pretrainings[wildcards.pretraining]
    return given.file if isinstance(given, Imported) and given.file else []


def backbone(pretraining):
    return RESULTS / "pretraining" / pretraining / "backbone.safetensors"


def runs(task, file):
    """One file of every run of a task: all targets, pre-trainings and seeds."""
    return expand(
        RESULTS / "{task}" / "{target}" / "{pretraining}" / "seed{seed}" / file,
        task=task,
        target=STUDY.targets_of(task),
        pretraining=STUDY.pretrainings,
        seed=STUDY.seeds,
    )


def tables_and_figures():
    """All that a study makes; the runs' metrics too, so that a lost one is made again."""
    made = [f"datasets/{name}/statistics.png" for name in STUDY.described]
    if STUDY.described:
        made += ["table1.csv"]
    if STUDY.targets_of("detection"):
        made += ["table2.csv", "figure1.csv", "figure1.pdf", "figure1.png"]
        made += ["table3.csv", "diagnosis.csv", "diagnosis.pdf", "diagnosis.png"]
    if STUDY.targets_of("classification"):
        made += ["table5.csv"]
    metrics = runs("detection", "metrics.json") + runs("classification", "metrics.json")
    return [RESULTS / name for name in made] + metrics
