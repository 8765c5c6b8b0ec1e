# What a reader opens: the verdicts on the claims, and the report.


rule claims:
    input:
        runs=[claimed(task, file) for task, files in CLAIMED.items() for file in files],
        heads=HEADS,
        maps=[visualized(VISUALIZED, file) for file in ("metrics.json", "images.parquet")],
        spaces=[of_spaces(file) for file in SPACE_FILES],
        fits=list(fits().values()),
        indices=[index_files(target.dataset) for target in STUDY.targets.values()],
        published=sorted(STUDY.published.glob("*.csv")),
        lines=lines(),
        shuffled_probes=permuted("probe"),
        shuffled_finetunings=[
            file for file in permuted("finetuning", "metrics.json") if file.exists()
        ],
        dial=RESULTS / "dial.csv" if dial_points() else [],
        blank=[folder / "metrics.json" for folder in blank_runs()],
        worlds=other_worlds("*_only/claims.csv"),
        code=code("claims"),
    output:
        controls=report(
            RESULTS / "controls.csv",
            caption="../report/controls.rst",
            category="Claims",
            labels={
                "result": "Table of controls",
                "shows": "what must hold before a verdict counts",
            },
        ),
        claims=report(
            RESULTS / "claims.csv",
            caption="../report/claims.rst",
            category="Claims",
            labels={
                "result": "Table of claims",
                "shows": "a verdict on each statement of the paper",
            },
        ),
    log:
        LOGS / "claims.log",
    benchmark:
        TIMES / "claims.tsv"
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=STUDY.resources.predict.mem_mb,
        runtime=STUDY.resources.predict.runtime,
    params:
        published=STUDY.published,
        runs=[folder for task in CLAIMED for folder in claimed(task, "")],
        maps=visualized(VISUALIZED, ""),
        spaces=spaces(*SPACE_FILES),
        layers=[file.parent for file in head_metrics(HEADS)],
        indices=tested_targets(),
        design=design(),
        fits=[f"--pretraining {name} {file}" for name, file in fits().items()],
        shuffled_probes=[f"--shuffled-probe {folder / 'conv5'}" for folder in permuted("probe")],
        shuffled_finetunings=[
            f"--shuffled-finetuning {folder}"
            for folder in permuted("finetuning")
            if (folder / "metrics.json").exists()
        ],
        dial=f"--dial {RESULTS / 'dial.csv'}" if dial_points() else "",
        blank=[f"--blank {folder}" for folder in blank_runs()],
        worlds=[f"--world {file.parent.name} {file}" for file in other_worlds("*_only/claims.csv")],
    shell:
        "python scripts/claims.py {params.runs} {params.layers} {params.maps} {params.indices} "
        "{params.spaces} {params.design} {params.fits} --published {params.published} "
        "--lines {input.lines} {params.shuffled_probes} {params.shuffled_finetunings} "
        "{params.dial} {params.blank} {params.worlds} --controls {output.controls} "
        "--output {output.claims} 2> {log}"


rule report:
    input:
        study=tables_and_figures(),
        captions=sorted(Path("workflow/report").glob("*.rst")),
        deviations="docs/deviations.md",
        templates=sorted(Path("src/detransfer/report/templates").iterdir()),
        code=code("report"),
    output:
        RESULTS / "report.html",
    log:
        LOGS / "report.log",
    benchmark:
        TIMES / "report.tsv"
    conda:
        "../../envs/report.yaml"
    params:
        results=RESULTS,
        study=STUDY.study,
        rendered="--rendered" if STUDY.render_world else "",
        planned=planned(),
        asking=asking(),
        gpus=lambda wildcards: held_gpus(),
    shell:
        "python scripts/report.py --results {params.results} --study {params.study} "
        "{params.rendered} --planned {params.planned} --command '{params.asking}' "
        "--gpus {params.gpus} --deviations {input.deviations} --output {output} 2> {log}"
