# What frozen networks look at: the data sets whose test images are mapped.


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


def looked_at(dataset):
    """The pre-trainings whose maps of a data set's test images are made."""
    if dataset in MASKED_OUT:
        return STUDY.fine_tuned(MASKED_OUT[dataset])
    return STUDY.pretrainings  # a map of activations needs no probe


# The pairs (run, baseline) of Figures 8 and 9, which are those of Figures 5 to 7.
SEEN_PAIRS = [(run, baseline) for baseline, run in pairs_of(STUDY, ANALYSIS)]


def compared_in(datasets):
    """The data sets on which both runs of a pair are looked at."""
    return [name for name in datasets if any({*pair} <= {*looked_at(name)} for pair in SEEN_PAIRS)]


def seen_pairs():
    """The options of Figures 8 and 9 that name the pairs, and the controls beside them."""
    return [f"--contrast {run} {baseline}" for run, baseline in SEEN_PAIRS] + matched_controls()


# In Figure 8, which says so where there are no masks.
ACTIVE_IN = compared_in([*WITH_MASKS, *VISUALIZED])[:1]
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
        for name in looked_at(dataset)
    ]


def visualized_targets(datasets):
    """The options that tell a figure of data sets: target, folder of the index, split."""
    return [
        f"--target {VISUALIZED[name]} {index_folder(name)} {DATASETS[name].eval_split}"
        for name in datasets
    ]
