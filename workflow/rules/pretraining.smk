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
    wildcard_constraints:
        pretraining=one_of(GIVEN),
    cache: SHARED
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
        start=lambda wildcards: backbone(STUDY.source(wildcards.pretraining).start),
        recipe=source_recipe,
        architecture=STUDY.backbone.file or [],
        code=code("train_classifier"),
    output:
        model=PRETRAINING / "model.safetensors",
        fit=PRETRAINING / "fit.json",
    log:
        LOGS / "pretrain" / "{pretraining}.log",
    wildcard_constraints:
        pretraining=trained_by("classification"),
    cache: SHARED_TRAINING
    priority: 50  # everything else waits for it
    conda:
        "../../envs/torch.yaml"
    threads: TRAIN_CORES
    resources:
        gpu=STUDY.resources.train.gpu,
        mem_mb=STUDY.resources.train.mem_mb,
        runtime=STUDY.resources.train.runtime,
    params:
        program="train_classifier",
        gpu=STUDY.resources.train.gpu,
        index=source_index_folder,
        splits=lambda wildcards: source_dataset(wildcards).train_splits,
        seed=lambda wildcards: STUDY.source(wildcards.pretraining).seed,
        state=str(STATE / "pretraining" / "{pretraining}"),
        folder=subpath(output.model, parent=True),
        more="",
    shell:
        "python scripts/with_gpus.py --gpus {resources.gpu} --expected {params.gpu} -- "
        "python scripts/{params.program}.py --index {params.index} --splits {params.splits} "
        "--start {input.start} --recipe {input.recipe} --seed {params.seed} "
        "--state {params.state} --output {params.folder} --threads {threads} {params.more} "
        "--architecture {input.architecture} 2> {log}"


use rule pretrain_classifier as pretrain_detector with:
    input:
        unpack(source_index),
        start=lambda wildcards: backbone(STUDY.source(wildcards.pretraining).start),
        recipe=source_recipe,
        proposals=source_proposals,
        superclasses=source_superclasses,
        architecture=STUDY.backbone.file or [],
        code=code("train_detector"),
    wildcard_constraints:
        pretraining=trained_by("detection"),
    params:
        program="train_detector",
        gpu=STUDY.resources.train.gpu,
        index=source_index_folder,
        splits=lambda wildcards: source_dataset(wildcards).train_splits,
        seed=lambda wildcards: STUDY.source(wildcards.pretraining).seed,
        state=str(STATE / "pretraining" / "{pretraining}"),
        folder=subpath(output.model, parent=True),
        more=source_options,


# The control of a detection pre-training: its chips, order and steps, but labels alone.
use rule pretrain_detector as pretrain_labels with:
    input:
        unpack(source_index),
        start=lambda wildcards: backbone(STUDY.source(wildcards.pretraining).start),
        recipe=source_recipe,
        proposals=source_proposals,
        architecture=STUDY.backbone.file or [],
        code=code("train_labels"),
    wildcard_constraints:
        pretraining=one_of(STUDY.matched),
    params:
        program="train_labels",
        gpu=STUDY.resources.train.gpu,
        index=source_index_folder,
        splits=lambda wildcards: source_dataset(wildcards).train_splits,
        seed=lambda wildcards: STUDY.source(wildcards.pretraining).seed,
        state=str(STATE / "pretraining" / "{pretraining}"),
        folder=subpath(output.model, parent=True),
        more=with_proposals,


# What a briefly trained proposal network takes for objects becomes negative chips.
use rule pretrain_classifier as mine_for_pretraining with:
    input:
        unpack(source_index),
        start=lambda wildcards: backbone(STUDY.source(wildcards.pretraining).start),
        recipe=source_recipe,
        architecture=STUDY.backbone.file or [],
        code=code("mine_proposals"),
    output:
        PRETRAINING / "proposals.parquet",
    log:
        LOGS / "mine_for_pretraining" / "{pretraining}.log",
    wildcard_constraints:
        pretraining=trained_by("detection"),
    params:
        program="mine_proposals",
        gpu=STUDY.resources.train.gpu,
        index=source_index_folder,
        splits=lambda wildcards: source_dataset(wildcards).train_splits,
        seed=lambda wildcards: STUDY.source(wildcards.pretraining).seed,
        state=str(STATE / "mining" / "{pretraining}"),
        folder=subpath(output[0], parent=True),
        more=own_inference,


# R-FCN-3000 detects super-classes: classes that its start takes for alike.
rule cluster_superclasses:
    input:
        unpack(source_index),
        features=lambda wildcards: features(
            STUDY.source(wildcards.pretraining).dataset, STUDY.source(wildcards.pretraining).start
        ),
        code=code("cluster_superclasses"),
    output:
        PRETRAINING / "superclasses.csv",
    log:
        LOGS / "cluster_superclasses" / "{pretraining}.log",
    benchmark:
        TIMES / "cluster_superclasses" / "{pretraining}.tsv"
    wildcard_constraints:
        pretraining=one_of(GROUPED),
    priority: 50
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=STUDY.resources.predict.mem_mb,
        runtime=STUDY.resources.predict.runtime,
    params:
        index=source_index_folder,
        k=lambda wildcards: superclasses(RECIPES[f"pretrain_{wildcards.pretraining}"]),
        seed=lambda wildcards: STUDY.source(wildcards.pretraining).seed,
    shell:
        "python scripts/cluster_superclasses.py --features {input.features}/conv5.npy "
        "--images {input.features}/images.parquet --objects {params.index}/objects.parquet "
        "--classes {params.index}/classes.csv --k {params.k} --seed {params.seed} "
        "--output {output} 2> {log}"


rule model_card:
    input:
        backbone=PRETRAINING / "backbone.safetensors",
        metrics=own_metrics,
        fit=own_fit,
        code=code("model_card"),
    output:
        PRETRAINING / "README.md",
    log:
        LOGS / "model_card" / "{pretraining}.log",
    benchmark:
        TIMES / "model_card" / "{pretraining}.tsv"
    conda:
        "../../envs/report.yaml"
    params:
        data=card_data,
        quality=card_quality,
    shell:
        "python scripts/model_card.py --backbone {input.backbone} {params.data} {params.quality} "
        "--output {output} 2> {log}"


rule export_backbone:
    input:
        model=PRETRAINING / "model.safetensors",
        architecture=STUDY.backbone.file or [],
        code=code("export_backbone"),
    output:
        PRETRAINING / "backbone.safetensors",
    log:
        LOGS / "export_backbone" / "{pretraining}.log",
    wildcard_constraints:
        pretraining=one_of(TRAINED),
    cache: SHARED_TRAINING
    priority: 50
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=STUDY.resources.predict.mem_mb,
        runtime=STUDY.resources.predict.runtime,
    shell:
        "python scripts/export_backbone.py --model {input.model} "
        "--pretraining {wildcards.pretraining} --output {output} --architecture {input.architecture} 2> {log}"
