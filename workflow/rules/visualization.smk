# What frozen networks look at: activation maps and mask-out maps (the paper's section 4.4).
VISUALIZATION = RESULTS / "visualization" / "{dataset}" / "{pretraining}"


rule mask_out:
    input:
        unpack(lambda wildcards: checked_index(wildcards.dataset)),
        weights=lambda wildcards: frozen(wildcards.pretraining),
        probe=visualization_probe,
        view=STUDY.recipe("features"),
        recipe=STUDY.recipe("visualization"),
        architecture=STUDY.backbone.file or [],
        code=code("visualize"),
    output:
        activation=VISUALIZATION / "activation.npy",
        images=VISUALIZATION / "images.parquet",
        metrics=VISUALIZATION / "metrics.json",
        maskout=VISUALIZATION / "maskout.npy",
    log:
        LOGS / "mask_out" / "{dataset}" / "{pretraining}.log",
    benchmark:
        TIMES / "mask_out" / "{dataset}" / "{pretraining}.tsv"
    wildcard_constraints:
        dataset=one_of(MASKED_OUT),
    conda:
        "../../envs/torch.yaml"
    threads: PREDICT_CORES
    resources:
        gpu=ONE_GPU,
        mem_mb=STUDY.resources.predict.mem_mb,
        runtime=STUDY.resources.predict.runtime,
    params:
        gpu=ONE_GPU,
        index=index_place,
        splits=lambda wildcards: DATASETS[wildcards.dataset].train_splits,
        split=lambda wildcards: DATASETS[wildcards.dataset].eval_split,
        target=lambda wildcards: VISUALIZED[wildcards.dataset],
        seed=STUDY.seeds[0],
        more=lambda wildcards, input: f"--probe {Path(input.probe[0]).parent}",
        state=str(STATE / "visualization" / "{dataset}" / "{pretraining}"),
        folder=subpath(output.images, parent=True),
    shell:
        "python scripts/with_gpus.py --gpus {resources.gpu} --expected {params.gpu} -- "
        "python scripts/visualize.py --weights {input.weights} --index {params.index} "
        "--splits {params.splits} --eval-split {params.split} --view {input.view} "
        "--recipe {input.recipe} {params.more} --state {params.state} "
        "--output {params.folder} --threads {threads} --pretraining {wildcards.pretraining} "
        "--target {params.target} --dataset {wildcards.dataset} --seed {params.seed} "
        "--architecture {input.architecture} 2> {log}"


# Of images with masks, which say what the activation maps cover.
use rule mask_out as map_activations with:
    input:
        unpack(lambda wildcards: checked_index(wildcards.dataset)),
        weights=lambda wildcards: frozen(wildcards.pretraining),
        view=STUDY.recipe("features"),
        recipe=STUDY.recipe("visualization"),
        architecture=STUDY.backbone.file or [],
        code=code("visualize"),
    output:
        activation=VISUALIZATION / "activation.npy",
        images=VISUALIZATION / "images.parquet",
        metrics=VISUALIZATION / "metrics.json",
    log:
        LOGS / "map_activations" / "{dataset}" / "{pretraining}.log",
    benchmark:
        TIMES / "map_activations" / "{dataset}" / "{pretraining}.tsv"
    wildcard_constraints:
        dataset=one_of(set(VISUALIZED) - set(MASKED_OUT)),
    params:
        gpu=ONE_GPU,
        index=index_place,
        splits=lambda wildcards: DATASETS[wildcards.dataset].train_splits,
        split=lambda wildcards: DATASETS[wildcards.dataset].eval_split,
        target=lambda wildcards: VISUALIZED[wildcards.dataset],
        seed=STUDY.seeds[0],
        more="",
        state=str(STATE / "visualization" / "{dataset}" / "{pretraining}"),
        folder=subpath(output.images, parent=True),


rule figure8:
    input:
        maps=visualized(ACTIVE_IN, "activation.npy"),
        images=visualized(ACTIVE_IN, "images.parquet"),
        metrics=visualized(ACTIVE_IN, "metrics.json"),
        truth=[[*index_files(name), images(name)] for name in ACTIVE_IN],
        objects=[index_files(name) for name in WITH_OBJECTS],
        view=STUDY.recipe("features"),
        code=code("figure8"),
    output:
        table=RESULTS / "figure8.csv",
        chosen=RESULTS / "figure8_images.csv",
        pdf=RESULTS / "figure8.pdf",
        png=report(
            RESULTS / "figure8.png",
            caption="../report/figure8.rst",
            category="Visualization",
            labels={"result": "Figure 8", "shows": "activation maps"},
        ),
    log:
        LOGS / "figure8.log",
    benchmark:
        TIMES / "figure8.tsv"
    conda:
        "../../envs/report.yaml"
    params:
        runs=visualized(ACTIVE_IN, ""),
        targets=visualized_targets(ACTIVE_IN),
        objects=[f"--objects {index_folder(name)}" for name in WITH_OBJECTS],
        contrasts=seen_pairs(),
    shell:
        "python scripts/figure8.py {params.runs} {params.targets} {params.objects} "
        "--view {input.view} {params.contrasts} --csv {output.table} --images {output.chosen} "
        "--pdf {output.pdf} --png {output.png} 2> {log}"


rule figure9:
    input:
        maps=visualized(MASKED_OUT, "maskout.npy"),
        images=visualized(MASKED_OUT, "images.parquet"),
        metrics=visualized(MASKED_OUT, "metrics.json"),
        truth=[[*index_files(name), images(name)] for name in MASKED_OUT],
        view=STUDY.recipe("features"),
        recipe=STUDY.recipe("visualization"),
        code=code("figure9"),
    output:
        table=RESULTS / "figure9.csv",
        chosen=RESULTS / "figure9_images.csv",
        pdf=RESULTS / "figure9.pdf",
        png=report(
            RESULTS / "figure9.png",
            caption="../report/figure9.rst",
            category="Visualization",
            labels={"result": "Figure 9", "shows": "mask-out maps"},
        ),
    log:
        LOGS / "figure9.log",
    benchmark:
        TIMES / "figure9.tsv"
    conda:
        "../../envs/report.yaml"
    params:
        runs=visualized(MASKED_OUT, ""),
        targets=visualized_targets(MASKED_OUT),
        contrasts=seen_pairs(),
    shell:
        "python scripts/figure9.py {params.runs} {params.targets} --view {input.view} "
        "--recipe {input.recipe} {params.contrasts} --csv {output.table} "
        "--images {output.chosen} --pdf {output.pdf} --png {output.png} 2> {log}"
