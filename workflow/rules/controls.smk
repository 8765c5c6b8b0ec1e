# Controls: what must hold before a verdict counts (docs/claims.md).
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


rule floors:
    input:
        unpack(target_index),
        finetune=target_recipe("finetune"),
        evaluate=lambda wildcards: (
            STUDY.recipe(f"evaluate_{wildcards.target}")
            if STUDY.targets[wildcards.target].task == "detection"
            else []
        ),
        code=code("floors"),
    output:
        CONTROLS / "floors" / "{target}.csv",
    log:
        LOGS / "floors" / "{target}.log",
    benchmark:
        TIMES / "floors" / "{target}.tsv"
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=STUDY.resources.predict.mem_mb,
        runtime=STUDY.resources.predict.runtime,
    params:
        index=target_index_folder,
        task=lambda wildcards: STUDY.targets[wildcards.target].task,
        splits=lambda wildcards: target_dataset(wildcards).train_splits,
        split=lambda wildcards: target_dataset(wildcards).eval_split,
        evaluate=lambda wildcards, input: f"--evaluate {input.evaluate}" if input.evaluate else "",
    shell:
        "python scripts/floors.py --task {params.task} --index {params.index} "
        "--splits {params.splits} --eval-split {params.split} --finetune {input.finetune} "
        "{params.evaluate} --target {wildcards.target} --output {output} 2> {log}"


# Of a rendered world only: on photographs the background tells something of the class.
rule leaks:
    input:
        unpack(target_index),
        code=code("leaks"),
    output:
        CONTROLS / "leaks" / "{target}.csv",
    log:
        LOGS / "leaks" / "{target}.log",
    benchmark:
        TIMES / "leaks" / "{target}.tsv"
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=STUDY.resources.predict.mem_mb,
        runtime=STUDY.resources.predict.runtime,
    params:
        index=target_index_folder,
        splits=lambda wildcards: target_dataset(wildcards).train_splits,
        split=lambda wildcards: target_dataset(wildcards).eval_split,
    shell:
        "python scripts/leaks.py --index {params.index} --splits {params.splits} "
        "--eval-split {params.split} --target {wildcards.target} --output {output} 2> {log}"


use rule probe as probe_shuffled with:
    output:
        directory(CONTROLS / "shuffled_probe" / "{target}" / "{pretraining}" / "seed{seed}"),
    log:
        LOGS / "probe_shuffled" / "{target}" / "{pretraining}" / "seed{seed}.log",
    benchmark:
        TIMES / "probe_shuffled" / "{target}" / "{pretraining}" / "seed{seed}.tsv"
    wildcard_constraints:
        target=one_of(CLASSIFIED),
        seed=one_of(map(str, DRAWS)),
    params:
        layers="conv5",
        curves="--shuffle-labels",
        index=target_index_folder,
        splits=lambda wildcards: target_dataset(wildcards).train_splits,
        split=lambda wildcards: target_dataset(wildcards).eval_split,
        dataset=lambda wildcards: STUDY.targets[wildcards.target].dataset,
        folder=str(CONTROLS / "shuffled_probe" / "{target}" / "{pretraining}" / "seed{seed}"),


SHUFFLED = CONTROLS / "shuffled_finetuning" / "{target}" / "{pretraining}" / "seed{seed}"


use rule finetune_classifier as finetune_shuffled with:
    output:
        model=SHUFFLED / "model.safetensors",
        fit=SHUFFLED / "fit.json",
    log:
        LOGS / "finetune_shuffled" / "{target}" / "{pretraining}" / "seed{seed}.log",
    benchmark:
        TIMES / "finetune_shuffled" / "{target}" / "{pretraining}" / "seed{seed}.tsv"
    wildcard_constraints:
        pretraining=one_of(STUDY.pretrainings),
        target=one_of(CLASSIFIED),
        seed=one_of(map(str, DRAWS)),
    params:
        program="train_classifier",
        gpu=STUDY.resources.train.gpu,
        index=target_index_folder,
        splits=lambda wildcards: target_dataset(wildcards).train_splits,
        seed="{seed}",
        state=str(STATE / "shuffled" / "{target}" / "{pretraining}" / "seed{seed}"),
        folder=subpath(output.model, parent=True),
        more=lambda wildcards, input: (
            f"--shuffle-labels --search {input.search}" if input.search else "--shuffle-labels"
        ),


use rule classify as classify_shuffled with:
    input:
        unpack(target_index),
        model=SHUFFLED / "model.safetensors",
        fit=SHUFFLED / "fit.json",
        architecture=STUDY.backbone.file or [],
        code=code("classify"),
    output:
        metrics=SHUFFLED / "metrics.json",
        predictions=SHUFFLED / "predictions.parquet",
    log:
        LOGS / "classify_shuffled" / "{target}" / "{pretraining}" / "seed{seed}.log",
    benchmark:
        TIMES / "classify_shuffled" / "{target}" / "{pretraining}" / "seed{seed}.tsv"
    wildcard_constraints:
        target=one_of(CLASSIFIED),
        seed=one_of(map(str, DRAWS)),


rule dial:
    input:
        metrics=[point / "metrics.json" for _, point in dial_points()],
        code=code("dial"),
    output:
        table=RESULTS / "dial.csv",
        pdf=RESULTS / "dial.pdf",
        png=report(
            RESULTS / "dial.png",
            caption="../report/dial.rst",
            category="Claims",
            labels={"figure": "dial", "shows": "a frozen pair at five contrasts"},
        ),
    log:
        LOGS / "dial.log",
    benchmark:
        TIMES / "dial.tsv"
    conda:
        "../../envs/torch.yaml"
    params:
        points=[f"--point {contrast} {point}" for contrast, point in dial_points()],
    shell:
        "python scripts/dial.py {params.points} --csv {output.table} --pdf {output.pdf} "
        "--png {output.png} 2> {log}"
