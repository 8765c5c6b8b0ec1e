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
from detransfer.features.recipe import analysed_targets, compared, load_analysis
from detransfer.imports import imported_files
from detransfer.recipes import load_recipes, superclasses
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


def index_code(wildcards):
    """What an index depends on: of all readers, the one for the data set's format."""
    reader = READERS[DATASETS[wildcards.dataset].reader]
    loaded = {"detransfer.data.readers": [reader], "detransfer.data.options": []}
    return code("index", loaded)  # the reader imports its options itself


def images(dataset):
    """The folder of a data set's files: a given one, or that of its extracted archives."""
    return DATASETS[dataset].folder or DATA / dataset


def index_folder(dataset):
    return DATA / "index" / dataset


def index_place(wildcards):
    """The folder of an index as a text, which the key of a shared output needs of a parameter."""
    return str(index_folder(wildcards.dataset))


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
    return checked_index(STUDY.source(wildcards.pretraining).dataset)


def quality_index(wildcards):
    """What the evaluation of a pre-training reads: its own data set and the evaluation's."""
    evaluation = index(quality_dataset(wildcards))
    return {**source_index(wildcards), "evaluation": [*evaluation["index"], evaluation["images"]]}


def target_index_folder(wildcards):
    return index_folder(STUDY.targets[wildcards.target].dataset)


def source_index_folder(wildcards):
    return str(index_folder(STUDY.source(wildcards.pretraining).dataset))


def source_dataset(wildcards):
    return DATASETS[STUDY.source(wildcards.pretraining).dataset]


def quality_dataset(wildcards):
    """The name of the data set that a detection pre-training is evaluated on."""
    source = STUDY.trained[wildcards.pretraining]
    return source.evaluated_on or source.dataset


def target_dataset(wildcards):
    return DATASETS[STUDY.targets[wildcards.target].dataset]


def target_recipe(stage):
    """An input function: the recipe of a stage for the target in the wildcards."""
    return lambda wildcards: STUDY.recipe(f"{stage}_{wildcards.target}")


def target_search(wildcards):
    """What a pre-training's search of rate and decay found, where the recipe searches."""
    searching = RECIPES[f"finetune_{wildcards.target}"].search
    folder = RESULTS / "classification" / wildcards.target / wildcards.pretraining
    return folder / "search.csv" if searching else []


def published_checksum(wildcards):
    """What fixes an archive's content, and so what comes from it: another sum, another archive."""
    archive = CATALOG[wildcards.archive]
    return archive.sha256 or archive.md5 or "unknown"


def parts(wildcards, input):
    """The archives of a data set, each with the folder inside it that it is unpacked into."""
    names = DATASETS[wildcards.dataset].archives
    pairs = zip(input.archives, names, strict=True)
    return [f"--part {path} {CATALOG[name].extract_to}" for path, name in pairs]


def kept_offsets(wildcards):
    """The detector whose offsets a segmenter keeps: of a pre-training on detection, if asked to."""
    recipe = RECIPES[f"finetune_{wildcards.target}"]
    if recipe.offsets == "zero" or wildcards.pretraining not in STUDY.detectors:
        return []
    return RESULTS / "pretraining" / wildcards.pretraining / "model.safetensors"


def rendered_archive(wildcards):
    """Where an archive is rendered first, if the study's world is a rendered one."""
    return f"{STUDY.mirror}/{wildcards.archive}" if STUDY.render_world else []


def trained_by(kind):
    """The constraint on pre-trainings that the study trains on a kind of task."""
    return one_of(name for name, given in STUDY.trained.items() if given.kind == kind)


def source_recipe(wildcards):
    """The recipe that trains a pre-training; a matched one: that of what it repeats."""
    return STUDY.recipe(f"pretrain_{original(wildcards.pretraining)}")


def original(pretraining):
    """The pre-training whose chips a pre-training is trained on: itself, if it is not matched."""
    return STUDY.matched[pretraining].of if pretraining in STUDY.matched else pretraining


def mined(stage, folder):
    """The proposals that a stage's recipe takes negative chips from, where it takes any."""
    chips = getattr(RECIPES[stage], "chips", None)
    return folder / "proposals.parquet" if chips and chips.negatives else []


