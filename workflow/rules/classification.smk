# Image classification: fine-tune and classify (the paper's section 4.3).
CLASSIFICATION = RESULTS / "classification" / "{target}" / "{pretraining}" / "seed{seed}"


use rule pretrain_classifier as finetune_classifier with:
    input:
        unpack(target_index),
        start=lambda wildcards: backbone(wildcards.pretraining),
        recipe=target_recipe("finetune"),
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
    priority: 0
    params:
        program="train_classifier",
        gpu=STUDY.resources.train.gpu,
        index=target_index_folder,
        splits=lambda wildcards: target_dataset(wildcards).train_splits,
        seed="{seed}",
        state=str(STATE / "classification" / "{target}" / "{pretraining}" / "seed{seed}"),
        folder=subpath(output.model, parent=True),
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
    threads: STUDY.resources.predict.threads
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
        "--predictions {output.predictions} --output {output.metrics} 2> {log}"
