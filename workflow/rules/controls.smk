# Controls: what must hold before a verdict counts (docs/claims.md).


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
            labels={"result": "Figure of the dial", "shows": "a frozen pair at five contrasts"},
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