def source_proposals(wildcards):
    name = original(wildcards.pretraining)
    return mined(f"pretrain_{name}", RESULTS / "pretraining" / name)


def target_proposals(wildcards):
    place = f"{wildcards.target}/{wildcards.pretraining}/seed{wildcards.seed}"
    return mined(f"finetune_{wildcards.target}", RESULTS / "detection" / place)


def with_proposals(wildcards, input):
    """The option of a detector's training that names the proposals, where there are any."""
    return f"--proposals {input.proposals}" if input.proposals else ""


def source_superclasses(wildcards):
    """The super-classes that a detection pre-training detects, where its recipe asks for any."""
    name = wildcards.pretraining
    return RESULTS / "pretraining" / name / "superclasses.csv" if name in GROUPED else []


def with_superclasses(wildcards, input):
    """The options of a detector's pre-training that name further files, where there are any."""
    more = with_proposals(wildcards, input)
    return f"{more} --superclasses {input.superclasses}" if input.superclasses else more


def own_metrics(wildcards):
    """The quality of a pre-training on detection at its own task."""
    name = wildcards.pretraining
    return RESULTS / "pretraining" / name / "metrics.json" if name in STUDY.detectors else []


def card_data(wildcards):
    """The options of model_card.py that name what a pre-training was trained on here."""
    if wildcards.pretraining in GIVEN:
        return ""
    dataset = STUDY.source(wildcards.pretraining).dataset
    rendered = "--rendered" if STUDY.render_world else ""
    return f"--dataset {dataset} {rendered} --archives {' '.join(DATASETS[dataset].archives)}"


def given_weights(wildcards):
    """The options of import_backbone.py that say where the weights come from."""
    given = STUDY.pretrainings[wildcards.pretraining]
    if isinstance(given, Untrained):
        return f"--untrained --seed {given.seed}"
    if given.timm:
        return f"--timm {given.timm}"
    prefix = f"--prefix {given.prefix}" if given.prefix else ""
    if given.url:
        return f"--url {shlex.quote(given.url)} --sha256 {given.sha256} {prefix}"
    return f"--weights {given.file} {prefix}"


def given_file(wildcards):
    given = STUDY.pretrainings[wildcards.pretraining]
    return given.file if isinstance(given, Imported) and given.file else []


def backbone(pretraining):
    return RESULTS / "pretraining" / pretraining / "backbone.safetensors"


def frozen(pretraining):
    """The weights that features are taken from: of a training the model, with its offsets."""
    name = "model" if pretraining in TRAINED else "backbone"
    return RESULTS / "pretraining" / pretraining / f"{name}.safetensors"


def features(dataset, pretraining):
    return RESULTS / "features" / dataset / pretraining


def recorded_splits(wildcards):
    """The options that say of which images features are recorded: a target's test images too."""
    dataset = DATASETS[wildcards.dataset]
    probed = {STUDY.targets[name].dataset for name in PROBED}
    test = [f"--eval-split {dataset.eval_split}"] if wildcards.dataset in probed else []
    return " ".join(["--splits", *dataset.train_splits, *test])


def recorded_layers(dataset, pretraining):
    """The layers that are recorded: Conv5, and for Table 7 those of a detector's head."""
    first = [STUDY.targets[name].dataset for name in PROBED[:1]]
    every = pretraining in STUDY.detectors and dataset in first
    return ["conv5", *(RECIPES[f"pretrain_{pretraining}"].head.layers if every else ())]


def runs(task, file, metric=None):
    """One file of every run of a task: its targets (of one metric), pre-trainings and seeds."""
    return [
        RESULTS / task / target / pretraining / f"seed{seed}" / file
        for target in STUDY.targets_of(task)
        if metric is None or metric_of(target) == metric
        for pretraining in STUDY.fine_tuned(target)
        for seed in STUDY.seeds
    ]


def contrasted(task, target):
    """The options of a comparison of images: two runs of the first seed, their index and split."""
    given, options = STUDY.targets[target], []
    where = f"{index_folder(given.dataset)} {DATASETS[given.dataset].eval_split}"
    for pair in STUDY.contrasts.items():
        if set(pair) <= set(STUDY.fine_tuned(target)):
            two = (RESULTS / task / target / name / f"seed{STUDY.seeds[0]}" for name in pair)
            options.append(f"--pair {' '.join(map(str, two))} {where}")
    return options


