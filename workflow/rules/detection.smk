# Object detection: fine-tune, detect, evaluate (the paper's section 4.1).
DETECTION = RESULTS / "detection" / "{target}" / "{pretraining}" / "seed{seed}"


use rule pretrain_classifier as finetune_detector with:
    input:
        unpack(target_index),
        start=lambda wildcards: backbone(wildcards.pretraining),
        recipe=target_recipe("finetune"),
        proposals=target_proposals,
        inference=lambda wildcards: ancient(STUDY.recipe(f"evaluate_{wildcards.target}")),
        architecture=STUDY.backbone.file or [],
        code=code("train_detector"),
    output:
        model=DETECTION / "model.safetensors",
        fit=DETECTION / "fit.json",
    log:
        LOGS / "finetune_detector" / "{target}" / "{pretraining}" / "seed{seed}.log",
    benchmark:
        TIMES / "finetune_detector" / "{target}" / "{pretraining}" / "seed{seed}.tsv"
    wildcard_constraints:
        pretraining=one_of(STUDY.pretrainings),
        target=one_of(STUDY.targets_of("detection")),
    cache: False
    priority: 0
    params:
        program="train_detector",
        gpu=STUDY.resources.train.gpu,
        index=target_index_folder,
        splits=lambda wildcards: target_dataset(wildcards).train_splits,
        seed="{seed}",
        state=str(STATE / "detection" / "{target}" / "{pretraining}" / "seed{seed}"),
        folder=subpath(output.model, parent=True),
        more=target_options,


use rule finetune_detector as mine_for_target with:
    input:
        unpack(target_index),
        start=lambda wildcards: backbone(wildcards.pretraining),
        recipe=target_recipe("finetune"),
        inference=lambda wildcards: ancient(STUDY.recipe(f"evaluate_{wildcards.target}")),
        architecture=STUDY.backbone.file or [],
        code=code("mine_proposals"),
    output:
        DETECTION / "proposals.parquet",
    log:
        LOGS / "mine_for_target" / "{target}" / "{pretraining}" / "seed{seed}.log",
    benchmark:
        TIMES / "mine_for_target" / "{target}" / "{pretraining}" / "seed{seed}.tsv"
    params:
        program="mine_proposals",
        gpu=STUDY.resources.train.gpu,
        index=target_index_folder,
        splits=lambda wildcards: target_dataset(wildcards).train_splits,
        seed="{seed}",
        state=str(STATE / "mining" / "{target}" / "{pretraining}" / "seed{seed}"),
        folder=subpath(output[0], parent=True),
        more=target_inference,


rule detect:
    input:
        unpack(target_index),
        model=DETECTION / "model.safetensors",
        recipe=target_recipe("evaluate"),
        architecture=STUDY.backbone.file or [],
        code=code("detect"),
    output:
        detections=DETECTION / "detections.parquet",
        training=DETECTION / "training_detections.parquet",
    log:
        LOGS / "detect" / "{target}" / "{pretraining}" / "seed{seed}.log",
    benchmark:
        TIMES / "detect" / "{target}" / "{pretraining}" / "seed{seed}.tsv"
    wildcard_constraints:
        target=one_of(STUDY.targets_of("detection")),
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
        split=lambda wildcards: target_dataset(wildcards).eval_split,
        training_index=target_index_folder,
        training_splits=lambda wildcards: target_dataset(wildcards).train_splits,
    shell:
        "python scripts/with_gpus.py --gpus {resources.gpu} --expected {params.gpu} -- "
        "python scripts/detect.py --model {input.model} --index {params.index} "
        "--split {params.split} --training-index {params.training_index} "
        "--training-splits {params.training_splits} --recipe {input.recipe} "
        "--output {output.detections} --training-output {output.training} "
        "--threads {threads} --architecture {input.architecture} 2> {log}"


rule evaluate_detections:
    input:
        unpack(target_index),
        detections=DETECTION / "detections.parquet",
        training=DETECTION / "training_detections.parquet",
        model=DETECTION / "model.safetensors",
        fit=DETECTION / "fit.json",
        recipe=target_recipe("evaluate"),
        code=code("evaluate_detections"),
    output:
        metrics=DETECTION / "metrics.json",
        classes=DETECTION / "average_precision.csv",
    log:
        LOGS / "evaluate_detections" / "{target}" / "{pretraining}" / "seed{seed}.log",
    benchmark:
        TIMES / "evaluate_detections" / "{target}" / "{pretraining}" / "seed{seed}.tsv"
    wildcard_constraints:
        target=one_of(STUDY.targets_of("detection")),
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=STUDY.resources.predict.mem_mb,
        runtime=STUDY.resources.predict.runtime,
    params:
        index=target_index_folder,
        split=lambda wildcards: target_dataset(wildcards).eval_split,
        training_index=target_index_folder,
        training_splits=lambda wildcards: target_dataset(wildcards).train_splits,
        run=lambda wildcards: (
            f"--task detection --target {wildcards.target} "
            f"--dataset {STUDY.targets[wildcards.target].dataset} --seed {wildcards.seed}"
        ),
    shell:
        "python scripts/evaluate_detections.py --detections {input.detections} "
        "--training-detections {input.training} --model {input.model} --fit {input.fit} "
        "--index {params.index} --split {params.split} "
        "--training-index {params.training_index} --training-splits {params.training_splits} "
        "--recipe {input.recipe} {params.run} --pretraining {wildcards.pretraining} "
        "--output {output.metrics} --classes {output.classes} 2> {log}"


