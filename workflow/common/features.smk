# Frozen features: which are recorded and probed, and which feature spaces are looked at.


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