def target_features(wildcards):
    return features(STUDY.targets[wildcards.target].dataset, wildcards.pretraining)


def probes(targets, part, pretrainings=STUDY.pretrainings):
    """One file or folder of the probes of every run on some targets."""
    return [
        RESULTS / "probe" / target / pretraining / f"seed{seed}" / part
        for target in targets
        for pretraining in STUDY.fine_tuned(target)
        if pretraining in pretrainings
        for seed in STUDY.seeds
    ]


# The feature spaces that are looked at, (data set, pre-training), and the pairs that are compared.
ANALYSED = [
    (STUDY.targets[target].dataset, pretraining)
    for target in analysed_targets(STUDY, ANALYSIS)
    for pretraining in STUDY.fine_tuned(target)
]
COMPARED = [
    (STUDY.targets[target].dataset, *pair)
    for target in analysed_targets(STUDY, ANALYSIS)
    for pair in compared(STUDY, ANALYSIS, target)
]
ANALYSED_DATASETS = list(dict(ANALYSED))


def space(dataset, pretraining, file):
    return RESULTS / "spaces" / dataset / pretraining / file


def of_spaces(file):
    """One file of each feature space that is looked at."""
    return [space(*each, file) for each in ANALYSED]


def analysed_features():
    return [features(*each) for each in ANALYSED]


def spaces(*files):
    """The options that name each feature space, and files of it (FEATURES: its recording)."""
    return [
        f"--space {dataset} {name} "
        + " ".join(
            str(features(dataset, name) if file == "features" else space(dataset, name, file))
            for file in files
        )
        for dataset, name in ANALYSED
    ]


EXPLORED = [*dict(ANALYSED)][:1]  # the data set that the explorer page shows


def explored(file):
    """One file of each feature space of the explorer (features: the folder of its recording)."""
    own = [each for each in ANALYSED if each[0] in EXPLORED]
    return [features(*each) if file == "features" else space(*each, file) for each in own]


def space_pairs():
    """The options that name the pairs of feature spaces that are compared."""
    return [f"--pair {' '.join(pair)}" for pair in COMPARED]


def space_indices():
    """The options that name the index of each data set whose feature spaces are looked at."""
    return [f"--index {name} {index_folder(name)}" for name in ANALYSED_DATASETS]


def head_metrics(folders):
    """The metrics of the layers in folders of probe_head, from each head's entrance to its exit."""
    return [
        folder / layer / "metrics.json"
        for folder in folders
        for layer in RECIPES[f"pretrain_{folder.parents[1].name}"].head.layers
    ]


HEADS = probes(CLASSIFIED[:1], "head", STUDY.detectors)  # of Table 7


# The number that the paper gives of a detector's quality, by the metric it is scored with.
HEADLINES = {"voc": "mAP@0.5", "coco": "AP@[.5:.95]", "open_images": "mAP@0.5"}


def metric_of(name):
    """The kind of metric by which a target's or a pre-training's detections are scored."""
    return RECIPES[f"evaluate_{name}"].metric.kind


def by_dataset(targets):
    """The first target on each data set."""
    found = {}
    for name in targets:
        found.setdefault(STUDY.targets[name].dataset, name)
    return found


# Data sets whose test images are looked at: those of the probed targets are masked out, and those
# of segmentation have masks that activation maps are held against. Each with its first target.
MASKED_OUT = by_dataset(PROBED)
VISUALIZED = by_dataset([*PROBED, *STUDY.targets_of("segmentation")]) if CLASSIFIED else {}
WITH_MASKS = [name for name in VISUALIZED if name not in MASKED_OUT]
ACTIVE_IN = [*WITH_MASKS, *VISUALIZED][:1]  # in Figure 8, which says so where there are no masks
WITH_OBJECTS = [name for name, target in MASKED_OUT.items() if target not in CLASSIFIED]


