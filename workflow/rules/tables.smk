# The paper's tables and figures, each from the metrics of its runs.


rule table2:
    input:
        metrics=runs("detection", "metrics.json", "voc"),
        published=STUDY.published / "table2.csv",
        code=code("tabulate_runs"),
    output:
        report(
            RESULTS / "table2.csv",
            caption="../report/table2.rst",
            category="Detection",
            labels={"result": "Table 2", "shows": "VOC mAP by pre-training"},
        ),
    log:
        LOGS / "table2.log",
    benchmark:
        TIMES / "table2.tsv"
    conda:
        "../../envs/report.yaml"
    params:
        metrics=["mAP@0.5", "mAP@0.7", "mAP10@0.5", "mAP10@0.7"],
    shell:
        "python scripts/tabulate_runs.py {input.metrics} --metrics {params.metrics} "
        "--published {input.published} --output {output} 2> {log}"


rule table3:
    input:
        diagnoses=runs("detection", "diagnosis.json", "voc"),
        published=STUDY.published / "table3.csv",
        code=code("table3"),
    output:
        report(
            RESULTS / "table3.csv",
            caption="../report/table3.rst",
            category="Detection",
            labels={"result": "Table 3", "shows": "missed objects by occlusion"},
        ),
    log:
        LOGS / "table3.log",
    benchmark:
        TIMES / "table3.tsv"
    conda:
        "../../envs/report.yaml"
    shell:
        "python scripts/table3.py {input.diagnoses} --published {input.published} "
        "--output {output} 2> {log}"


use rule table2 as table5 with:
    input:
        metrics=runs("classification", "metrics.json"),
        published=STUDY.published / "table5.csv",
        code=code("tabulate_runs"),
    output:
        report(
            RESULTS / "table5.csv",
            caption="../report/table5.rst",
            category="Classification",
            labels={"result": "Table 5", "shows": "top-1 accuracy after fine-tuning"},
        ),
    log:
        LOGS / "table5.log",
    benchmark:
        TIMES / "table5.tsv"
    params:
        metrics=["top1"],


use rule table2 as table6 with:
    input:
        metrics=probes(CLASSIFIED, "conv5/metrics.json"),
        published=STUDY.published / "table6.csv",
        code=code("tabulate_runs"),
    output:
        report(
            RESULTS / "table6.csv",
            caption="../report/table6.rst",
            category="Classification",
            labels={"result": "Table 6", "shows": "linear probes of Conv5"},
        ),
    log:
        LOGS / "table6.log",
    benchmark:
        TIMES / "table6.tsv"
    params:
        metrics=["top1", "top1_low", "top1_high", "mean_class_accuracy"],


use rule table2 as coco_finetuning with:
    input:
        metrics=runs("detection", "metrics.json", "coco"),
        published=STUDY.published / "coco_finetuning.csv",
        code=code("tabulate_runs"),
    output:
        report(
            RESULTS / "coco_finetuning.csv",
            caption="../report/coco_finetuning.rst",
            category="Detection",
            labels={"result": "Table on COCO", "shows": "COCO AP by pre-training"},
        ),
    log:
        LOGS / "coco_finetuning.log",
    benchmark:
        TIMES / "coco_finetuning.tsv"
    params:
        metrics=["AP@[.5:.95]", "AP@0.5", "AP@0.75"],


use rule table2 as pretraining_quality with:
    input:
        metrics=expand(
            RESULTS / "pretraining" / "{pretraining}" / "metrics.json", pretraining=STUDY.detectors
        ),
        published=STUDY.published / "pretraining.csv",
        code=code("tabulate_runs"),
    output:
        report(
            RESULTS / "pretraining.csv",
            caption="../report/pretraining.rst",
            category="Pre-training",
            labels={"result": "Table of quality", "shows": "detectors on their own task"},
        ),
    log:
        LOGS / "pretraining_quality.log",
    benchmark:
        TIMES / "pretraining_quality.tsv"
    params:
        metrics=sorted({HEADLINES[metric_of(name)] for name in STUDY.detectors}),