# How good a detection pre-training is at its own task.
use rule detect as detect_in_pretraining with:
    input:
        unpack(quality_index),
        model=PRETRAINING / "model.safetensors",
        recipe=lambda wildcards: STUDY.recipe(f"evaluate_{wildcards.pretraining}"),
        architecture=STUDY.backbone.file or [],
        code=code("detect"),
    output:
        detections=PRETRAINING / "detections.parquet",
        training=PRETRAINING / "training_detections.parquet",
    log:
        LOGS / "detect_in_pretraining" / "{pretraining}.log",
    benchmark:
        TIMES / "detect_in_pretraining" / "{pretraining}.tsv"
    wildcard_constraints:
        pretraining=one_of(STUDY.detectors),
    params:
        gpu=STUDY.resources.predict.gpu,
        index=lambda wildcards: index_folder(quality_dataset(wildcards)),
        split=lambda wildcards: DATASETS[quality_dataset(wildcards)].eval_split,
        training_index=source_index_folder,
        training_splits=lambda wildcards: source_dataset(wildcards).train_splits,


use rule evaluate_detections as evaluate_pretraining with:
    input:
        unpack(quality_index),
        detections=PRETRAINING / "detections.parquet",
        training=PRETRAINING / "training_detections.parquet",
        model=PRETRAINING / "model.safetensors",
        fit=PRETRAINING / "fit.json",
        recipe=lambda wildcards: STUDY.recipe(f"evaluate_{wildcards.pretraining}"),
        code=code("evaluate_detections"),
    output:
        metrics=PRETRAINING / "metrics.json",
        classes=PRETRAINING / "average_precision.csv",
    log:
        LOGS / "evaluate_pretraining" / "{pretraining}.log",
    benchmark:
        TIMES / "evaluate_pretraining" / "{pretraining}.tsv"
    wildcard_constraints:
        pretraining=one_of(STUDY.detectors),
    params:
        index=lambda wildcards: index_folder(quality_dataset(wildcards)),
        split=lambda wildcards: DATASETS[quality_dataset(wildcards)].eval_split,
        training_index=source_index_folder,
        training_splits=lambda wildcards: source_dataset(wildcards).train_splits,
        run=lambda wildcards: (
            f"--task pretraining --target {wildcards.pretraining} "
            f"--dataset {quality_dataset(wildcards)} "
            f"--seed {STUDY.trained[wildcards.pretraining].seed}"
        ),


rule diagnose_detections:
    input:
        unpack(target_index),
        detections=DETECTION / "detections.parquet",
        # Says whose detections these are; when it was written says nothing about the numbers.
        metrics=ancient(DETECTION / "metrics.json"),
        occlusion=target_occlusion,
        recipe=target_recipe("evaluate"),
        code=code("diagnose_detections"),
    output:
        numbers=DETECTION / "diagnosis.json",
        table=DETECTION / "diagnosis.csv",
        objects=DETECTION / "objects.parquet",
    log:
        LOGS / "diagnose_detections" / "{target}" / "{pretraining}" / "seed{seed}.log",
    benchmark:
        TIMES / "diagnose_detections" / "{target}" / "{pretraining}" / "seed{seed}.tsv"
    wildcard_constraints:
        target=one_of(STUDY.targets_of("detection")),
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=STUDY.resources.predict.mem_mb,
        runtime=STUDY.resources.predict.runtime,
    params:
        index=target_index_folder,
        split=lambda wildcards: target_dataset(wildcards).eval_split,
        occlusion=lambda wildcards, input: (
            f"--occlusion {input.occlusion}" if input.occlusion else ""
        ),
    shell:
        "python scripts/diagnose_detections.py --detections {input.detections} "
        "--metrics {input.metrics} --index {params.index} --split {params.split} "
        "{params.occlusion} --recipe {input.recipe} --output {output.numbers} "
        "--table {output.table} --objects {output.objects} 2> {log}"
