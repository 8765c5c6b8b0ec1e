# Frozen features: recorded once an image and backbone, for all that asks them something.
FEATURES = RESULTS / "features" / "{dataset}" / "{pretraining}"


rule extract_features:
    input:
        unpack(lambda wildcards: checked_index(wildcards.dataset)),
        weights=lambda wildcards: frozen(wildcards.pretraining),
        recipe=STUDY.recipe("features"),
        architecture=STUDY.backbone.file or [],
        code=code("extract_features"),
    output:
        directory(FEATURES),
    log:
        LOGS / "extract_features" / "{dataset}" / "{pretraining}.log",
    benchmark:
        TIMES / "extract_features" / "{dataset}" / "{pretraining}.tsv"
    wildcard_constraints:
        pretraining=one_of(name for name in STUDY.pretrainings if name not in STUDY.detectors),
    conda:
        "../../envs/torch.yaml"
    threads: STUDY.resources.predict.threads
    resources:
        gpu=STUDY.resources.predict.gpu,
        mem_mb=STUDY.resources.predict.mem_mb,
        runtime=STUDY.resources.predict.runtime,
    params:
        program="extract_features",
        gpu=STUDY.resources.predict.gpu,
        index=lambda wildcards: index_folder(wildcards.dataset),
        splits=recorded_splits,
        state=str(STATE / "features" / "{dataset}" / "{pretraining}"),
        more="",
    shell:
        "python scripts/with_gpus.py --gpus {resources.gpu} --expected {params.gpu} -- "
        "python scripts/{params.program}.py --weights {input.weights} --index {params.index} "
        "{params.splits} --recipe {input.recipe} --state {params.state} --output {output} "
        "--threads {threads} {params.more} 2> {log}"


use rule extract_features as extract_detector_features with:
    input:
        unpack(lambda wildcards: checked_index(wildcards.dataset)),
        weights=lambda wildcards: frozen(wildcards.pretraining),
        recipe=STUDY.recipe("features"),
        architecture=STUDY.backbone.file or [],
        code=code("extract_detector_features"),
    log:
        LOGS / "extract_detector_features" / "{dataset}" / "{pretraining}.log",
    benchmark:
        TIMES / "extract_detector_features" / "{dataset}" / "{pretraining}.tsv"
    wildcard_constraints:
        pretraining=one_of(STUDY.detectors),
    params:
        program="extract_detector_features",
        gpu=STUDY.resources.predict.gpu,
        index=lambda wildcards: index_folder(wildcards.dataset),
        splits=recorded_splits,
        state=str(STATE / "features" / "{dataset}" / "{pretraining}"),
        more=lambda wildcards: "--layers "
        + " ".join(recorded_layers(wildcards.dataset, wildcards.pretraining)),