rule table1:
    input:
        tables=[index_files(name) for name in STUDY.described],
        published=STUDY.published / "table1.csv",
        code=code("table1"),
    output:
        report(
            RESULTS / "table1.csv",
            caption="../report/table1.rst",
            category="Data",
            labels={"result": "Table 1", "shows": "data sets"},
        ),
    log:
        LOGS / "table1.log",
    benchmark:
        TIMES / "table1.tsv"
    conda:
        "../../envs/report.yaml"
    params:
        datasets=[
            f"--dataset {name} {index_folder(name)} {DATASETS[name].eval_split} "
            + " ".join(DATASETS[name].train_splits)
            for name in STUDY.described
        ],
    shell:
        "python scripts/table1.py {params.datasets} --published {input.published} "
        "--output {output} 2> {log}"


rule figure1:
    input:
        metrics=runs("detection", "metrics.json", "voc"),
        published=STUDY.published / "table2.csv",
        code=code("figure1"),
    output:
        table=RESULTS / "figure1.csv",
        pdf=RESULTS / "figure1.pdf",
        png=report(
            RESULTS / "figure1.png",
            caption="../report/figure1.rst",
            category="Detection",
            labels={"result": "Figure 1", "shows": "VOC mAP by overlap threshold"},
        ),
    log:
        LOGS / "figure1.log",
    benchmark:
        TIMES / "figure1.tsv"
    conda:
        "../../envs/report.yaml"
    shell:
        "python scripts/figure1.py {input.metrics} --published {input.published} "
        "--csv {output.table} --pdf {output.pdf} --png {output.png} 2> {log}"


rule table7:
    input:
        conv5=probes(CLASSIFIED[:1], "conv5/metrics.json", [*STUDY.detectors, *STUDY.matched]),
        heads=HEADS,
        published=STUDY.published / "table7.csv",
        code=code("table7"),
    output:
        report(
            RESULTS / "table7.csv",
            caption="../report/table7.rst",
            category="Classification",
            labels={"result": "Table 7", "shows": "linear probes of the detection head"},
        ),
    log:
        LOGS / "table7.log",
    benchmark:
        TIMES / "table7.tsv"
    conda:
        "../../envs/report.yaml"
    params:
        heads=head_metrics(HEADS),
    shell:
        "python scripts/table7.py {input.conv5} {params.heads} --published {input.published} "
        "--output {output} 2> {log}"


rule few_shot:
    input:
        metrics=probes(CLASSIFIED, "conv5/metrics.json"),
        code=code("few_shot"),
    output:
        table=RESULTS / "few_shot.csv",
        pdf=RESULTS / "few_shot.pdf",
        png=report(
            RESULTS / "few_shot.png",
            caption="../report/few_shot.rst",
            category="Classification",
            labels={"result": "Figure on few images", "shows": "frozen features with few images"},
        ),
    log:
        LOGS / "few_shot.log",
    benchmark:
        TIMES / "few_shot.tsv"
    conda:
        "../../envs/report.yaml"
    shell:
        "python scripts/few_shot.py {input.metrics} --csv {output.table} --pdf {output.pdf} "
        "--png {output.png} 2> {log}"


rule breakdown:
    input:
        metrics=probes(PROBED, "conv5/metrics.json"),
        tables=[index_files(STUDY.targets[name].dataset) for name in PROBED],
        code=code("breakdown"),
    output:
        report(
            RESULTS / "breakdown.csv",
            caption="../report/breakdown.rst",
            category="Classification",
            labels={"result": "Table by sizes", "shows": "frozen features by size and number"},
        ),
    log:
        LOGS / "breakdown.log",
    benchmark:
        TIMES / "breakdown.tsv"
    conda:
        "../../envs/report.yaml"
    params:
        targets=[
            f"--target {name} {index_folder(STUDY.targets[name].dataset)} "
            f"{DATASETS[STUDY.targets[name].dataset].eval_split}"
            for name in PROBED
        ],
    shell:
        "python scripts/breakdown.py {input.metrics} {params.targets} --output {output} 2> {log}"


rule diagnosis:
    input:
        diagnoses=runs("detection", "diagnosis.json", "voc"),
        tables=runs("detection", "diagnosis.csv", "voc"),
        code=code("diagnosis"),
    output:
        table=RESULTS / "diagnosis.csv",
        pdf=RESULTS / "diagnosis.pdf",
        png=report(
            RESULTS / "diagnosis.png",
            caption="../report/diagnosis.rst",
            category="Detection",
            labels={"result": "Figure of errors", "shows": "kinds of errors, sizes, shapes"},
        ),
    log:
        LOGS / "diagnosis.log",
    benchmark:
        TIMES / "diagnosis.tsv"
    conda:
        "../../envs/report.yaml"
    shell:
        "python scripts/diagnosis.py {input.diagnoses} --csv {output.table} "
        "--pdf {output.pdf} --png {output.png} 2> {log}"


