# The study, checked before anything is planned, and the names that the rules share.
import json
import os
import re
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

REPOSITORY = Path(workflow.basedir)
sys.path.insert(0, str(REPOSITORY / "src"))
os.environ.update(PYTHONPATH=str(REPOSITORY / "src"))  # jobs need no installed package

from detransfer.console import InputError
from detransfer.data.catalog import load_catalog
from detransfer.data.datasets import study_datasets
from detransfer.data.formats import READERS
from detransfer.features.recipe import analysed_targets, compared, load_analysis, pairs_of
from detransfer.imports import imported_files
from detransfer.recipes.loading import load_recipes, superclasses
from detransfer.study import Imported, Untrained, check_files, load_study
from detransfer.visualization.recipe import load_visualization

try:
    STUDY = load_study(config, "configuration")
    check_files(STUDY)
    DATASETS = study_datasets(STUDY)
    RECIPES = load_recipes(STUDY)
    ANALYSIS = load_analysis(STUDY)
    if "probe" in RECIPES:
        RECIPES["visualization"] = load_visualization(STUDY, RECIPES["features"])
except InputError as error:
    raise WorkflowError(str(error)) from None

RESULTS, DATA, STATE = STUDY.results, STUDY.data, STUDY.state
ONE_GPU = min(1, STUDY.resources.predict.gpu)  # of programs that run in one process
LOGS, TIMES = RESULTS / "logs", RESULTS / "benchmarks"
# Whether downloads and pre-trainings are shared between checkouts (docs/cluster.md). Snakemake
# allows such a rule no benchmark; the record of a training (fit.json) has its time and memory.
SHARED = "SNAKEMAKE_OUTPUT_CACHE" in os.environ
CATALOG = load_catalog().archives
ARCHIVES = sorted({name for dataset in DATASETS.values() for name in dataset.fetched})
TRAINED = [*STUDY.trained, *STUDY.matched]
# The key of a pre-training covers files, and cannot cover a folder that no job has made.
SHARED_TRAINING = SHARED and not any(DATASETS[p.dataset].folder for p in STUDY.trained.values())
GIVEN = [name for name in STUDY.pretrainings if name not in TRAINED]
GROUPED = [name for name in STUDY.detectors if superclasses(RECIPES[f"pretrain_{name}"]) > 1]


def cores_of(asked):
    """The cores of a job that may hold GPUs, as many as its resources ask for.

    Fewer where the machine has fewer for each GPU, so that no GPU waits for cores.
    """
    limits = {name: workflow.global_resources.get(name) for name in ("_cores", "gpu")}
    cores, gpus = (limit and limit.value for limit in limits.values())
    share = cores * asked.gpu // gpus if cores and gpus and asked.gpu else asked.threads
    return max(1, min(asked.threads, share))


TRAIN_CORES = cores_of(STUDY.resources.train)
PREDICT_CORES = cores_of(STUDY.resources.predict)


# A scheduler that stops a job signals every process. Without the trap the shell would end at once,
# Snakemake after it, and with them the training, before its state is saved.
shell.prefix("set -euo pipefail; trap : TERM; ")


# Targets whose frozen features are probed: those of classification (Table 7: the first), and the
# first of detection, whose images show how large and how many their objects are.
CLASSIFIED = [*STUDY.targets_of("classification")]
PROBED = [*CLASSIFIED, *[*STUDY.targets_of("detection")][:1]] if CLASSIFIED else []
TASKS = ("detection", "segmentation", "classification")


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
    """The program and every module that it imports: an edit makes stale what used it.

    Not so download.py: whatever code fetched a file, its checksum says that it is the same.
    """
    script, package = REPOSITORY / "scripts" / f"{program}.py", REPOSITORY / "src/detransfer"
    files = imported_files(script, package, loaded)
    return [os.path.relpath(file) for file in files if file.name != "download.py"]