def visualization_probe(wildcards):
    """The files of the probe, of the first seed, whose probabilities are mapped."""
    place = f"{MASKED_OUT[wildcards.dataset]}/{wildcards.pretraining}/seed{STUDY.seeds[0]}/conv5"
    names = ("metrics.json", "classes.csv", "probe.safetensors")
    return [RESULTS / "probe" / place / name for name in names]


def visualized(datasets, file):
    """One file of what every pre-training makes of the test images of some data sets."""
    return [
        RESULTS / "visualization" / dataset / name / file
        for dataset in datasets
        for name in (
            STUDY.fine_tuned(MASKED_OUT[dataset])
            if dataset in MASKED_OUT
            else STUDY.pretrainings  # a map of activations needs no probe
        )
    ]


def visualized_targets(datasets):
    """The options that tell a figure of data sets: target, folder of the index, split."""
    return [
        f"--target {VISUALIZED[name]} {index_folder(name)} {DATASETS[name].eval_split}"
        for name in datasets
    ]


def controls():
    """The options of a comparison: each pre-training on detection with its matched control."""
    return [f"--control {given.of} {name}" for name, given in STUDY.matched.items()]


VOC_PAIRS = [
    pair
    for target in STUDY.targets_of("detection")
    if metric_of(target) == "voc"
    for pair in contrasted("detection", target)
]
MASK_PAIRS = [
    pair
    for target in STUDY.targets_of("segmentation")
    for pair in contrasted("segmentation", target)
]


def evaluated(task):
    """The indices and images of all targets of a task."""
    datasets = {given.dataset for given in STUDY.targets_of(task).values()}
    return [file for name in sorted(datasets) for file in [*index_files(name), images(name)]]


def contrasts():
    """The options of a comparison: each pre-training on detection with what it started from."""
    return [f"--contrast {name} {start}" for name, start in STUDY.contrasts.items()]


# What the claims are tested on: the runs, and the files of each that hold its images one by one.
CLAIMED = {
    "detection": ("metrics.json", "detections.parquet", "objects.parquet"),
    "segmentation": ("metrics.json", "confusion.parquet"),
    "classification": ("metrics.json", "predictions.parquet"),
    "conv5": ("metrics.json", "predictions.parquet"),
}


SPACE_FILES = ("clusters.parquet", "embedding.parquet")


def claimed(task, file):
    """One file, or the folder, of every run that claims of a task are about."""
    if task == "conv5":
        return probes(CLASSIFIED, f"conv5/{file}")
    kinds = ("voc", "coco") if task == "detection" else (None,)
    # What was missed is told by VOC's rules alone.
    kinds = ("voc",) if file == "objects.parquet" else kinds
    return [each for kind in kinds for each in runs(task, file, kind)]


def tested_targets():
    """The options that name the index and the test split of every target."""
    return [
        f"--index {name} {index_folder(target.dataset)} {DATASETS[target.dataset].eval_split}"
        for name, target in STUDY.targets.items()
    ]


def design():
    """The options that say what is compared: starts, controls without boxes, and who is untrained."""
    starts = [f"--start {name} {start}" for name, start in STUDY.contrasts.items()]
    matched = [f"--matched {given.of} {name}" for name, given in STUDY.matched.items()]
    untrained = [n for n, given in STUDY.pretrainings.items() if isinstance(given, Untrained)]
    twins = [f"--twin {name} {twin}" for name, twin in STUDY.twins.items()]
    untrained = ["--untrained", *untrained] if untrained else []
    return [*starts, *matched, *twins, *untrained]


# Controls: where their files lie, and what they are run on.
CONTROLS = RESULTS / "controls"
DRAWS = range(5)  # permutations of the labels: in one, whole classes may keep theirs by luck
FIRST = sorted(set(STUDY.contrasts.values()))[:1]  # what the pre-trainings on detection start from


def permuted(kind, file=""):
    """A file, or the folder, of every run of a control that learnt permuted labels."""
    return [
        CONTROLS / f"shuffled_{kind}" / target / pretraining / f"seed{seed}" / file
        for target in CLASSIFIED
        for pretraining in FIRST
        if pretraining in STUDY.fine_tuned(target)
        for seed in DRAWS
    ]


