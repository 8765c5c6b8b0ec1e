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
    threads: PREDICT_CORES
    resources:
        gpu=STUDY.resources.predict.gpu,
        mem_mb=STUDY.resources.predict.mem_mb,
        runtime=STUDY.resources.predict.runtime,
    params:
        program="extract_features",
        gpu=STUDY.resources.predict.gpu,
        index=index_place,
        splits=recorded_splits,
        state=str(STATE / "features" / "{dataset}" / "{pretraining}"),
        more="",
    shell:
        "python scripts/with_gpus.py --gpus {resources.gpu} --expected {params.gpu} -- "
        "python scripts/{params.program}.py --weights {input.weights} --index {params.index} "
        "{params.splits} --recipe {input.recipe} --state {params.state} --output {output} "
        "--threads {threads} {params.more} --architecture {input.architecture} 2> {log}"


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
        index=index_place,
        splits=recorded_splits,
        state=str(STATE / "features" / "{dataset}" / "{pretraining}"),
        more=lambda wildcards: "--layers "
        + " ".join(recorded_layers(wildcards.dataset, wildcards.pretraining)),


# Clusters and the plane of a feature space: once a data set and pre-training.
SPACE = RESULTS / "spaces" / "{dataset}" / "{pretraining}"


rule cluster_features:
    input:
        features=FEATURES,
        recipe=STUDY.recipe("analysis"),
        code=code("cluster_features"),
    output:
        clusters=SPACE / "clusters.parquet",
        inertia=SPACE / "inertia.csv",
    log:
        LOGS / "cluster_features" / "{dataset}" / "{pretraining}.log",
    benchmark:
        TIMES / "cluster_features" / "{dataset}" / "{pretraining}.tsv"
    conda:
        "../../envs/torch.yaml"
    threads: STUDY.resources.predict.threads
    resources:
        mem_mb=STUDY.resources.predict.mem_mb,
        runtime=STUDY.resources.predict.runtime,
    shell:
        "python scripts/cluster_features.py --features {input.features} --recipe {input.recipe} "
        "--threads {threads} --clusters {output.clusters} --inertia {output.inertia} 2> {log}"


rule embed_features:
    input:
        features=FEATURES,
        recipe=STUDY.recipe("analysis"),
        code=code("embed_features"),
    output:
        SPACE / "embedding.parquet",
    log:
        LOGS / "embed_features" / "{dataset}" / "{pretraining}.log",
    benchmark:
        TIMES / "embed_features" / "{dataset}" / "{pretraining}.tsv"
    conda:
        "../../envs/torch.yaml"
    threads: STUDY.resources.predict.threads
    resources:
        mem_mb=STUDY.resources.predict.mem_mb,
        runtime=STUDY.resources.predict.runtime,
    shell:
        "python scripts/embed_features.py --features {input.features} --recipe {input.recipe} "
        "--threads {threads} --output {output} 2> {log}"


rule figure5:
    input:
        features=analysed_features(),
        clusters=of_spaces("clusters.parquet"),
        truth=[[*index_files(name), images(name)] for name in ANALYSED_DATASETS],
        recipe=STUDY.recipe("analysis"),
        code=code("figure5"),
    output:
        table=RESULTS / "figure5.csv",
        pdf=RESULTS / "figure5.pdf",
        png=report(
            RESULTS / "figure5.png",
            caption="../report/figure5.rst",
            category="Feature spaces",
            labels={"result": "Figure 5", "shows": "nearest pairs of images"},
        ),
    log:
        LOGS / "figure5.log",
    benchmark:
        TIMES / "figure5.tsv"
    conda:
        "../../envs/report.yaml"
    threads: STUDY.resources.predict.threads
    resources:
        mem_mb=STUDY.resources.predict.mem_mb,
        runtime=STUDY.resources.predict.runtime,
    params:
        spaces=spaces("features", "clusters.parquet"),
        pairs=space_pairs(),
        indices=space_indices(),
    shell:
        "python scripts/figure5.py {params.spaces} {params.pairs} {params.indices} "
        "--recipe {input.recipe} --csv {output.table} --pdf {output.pdf} --png {output.png} "
        "2> {log}"


