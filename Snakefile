# What pre-training on object detection buys, and what it costs.
# Contents: the configuration, the rules of each stage, and what a whole study makes.
import gc

from snakemake.utils import min_version

min_version("9.20")
gc.freeze()  # Snakemake itself stays: to go through it again takes long before a dry run ends

# A study given by --configfile stands alone; without one, the paper's is run.
if "study" not in config:

    configfile: "config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/common/study.smk"
include: "workflow/common/data.smk"
include: "workflow/common/pretraining.smk"
include: "workflow/common/runs.smk"
include: "workflow/common/features.smk"
include: "workflow/common/visualization.smk"
include: "workflow/common/report.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/pretraining.smk"
include: "workflow/rules/detection.smk"
include: "workflow/rules/segmentation.smk"
include: "workflow/rules/classification.smk"
include: "workflow/rules/features.smk"
include: "workflow/rules/controls.smk"
include: "workflow/rules/visualization.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/report.smk"


localrules:
    all,
    model_card,
    table1,
    table2,
    table3,
    table4,
    table4_classes,
    table5,
    table6,
    table7,
    few_shot,
    breakdown,
    coco_finetuning,
    pretraining_quality,
    figure1,
    figure2,
    diagnosis,
    figure3,
    figure4,
    figure6,
    figure7,
    dial,
    figure8,
    figure9,
    report,


# Where jobs run on this machine, none has to wait its turn: Snakemake's limit of jobs a second wakes
# the scheduler once more every second for each job that has ended, which takes a core in the end.
onstart:
    if workflow.local_exec:
        workflow.scheduler.job_rate_limiter = None


rule all:
    default_target: True
    input:
        tables_and_figures(),
        RESULTS / "report.html",
