# Claims, controls, and all that a whole study makes.


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


# What holds the training score of a pre-training, by its kind; nobody measures that of a control
# without boxes.
FITS = {"classification": "fit.json", "detection": "metrics.json"}


def fits():
    """The file with the training score of each pre-training that has one."""
    kinds = {name: FITS[given.kind] for name, given in STUDY.trained.items()}
    return {name: RESULTS / "pretraining" / name / file for name, file in kinds.items()}


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
    detected = STUDY.targets_of("detection")
    known = [n for n in STUDY.targets if n not in detected or metric_of(n) in ("voc", "coco")]
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
    if ACTIVE_IN:
        made += ["figure8.csv", "figure8.pdf", "figure8.png"]
    if compared_in(MASKED_OUT):
        made += ["figure9.csv", "figure9.pdf", "figure9.png"]
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
