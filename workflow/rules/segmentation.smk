# Semantic segmentation: fine-tune, segment, evaluate (the paper's section 4.2).
SEGMENTATION = RESULTS / "segmentation" / "{target}" / "{pretraining}" / "seed{seed}"


use rule pretrain_classifier as finetune_segmenter with:
    input:
        unpack(target_index),
        start=lambda wildcards: backbone(wildcards.pretraining),
        offsets=kept_offsets,
        recipe=target_recipe("finetune"),
        architecture=STUDY.backbone.file or [],
        code=code("train_segmenter"),
    output:
        model=SEGMENTATION / "model.safetensors",
        fit=SEGMENTATION / "fit.json",
    log:
        LOGS / "finetune_segmenter" / "{target}" / "{pretraining}" / "seed{seed}.log",
    benchmark:
        TIMES / "finetune_segmenter" / "{target}" / "{pretraining}" / "seed{seed}.tsv"
    wildcard_constraints:
        pretraining=one_of(STUDY.pretrainings),
        target=one_of(STUDY.targets_of("segmentation")),
    cache: False
    priority: 0
    params:
        program="train_segmenter",
        gpu=STUDY.resources.train.gpu,
        index=target_index_folder,
        splits=lambda wildcards: target_dataset(wildcards).train_splits,
        seed="{seed}",
        state=str(STATE / "segmentation" / "{target}" / "{pretraining}" / "seed{seed}"),
        folder=subpath(output.model, parent=True),
        more=lambda wildcards, input: f"--offsets {input.offsets}" if input.offsets else "",


rule segment:
    input:
        unpack(target_index),
        model=SEGMENTATION / "model.safetensors",
        architecture=STUDY.backbone.file or [],
        code=code("segment"),
    output:
        SEGMENTATION / "predictions.zip",
    log:
        LOGS / "segment" / "{target}" / "{pretraining}" / "seed{seed}.log",
    benchmark:
        TIMES / "segment" / "{target}" / "{pretraining}" / "seed{seed}.tsv"
    wildcard_constraints:
        target=one_of(STUDY.targets_of("segmentation")),
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
    shell:
        "python scripts/with_gpus.py --gpus {resources.gpu} --expected {params.gpu} -- "
        "python scripts/segment.py --model {input.model} --index {params.index} "
        "--split {params.split} --output {output} --threads {threads} --architecture {input.architecture} 2> {log}"


rule evaluate_segmentation:
    input:
        unpack(target_index),
        predictions=SEGMENTATION / "predictions.zip",
        model=SEGMENTATION / "model.safetensors",
        fit=SEGMENTATION / "fit.json",
        code=code("evaluate_segmentation"),
    output:
        metrics=SEGMENTATION / "metrics.json",
        classes=SEGMENTATION / "iou.csv",
        confusion=SEGMENTATION / "confusion.parquet",
    log:
        LOGS / "evaluate_segmentation" / "{target}" / "{pretraining}" / "seed{seed}.log",
    benchmark:
        TIMES / "evaluate_segmentation" / "{target}" / "{pretraining}" / "seed{seed}.tsv"
    wildcard_constraints:
        target=one_of(STUDY.targets_of("segmentation")),
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=STUDY.resources.predict.mem_mb,
        runtime=STUDY.resources.predict.runtime,
    params:
        index=target_index_folder,
        dataset=lambda wildcards: STUDY.targets[wildcards.target].dataset,
        split=lambda wildcards: target_dataset(wildcards).eval_split,
    shell:
        "python scripts/evaluate_segmentation.py --predictions {input.predictions} "
        "--model {input.model} --fit {input.fit} --index {params.index} "
        "--split {params.split} --pretraining {wildcards.pretraining} "
        "--target {wildcards.target} --dataset {params.dataset} --seed {wildcards.seed} "
        "--output {output.metrics} --classes {output.classes} "
        "--confusion {output.confusion} 2> {log}"