rule figure6:
    input:
        clusters=of_spaces("clusters.parquet"),
        recipe=STUDY.recipe("analysis"),
        code=code("figure6"),
    output:
        table=RESULTS / "figure6.csv",
        pdf=RESULTS / "figure6.pdf",
        png=report(
            RESULTS / "figure6.png",
            caption="../report/figure6.rst",
            category="Feature spaces",
            labels={"result": "Figure 6", "shows": "same cluster in both spaces"},
        ),
    log:
        LOGS / "figure6.log",
    benchmark:
        TIMES / "figure6.tsv"
    conda:
        "../../envs/report.yaml"
    params:
        spaces=spaces("clusters.parquet"),
        pairs=space_pairs(),
    shell:
        "python scripts/figure6.py {params.spaces} {params.pairs} --recipe {input.recipe} "
        "--csv {output.table} --pdf {output.pdf} --png {output.png} 2> {log}"


rule figure7:
    input:
        embeddings=of_spaces("embedding.parquet"),
        truth=[index_files(name) for name in ANALYSED_DATASETS],
        recipe=STUDY.recipe("analysis"),
        code=code("figure7"),
    output:
        table=RESULTS / "figure7.csv",
        pdf=RESULTS / "figure7.pdf",
        png=report(
            RESULTS / "figure7.png",
            caption="../report/figure7.rst",
            category="Feature spaces",
            labels={"result": "Figure 7", "shows": "t-SNE of feature spaces"},
        ),
    log:
        LOGS / "figure7.log",
    benchmark:
        TIMES / "figure7.tsv"
    conda:
        "../../envs/report.yaml"
    params:
        spaces=spaces("embedding.parquet"),
        pairs=space_pairs(),
        indices=space_indices(),
    shell:
        "python scripts/figure7.py {params.spaces} {params.pairs} {params.indices} "
        "--recipe {input.recipe} --csv {output.table} --pdf {output.pdf} --png {output.png} "
        "2> {log}"


rule similarity:
    input:
        features=analysed_features(),
        code=code("similarity"),
    output:
        report(
            RESULTS / "similarity.csv",
            caption="../report/similarity.rst",
            category="Feature spaces",
            labels={"result": "Table of similarity", "shows": "CKA and retrieval of all spaces"},
        ),
    log:
        LOGS / "similarity.log",
    benchmark:
        TIMES / "similarity.tsv"
    conda:
        "../../envs/report.yaml"
    threads: STUDY.resources.predict.threads
    resources:
        mem_mb=STUDY.resources.predict.mem_mb,
        runtime=STUDY.resources.predict.runtime,
    params:
        spaces=spaces("features"),
    shell:
        "python scripts/similarity.py {params.spaces} --output {output} 2> {log}"


# A page for the first data set whose feature spaces are looked at.
rule explorer:
    input:
        features=explored("features"),
        embeddings=explored("embedding.parquet"),
        activations=visualized(EXPLORED, "activation.npy"),
        maskouts=visualized(EXPLORED, "maskout.npy"),
        seen=visualized(EXPLORED, "images.parquet"),
        truth=[[*index_files(name), images(name)] for name in EXPLORED],
        recipe=STUDY.recipe("analysis"),
        template="scripts/explorer.html",
        code=code("explorer"),
    output:
        report(
            RESULTS / "explorer.html",
            caption="../report/explorer.rst",
            category="Feature spaces",
            labels={"result": "Page to explore", "shows": "images and their neighbours"},
        ),
    log:
        LOGS / "explorer.log",
    benchmark:
        TIMES / "explorer.tsv"
    conda:
        "../../envs/report.yaml"
    threads: STUDY.resources.predict.threads
    resources:
        mem_mb=STUDY.resources.predict.mem_mb,
        runtime=STUDY.resources.predict.runtime,
    params:
        spaces=lambda wildcards, input: [
            f"--space {Path(folder).name} {folder} {plane}"
            for folder, plane in zip(input.features, input.embeddings, strict=True)
        ],
        maps=[f"--maps {folder.name} {folder}" for folder in visualized(EXPLORED, "")],
        start=[f"--start {first} {second}" for _, first, second in COMPARED[:1]],
        index=[index_folder(name) for name in EXPLORED],
        split=[DATASETS[name].eval_split for name in EXPLORED],
    shell:
        "python scripts/explorer.py {params.spaces} {params.maps} {params.start} "
        "--index {params.index} --split {params.split} --recipe {input.recipe} "
        "--template {input.template} --output {output} 2> {log}"