rule figure2:
    input:
        found=runs("detection", "detections.parquet", "voc"),
        analysed=runs("detection", "objects.parquet", "voc"),
        metrics=runs("detection", "metrics.json", "voc"),
        truth=evaluated("detection"),
        code=code("figure2"),
    output:
        table=RESULTS / "figure2.csv",
        pdf=RESULTS / "figure2.pdf",
        png=report(
            RESULTS / "figure2.png",
            caption="../report/figure2.rst",
            category="Detection",
            labels={"result": "Figure 2", "shows": "detections side by side"},
        ),
    log:
        LOGS / "figure2.log",
    benchmark:
        TIMES / "figure2.tsv"
    conda:
        "../../envs/report.yaml"
    params:
        pairs=VOC_PAIRS,
    shell:
        "python scripts/figure2.py {params.pairs} --csv {output.table} --pdf {output.pdf} "
        "--png {output.png} 2> {log}"


use rule table2 as table4 with:
    input:
        metrics=runs("segmentation", "metrics.json"),
        published=STUDY.published / "table4.csv",
        code=code("tabulate_runs"),
    output:
        report(
            RESULTS / "table4.csv",
            caption="../report/table4.rst",
            category="Segmentation",
            labels={"result": "Table 4", "shows": "mean IoU by pre-training"},
        ),
    log:
        LOGS / "table4.log",
    benchmark:
        TIMES / "table4.tsv"
    params:
        metrics=["mIoU", "mIoU_resized"],


rule table4_classes:
    input:
        metrics=runs("segmentation", "metrics.json"),
        confusion=runs("segmentation", "confusion.parquet"),
        published=STUDY.published / "text.csv",
        code=code("table4_classes"),
    output:
        report(
            RESULTS / "table4_classes.csv",
            caption="../report/table4_classes.rst",
            category="Segmentation",
            labels={"result": "Table 4, classes", "shows": "IoU of each class"},
        ),
    log:
        LOGS / "table4_classes.log",
    benchmark:
        TIMES / "table4_classes.tsv"
    conda:
        "../../envs/report.yaml"
    params:
        runs=runs("segmentation", ""),
        contrasts=contrasts(),
    shell:
        "python scripts/table4_classes.py {params.runs} {params.contrasts} "
        "--published {input.published} --output {output} 2> {log}"


rule figure3:
    input:
        metrics=runs("segmentation", "metrics.json"),
        confusion=runs("segmentation", "confusion.parquet"),
        predictions=runs("segmentation", "predictions.zip"),
        truth=evaluated("segmentation"),
        code=code("figure3"),
    output:
        table=RESULTS / "figure3.csv",
        pdf=RESULTS / "figure3.pdf",
        png=report(
            RESULTS / "figure3.png",
            caption="../report/figure3.rst",
            category="Segmentation",
            labels={"result": "Figure 3", "shows": "segmentations side by side"},
        ),
    log:
        LOGS / "figure3.log",
    benchmark:
        TIMES / "figure3.tsv"
    conda:
        "../../envs/report.yaml"
    params:
        pairs=MASK_PAIRS,
    shell:
        "python scripts/figure3.py {params.pairs} --csv {output.table} --pdf {output.pdf} "
        "--png {output.png} 2> {log}"


rule figure4:
    input:
        metrics=runs("segmentation", "metrics.json"),
        confusion=runs("segmentation", "confusion.parquet"),
        code=code("figure4"),
    output:
        table=RESULTS / "figure4.csv",
        pdf=RESULTS / "figure4.pdf",
        png=report(
            RESULTS / "figure4.png",
            caption="../report/figure4.rst",
            category="Segmentation",
            labels={"result": "Figure 4", "shows": "mean IoU near to and far from borders"},
        ),
    log:
        LOGS / "figure4.log",
    benchmark:
        TIMES / "figure4.tsv"
    conda:
        "../../envs/report.yaml"
    params:
        runs=runs("segmentation", ""),
        contrasts=contrasts(),
    shell:
        "python scripts/figure4.py {params.runs} {params.contrasts} --csv {output.table} "
        "--pdf {output.pdf} --png {output.png} 2> {log}"
