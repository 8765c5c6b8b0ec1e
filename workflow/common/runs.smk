# Runs: every target with every pre-training and seed, and the options that compare them.


def target_recipe(stage):
    """An input function: the recipe of a stage for the target in the wildcards."""
    return lambda wildcards: STUDY.recipe(f"{stage}_{wildcards.target}")


def target_search(wildcards):
    """What a pre-training's search of rate and decay found, where the recipe searches."""
    searching = RECIPES[f"finetune_{wildcards.target}"].search
    folder = RESULTS / "classification" / wildcards.target / wildcards.pretraining
    return folder / "search.csv" if searching else []


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


# The number that the paper gives of a detector's quality, by the metric it is scored with.
HEADLINES = {"voc": "mAP@0.5", "coco": "AP@[.5:.95]", "open_images": "mAP@0.5"}


def metric_of(name):
    """The kind of metric by which a target's or a pre-training's detections are scored."""
    return RECIPES[f"evaluate_{name}"].metric.kind


def matched_controls():
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