def lines():
    """The tables of controls that are told from the data of the targets alone."""
    known = [n for n in STUDY.targets if n not in STUDY.targets_of("detection")]
    known += [name for name in STUDY.targets_of("detection") if metric_of(name) == "voc"]
    boxes = [name for name in known if name not in STUDY.targets_of("segmentation")]
    leaks = boxes if STUDY.render_world else []
    found = [CONTROLS / "floors" / f"{name}.csv" for name in known]
    return found + [CONTROLS / "leaks" / f"{name}.csv" for name in leaks]


# What only `make controls` runs is taken in where it is: outcomes of other studies, which no rule
# here makes.
def other_worlds(pattern):
    return sorted(CONTROLS.glob(pattern))


def dial_points():
    """Contrast and folder of the same probes in this world and in those with fainter objects."""
    place = f"{CLASSIFIED[0]}/*/seed{STUDY.seeds[0]}/conv5" if CLASSIFIED else "none"
    faint = other_worlds(f"contrast_*/probe/{place}/metrics.json")
    points = [(file.parts[-7].removeprefix("contrast_"), file.parent) for file in faint]
    names = sorted({folder.parents[1].name for _, folder in points})
    here = RESULTS / "probe" / CLASSIFIED[0] if CLASSIFIED else RESULTS
    own = [("1.00", here / name / f"seed{STUDY.seeds[0]}" / "conv5") for name in names]
    return points + own if points else []


def blank_runs():
    """The runs of a world where there is nothing to see."""
    found = [other_worlds(f"contrast_0.00/{task}/*/*/seed*/metrics.json") for task in TASKS]
    return [file.parent for files in found for file in files]


def tables_and_figures():
    """All that a study makes; the runs' metrics too, so that a lost one is made again."""
    made = [f"datasets/{name}/statistics.png" for name in STUDY.described]
    made += [f"pretraining/{name}/README.md" for name in STUDY.pretrainings]
    if STUDY.described:
        made += ["table1.csv"]
    if runs("detection", "metrics.json", "voc"):
        made += ["table2.csv", "figure1.csv", "figure1.pdf", "figure1.png"]
        made += ["table3.csv", "diagnosis.csv", "diagnosis.pdf", "diagnosis.png"]
    if VOC_PAIRS:
        made += ["figure2.csv", "figure2.pdf", "figure2.png"]
    if runs("detection", "metrics.json", "coco"):
        made += ["coco_finetuning.csv"]
    if STUDY.detectors:
        made += ["pretraining.csv"]
    if CLASSIFIED:
        made += ["table5.csv", "table6.csv", "breakdown.csv"]
        made += ["few_shot.csv", "few_shot.pdf", "few_shot.png"]
        made += ["table7.csv"] if HEADS else []
        made += ["similarity.csv", "explorer.html"]
    if COMPARED:
        made += [f"figure{n}.{kind}" for n in (5, 6, 7) for kind in ("csv", "pdf", "png")]
    if VISUALIZED and STUDY.contrasts:
        made += [f"figure{number}.{kind}" for number in (8, 9) for kind in ("csv", "pdf", "png")]
    if STUDY.targets_of("segmentation"):
        made += ["table4.csv", "table4_classes.csv", "figure4.csv", "figure4.pdf", "figure4.png"]
    if MASK_PAIRS:
        made += ["figure3.csv", "figure3.pdf", "figure3.png"]
    if STUDY.targets:
        made += ["controls.csv", "claims.csv"]
        made += ["dial.csv", "dial.pdf", "dial.png"] if dial_points() else []
    metrics = [file for task in TASKS for file in runs(task, "metrics.json")]
    metrics += probes(PROBED, "conv5/metrics.json")
    return [RESULTS / name for name in made] + metrics


def planned():
    """The names of the tables and pictures that the study makes."""
    return sorted(path.name for path in tables_and_figures() if path.parent == RESULTS)


def asking():
    """What, before the name of a file, makes Snakemake make it."""
    files = [os.path.relpath(file) for file in workflow.overwrite_configfiles]
    return " ".join(["snakemake", *(["--configfile", *files] if files else []), "--"])


def held_gpus():
    """The devices that a job of each rule holds, of those that hold any."""
    asked = {rule.name: rule.resources.get("gpu").value for rule in workflow.rules}
    return [f"{name}={number}" for name, number in asked.items() if number]
