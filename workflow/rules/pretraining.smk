# Pre-trainings: given (untrained or published) or trained here; each ends as one backbone file.
PRETRAINING = RESULTS / "pretraining" / "{pretraining}"


rule import_backbone:
    input:
        weights=given_file,
        architecture=STUDY.backbone.file or [],
        code=code("import_backbone"),
    output:
        PRETRAINING / "backbone.safetensors",
    log:
        LOGS / "import_backbone" / "{pretraining}.log",
    benchmark:
        TIMES / "import_backbone" / "{pretraining}.tsv"
    wildcard_constraints:
        pretraining=one_of(GIVEN),
    priority: 50
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=STUDY.resources.predict.mem_mb,
        runtime=STUDY.resources.predict.runtime,
    params:
        name=STUDY.backbone.name,
        arguments=json.dumps(STUDY.backbone.arguments),
        file=f"--file {STUDY.backbone.file}" if STUDY.backbone.file else "",
        source=given_weights,
    shell:
        "python scripts/import_backbone.py --name {params.name} "
        "--arguments {params.arguments:q} {params.file} {params.source} "
        "--pretraining {wildcards.pretraining} --output {output} 2> {log}"


rule pretrain_classifier:
    input:
        unpack(source_index),
        start=lambda wildcards: backbone(STUDY.trained[wildcards.pretraining].start),
        recipe=lambda wildcards: STUDY.recipe(f"pretrain_{wildcards.pretraining}"),
        architecture=STUDY.backbone.file or [],
        code=code("train_classifier"),
    output:
        model=PRETRAINING / "model.safetensors",
        fit=PRETRAINING / "fit.json",
    log:
        LOGS / "pretrain" / "{pretraining}.log",
    benchmark:
        TIMES / "pretrain" / "{pretraining}.tsv"
    wildcard_constraints:
        pretraining=trained_by("classification"),
    priority: 50  # everything else waits for it
    conda:
        "../../envs/torch.yaml"
    threads: STUDY.resources.train.threads
    resources:
        gpu=STUDY.resources.train.gpu,
        mem_mb=STUDY.resources.train.mem_mb,
        runtime=STUDY.resources.train.runtime,
    params:
        program="train_classifier",
        gpu=STUDY.resources.train.gpu,
        index=source_index_folder,
        splits=lambda wildcards: source_dataset(wildcards).train_splits,
        seed=lambda wildcards: STUDY.trained[wildcards.pretraining].seed,
        state=str(STATE / "pretraining" / "{pretraining}"),
        folder=subpath(output.model, parent=True),
    shell:
        "python scripts/with_gpus.py --gpus {resources.gpu} --expected {params.gpu} -- "
        "python scripts/{params.program}.py --index {params.index} --splits {params.splits} "
        "--start {input.start} --recipe {input.recipe} --seed {params.seed} "
        "--state {params.state} --output {params.folder} --threads {threads} 2> {log}"


use rule pretrain_classifier as pretrain_detector with:
    input:
        unpack(source_index),
        start=lambda wildcards: backbone(STUDY.trained[wildcards.pretraining].start),
        recipe=lambda wildcards: STUDY.recipe(f"pretrain_{wildcards.pretraining}"),
        architecture=STUDY.backbone.file or [],
        code=code("train_detector"),
    wildcard_constraints:
        pretraining=trained_by("detection"),
    params:
        program="train_detector",
        gpu=STUDY.resources.train.gpu,
        index=source_index_folder,
        splits=lambda wildcards: source_dataset(wildcards).train_splits,
        seed=lambda wildcards: STUDY.trained[wildcards.pretraining].seed,
        state=str(STATE / "pretraining" / "{pretraining}"),
        folder=subpath(output.model, parent=True),


rule export_backbone:
    input:
        model=PRETRAINING / "model.safetensors",
        code=code("export_backbone"),
    output:
        PRETRAINING / "backbone.safetensors",
    log:
        LOGS / "export_backbone" / "{pretraining}.log",
    benchmark:
        TIMES / "export_backbone" / "{pretraining}.tsv"
    wildcard_constraints:
        pretraining=one_of(STUDY.trained),
    priority: 50
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=STUDY.resources.predict.mem_mb,
        runtime=STUDY.resources.predict.runtime,
    shell:
        "python scripts/export_backbone.py --model {input.model} "
        "--pretraining {wildcards.pretraining} --output {output} 2> {log}"
