# Image classification: fine-tune and classify (the paper's section 4.3).
CLASSIFICATION = RESULTS / "classification" / "{target}" / "{pretraining}" / "seed{seed}"


use rule pretrain_classifier as finetune_classifier with:
    input:
        unpack(target_index),
        start=lambda wildcards: backbone(wildcards.pretraining),
        recipe=target_recipe("finetune"),
        search=target_search,
        architecture=STUDY.backbone.file or [],
        code=code("train_classifier"),
    output:
        model=CLASSIFICATION / "model.safetensors",
        fit=CLASSIFICATION / "fit.json",
    log:
        LOGS / "finetune_classifier" / "{target}" / "{pretraining}" / "seed{seed}.log",
    benchmark:
        TIMES / "finetune_classifier" / "{target}" / "{pretraining}" / "seed{seed}.tsv"
    wildcard_constraints:
        pretraining=one_of(STUDY.pretrainings),
        target=one_of(STUDY.targets_of("classification")),
    cache: False
    priority: 0
    params:
        program="train_classifier",
        gpu=STUDY.resources.train.gpu,
        index=target_index_folder,
        splits=lambda wildcards: target_dataset(wildcards).train_splits,
        seed="{seed}",
        state=str(STATE / "classification" / "{target}" / "{pretraining}" / "seed{seed}"),
        folder=subpath(output.model, parent=True),
        more=lambda wildcards, input: f"--search {input.search}" if input.search else "",


# Once for each pre-training, by the study's first seed: every one gets the same budget.
use rule finetune_classifier as search_classifier with:
    input:
        unpack(target_index),
        start=lambda wildcards: backbone(wildcards.pretraining),
        recipe=target_recipe("finetune"),
        architecture=STUDY.backbone.file or [],
        code=code("search_classifier"),
    output:
        RESULTS / "classification" / "{target}" / "{pretraining}" / "search.csv",
    log:
        LOGS / "search_classifier" / "{target}" / "{pretraining}.log",
    benchmark:
        TIMES / "search_classifier" / "{target}" / "{pretraining}.tsv"
    params:
        program="search_classifier",
        gpu=STUDY.resources.train.gpu,
        index=target_index_folder,
        splits=lambda wildcards: target_dataset(wildcards).train_splits,
        seed=STUDY.seeds[0],
        state=str(STATE / "search" / "{target}" / "{pretraining}"),
        folder=subpath(output[0], parent=True),
        more="",


rule classify:
    input:
        unpack(target_index),
        model=CLASSIFICATION / "model.safetensors",
        fit=CLASSIFICATION / "fit.json",
        architecture=STUDY.backbone.file or [],
        code=code("classify"),
    output:
        metrics=CLASSIFICATION / "metrics.json",
        predictions=CLASSIFICATION / "predictions.parquet",
    log:
        LOGS / "classify" / "{target}" / "{pretraining}" / "seed{seed}.log",
    benchmark:
        TIMES / "classify" / "{target}" / "{pretraining}" / "seed{seed}.tsv"
    wildcard_constraints:
        target=one_of(STUDY.targets_of("classification")),
    conda:
        "../../envs/torch.yaml"
    threads: PREDICT_CORES
    resources:
        gpu=STUDY.resources.predict.gpu,
        mem_mb=STUDY.resources.predict.mem_mb,
        runtime=STUDY.resources.predict.runtime,
    params:
        gpu=STUDY.resources.predict.gpu,
        index=target_index_folder,
        dataset=lambda wildcards: STUDY.targets[wildcards.target].dataset,
        split=lambda wildcards: target_dataset(wildcards).eval_split,
    shell:
        "python scripts/with_gpus.py --gpus {resources.gpu} --expected {params.gpu} -- "
        "python scripts/classify.py --model {input.model} --fit {input.fit} "
        "--index {params.index} --split {params.split} --threads {threads} "
        "--pretraining {wildcards.pretraining} --target {wildcards.target} "
        "--dataset {params.dataset} --seed {wildcards.seed} "
        "--predictions {output.predictions} --output {output.metrics} --architecture {input.architecture} 2> {log}"


# Linear probes of frozen features; of Conv5 (Table 6) with few images and neighbours too.
PROBE = RESULTS / "probe" / "{target}" / "{pretraining}" / "seed{seed}"


rule probe:
    input:
        unpack(target_index),
        features=target_features,
        weights=lambda wildcards: frozen(wildcards.pretraining),
        recipe=STUDY.recipe("probe"),
        code=code("probe"),
    output:
        metrics=PROBE / "conv5" / "metrics.json",
        predictions=PROBE / "conv5" / "predictions.parquet",
        classes=PROBE / "conv5" / "classes.csv",
        path=PROBE / "conv5" / "path.csv",
        weights=PROBE / "conv5" / "probe.safetensors",
    log:
        LOGS / "probe" / "{target}" / "{pretraining}" / "seed{seed}.log",
    benchmark:
        TIMES / "probe" / "{target}" / "{pretraining}" / "seed{seed}.tsv"
    wildcard_constraints:
        target=one_of(PROBED),
    conda:
        "../../envs/torch.yaml"
    threads: STUDY.resources.predict.threads
    resources:
        mem_mb=STUDY.resources.predict.mem_mb,
        runtime=STUDY.resources.predict.runtime,
    params:
        layers="conv5",
        curves="--curves",
        index=target_index_folder,
        splits=lambda wildcards: target_dataset(wildcards).train_splits,
        split=lambda wildcards: target_dataset(wildcards).eval_split,
        dataset=lambda wildcards: STUDY.targets[wildcards.target].dataset,
        folder=str(PROBE),
    shell:
        "python scripts/probe.py --features {input.features} --layers {params.layers} "
        "--weights {input.weights} --index {params.index} --splits {params.splits} "
        "--eval-split {params.split} --recipe {input.recipe} {params.curves} "
        "--threads {threads} --pretraining {wildcards.pretraining} --target {wildcards.target} "
        "--dataset {params.dataset} --seed {wildcards.seed} --output {params.folder} 2> {log}"


# The layers of a detector's head (Table 7), on the first target of classification.
use rule probe as probe_head with:
    output:
        directory(PROBE / "head"),
    log:
        LOGS / "probe_head" / "{target}" / "{pretraining}" / "seed{seed}.log",
    benchmark:
        TIMES / "probe_head" / "{target}" / "{pretraining}" / "seed{seed}.tsv"
    wildcard_constraints:
        target=one_of(CLASSIFIED[:1]),
        pretraining=one_of(STUDY.detectors),
    params:
        layers=lambda wildcards: RECIPES[f"pretrain_{wildcards.pretraining}"].head.layers,
        curves="",
        index=target_index_folder,
        splits=lambda wildcards: target_dataset(wildcards).train_splits,
        split=lambda wildcards: target_dataset(wildcards).eval_split,
        dataset=lambda wildcards: STUDY.targets[wildcards.target].dataset,
        folder=str(PROBE / "head"),
