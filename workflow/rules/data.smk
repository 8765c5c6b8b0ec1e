# From the owners' archives to one index a data set.

if STUDY.render_world:

    rule render_world:
        input:
            recipe=STUDY.world_recipe,
            code=code("render_world"),
        output:
            expand("{mirror}/{archive}", mirror=STUDY.mirror, archive=ARCHIVES),
            sums=f"{STUDY.mirror}/SHA256SUMS",
            sheet=RESULTS / "world.png",
        log:
            LOGS / "render_world.log",
        benchmark:
            TIMES / "render_world.tsv"
        priority: 10
        conda:
            "../../envs/data.yaml"
        threads: STUDY.resources.data.threads
        resources:
            mem_mb=STUDY.resources.data.mem_mb,
            runtime=STUDY.resources.data.runtime,
        params:
            mirror=STUDY.mirror,
            archives=ARCHIVES,
        shell:
            "python scripts/render_world.py --recipe {input.recipe} --output {params.mirror} "
            "--archives {params.archives} --contact-sheet {output.sheet} 2> {log}"


rule fetch:
    # No `code` among the inputs: whatever fetches an archive, its checksum says it is the same.
    input:
        archive=rendered_archive,
        checksums=STUDY.checksums or [],
    output:
        DATA / "archives" / "{archive}",
    log:
        LOGS / "fetch" / "{archive}.log",
    cache: SHARED
    priority: 10
    retries: 2
    conda:
        "../../envs/data.yaml"
    threads: STUDY.resources.data.threads
    resources:
        mem_mb=STUDY.resources.data.mem_mb,
        runtime=STUDY.resources.data.runtime,
    params:
        mirror=f"--mirror {STUDY.mirror}" if STUDY.mirror else "",
        checksums=f"--checksums {STUDY.checksums}" if STUDY.checksums else "",
        manual=str(DATA / "manual"),
        checksum=published_checksum,
        archive="{archive}",  # part of the key of a shared output, which wildcards are not
    shell:
        "python scripts/fetch.py --archive {params.archive} --output {output} "
        "{params.mirror} {params.checksums} --manual {params.manual} 2> {log}"


rule extract:
    input:
        archives=lambda wildcards: [
            DATA / "archives" / name for name in DATASETS[wildcards.dataset].archives
        ],
        code=code("extract"),
    output:
        directory(DATA / "{dataset}"),
    log:
        LOGS / "extract" / "{dataset}.log",
    benchmark:
        TIMES / "extract" / "{dataset}.tsv"
    priority: 10
    conda:
        "../../envs/data.yaml"
    threads: STUDY.resources.data.threads
    resources:
        mem_mb=STUDY.resources.data.mem_mb,
        runtime=STUDY.resources.data.runtime,
    params:
        parts=parts,
    shell:
        "python scripts/extract.py --output {output} {params.parts} 2> {log}"


rule check_dataset:
    input:
        unpack(lambda wildcards: index(wildcards.dataset)),
        # Behind a job that is stale by its own code and read as ancient, Snakemake overlooks others.
        code=ancient(code("check_dataset")),
    output:
        RESULTS / "datasets" / "{dataset}" / "check.csv",
    log:
        LOGS / "check_dataset" / "{dataset}.log",
    benchmark:
        TIMES / "check_dataset" / "{dataset}.tsv"
    priority: 10
    conda:
        "../../envs/data.yaml"
    threads: STUDY.resources.data.threads
    resources:
        mem_mb=STUDY.resources.data.mem_mb,
        runtime=STUDY.resources.data.runtime,
    params:
        folder=index_place,
        train=lambda wildcards: DATASETS[wildcards.dataset].train_splits,
        evaluation=lambda wildcards: DATASETS[wildcards.dataset].eval_split,
    shell:
        "python scripts/check_dataset.py --index {params.folder} --train-splits {params.train} "
        "--eval-split {params.evaluation} --threads {threads} --output {output} 2> {log}"


rule describe_dataset:
    input:
        tables=lambda wildcards: index_files(wildcards.dataset),
        code=code("describe_dataset"),
    output:
        statistics=RESULTS / "datasets" / "{dataset}" / "statistics.csv",
        picture=report(
            RESULTS / "datasets" / "{dataset}" / "statistics.png",
            caption="../report/dataset.rst",
            category="Data",
            labels={"result": "{dataset}", "shows": "sizes, counts, classes"},
        ),
        advice=RESULTS / "datasets" / "{dataset}" / "scales.csv",
    log:
        LOGS / "describe_dataset" / "{dataset}.log",
    benchmark:
        TIMES / "describe_dataset" / "{dataset}.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=STUDY.resources.data.mem_mb,
        runtime=STUDY.resources.data.runtime,
    params:
        folder=index_place,
        splits=described_splits,
        chip=advised_chip,
    shell:
        "python scripts/describe_dataset.py --index {params.folder} --name {wildcards.dataset} "
        "--splits {params.splits} --chip {params.chip} --statistics {output.statistics} --picture {output.picture} "
        "--advice {output.advice} 2> {log}"


rule occlusion_labels:
    input:
        labels=occlusion_release,
        tables=lambda wildcards: index_files(wildcards.dataset),
        code=code("occlusion_labels"),
    output:
        DATA / "index" / "{dataset}" / "occlusion.parquet",
    log:
        LOGS / "occlusion_labels" / "{dataset}.log",
    benchmark:
        TIMES / "occlusion_labels" / "{dataset}.tsv"
    wildcard_constraints:
        dataset=one_of(name for name, dataset in DATASETS.items() if dataset.occlusion),
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=STUDY.resources.data.mem_mb,
        runtime=STUDY.resources.data.runtime,
    params:
        folder=index_place,
        split=lambda wildcards: DATASETS[wildcards.dataset].eval_split,
    shell:
        "python scripts/occlusion_labels.py --labels {input.labels} --index {params.folder} "
        "--split {params.split} --output {output} 2> {log}"


rule index:
    input:
        images=lambda wildcards: images(wildcards.dataset),
        code=index_code,
    output:
        index_files("{dataset}"),
    log:
        LOGS / "index" / "{dataset}.log",
    benchmark:
        TIMES / "index" / "{dataset}.tsv"
    priority: 10
    conda:
        "../../envs/data.yaml"
    threads: STUDY.resources.data.threads
    resources:
        mem_mb=STUDY.resources.data.mem_mb,
        runtime=STUDY.resources.data.runtime,
    params:
        folder=index_place,
        reader=lambda wildcards: DATASETS[wildcards.dataset].reader,
        options=lambda wildcards: json.dumps(DATASETS[wildcards.dataset].options),
    shell:
        "python scripts/index.py --reader {params.reader} --root {input.images} "
        "--output {params.folder} --options {params.options:q} 2> {log}"
