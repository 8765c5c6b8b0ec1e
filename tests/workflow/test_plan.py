"""What Snakemake plans for the paper's study, and what every rule has."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.workflow.checkout import Checkout

pytestmark = [pytest.mark.workflow]

PRETRAININGS = ("random", "imagenet_cls", "imagenet_loc", "coco", "openimages")
CONTROLS = ("imagenet_loc_labels", "coco_labels", "openimages_labels")
SEEDS, DETECTORS = 3, 3
RUNS = SEEDS * len(PRETRAININGS + CONTROLS)  # of a target
DETECTIONS = RUNS + SEEDS * 4  # on COCO from the paper's two pre-trainings and their controls
BY_HAND = {
    "dial.py",
    "plan.py",
    "export_hub.py",
    "status.py",
    "coco_submission.py",
    "cluster_superclasses.py",
    "detect_images.py",
    "inspect_chips.py",
}
CLASSIFIED, PROBED = 3, 4  # targets of classification; those and the first of detection
LOCAL = {"all", "diagnosis", "few_shot", "breakdown", "table4_classes", "dial", "report"}
LOCAL |= {"coco_finetuning", "pretraining_quality", "model_card"}
LOCAL |= {*(f"table{number}" for number in range(1, 8))}
LOCAL |= {*(f"figure{number}" for number in (1, 2, 3, 4, 6, 7, 8, 9))}  # and 5 where it runs
SHARED = {"fetch", "import_backbone", "export_backbone", "pretrain_classifier"}
SHARED |= {"pretrain_detector", "pretrain_labels", "mine_for_pretraining"}  # need no benchmark
PROBE = """
include: "Snakefile"
import json
Path("rules.json").write_text(json.dumps({
    each.name: {
        "command": each.shellcmd or "",
        "log": [str(file) for file in each.log],
        "benchmark": str(each.benchmark or ""),
        "conda": str(each.conda_env or ""),
        "resources": sorted(each.resources),
        "local": each.name in workflow._localrules,
    }
    for each in workflow.rules
}))
"""


@pytest.fixture(scope="module")
def rules(checkout: Checkout) -> dict[str, dict[str, Any]]:
    """What Snakemake knows of each rule of the demo (which has one rule more than the paper)."""
    (checkout.folder / "probe.smk").write_text(PROBE)
    words = ("--configfile", "config/demo.yaml", "--snakefile", "probe.smk", "--list-rules")
    result = checkout.snakemake(*words)
    assert result.code == 0, result.output
    found: dict[str, dict[str, Any]] = json.loads((checkout.folder / "rules.json").read_text())
    return found


@pytest.fixture(scope="module")
def jobs(checkout: Checkout) -> list[dict[str, str]]:
    """The fields of every job of the paper's study, in Snakemake's words."""
    result = checkout.snakemake("-n", "--cores", "64", "--resources", "gpu=8", "--", "all")
    assert result.code == 0, result.output
    found = []
    for block in re.split(r"\n\n", result.output):
        if rule := re.search(r"^(?:local)?rule (\w+):$", block, re.M):
            fields = dict(re.findall(r"^    ([\w ]+): (.*)$", block, re.M))
            command = re.search(r"^Shell command: (.*)$", block, re.M)
            found.append({"rule": rule[1], **fields, "command": command[1] if command else ""})
    return found


def test_the_papers_study_has_every_run_once(checkout: Checkout) -> None:
    assert checkout.plan() == {
        "fetch": 51,  # each archive once, though two data sets share VOC 2012's
        "extract": 10,
        "index": 10,
        "occlusion_labels": 1,  # of VOC 2007's test objects
        "check_dataset": 9,  # those that something is trained or evaluated on
        "describe_dataset": 10,
        "import_backbone": 2,  # random, imagenet_cls
        "mine_for_pretraining": 1,  # coco: the other two take no negative chips
        "pretrain_detector": DETECTORS,
        "pretrain_labels": DETECTORS,  # their controls
        "detect_in_pretraining": DETECTORS,
        "evaluate_pretraining": DETECTORS,
        "export_backbone": 2 * DETECTORS,
        "mine_for_target": DETECTIONS,
        "finetune_detector": DETECTIONS,
        "detect": DETECTIONS,
        "evaluate_detections": DETECTIONS,
        "diagnose_detections": RUNS,  # by VOC's rules
        "finetune_segmenter": RUNS,
        "segment": RUNS,
        "evaluate_segmentation": RUNS,
        "search_classifier": CLASSIFIED * RUNS // SEEDS,
        "finetune_classifier": CLASSIFIED * RUNS,
        "classify": CLASSIFIED * RUNS,
        "extract_features": PROBED * (RUNS // SEEDS - DETECTORS),
        "extract_detector_features": PROBED * DETECTORS,
        "probe": PROBED * RUNS,
        "probe_head": DETECTORS * SEEDS,
        "floors": 6,  # of every target
        "probe_shuffled": CLASSIFIED * 5,  # five draws
        "claims": 1,
        **{f"table{number}": 1 for number in range(1, 8)},
        "mask_out": PROBED * RUNS // SEEDS,
        "map_activations": RUNS // SEEDS,  # of the images with masks
        "cluster_features": RUNS // SEEDS,  # of Caltech-256
        "embed_features": RUNS // SEEDS,
        "similarity": 1,
        "explorer": 1,
        **{f"figure{number}": 1 for number in range(1, 10)},
        "table4_classes": 1,
        "few_shot": 1,
        "breakdown": 1,
        "diagnosis": 1,
        "pretraining_quality": 1,
        "coco_finetuning": 1,
        "model_card": len(PRETRAININGS + CONTROLS),
        "report": 1,
        "all": 1,
    }


def test_one_table_plans_only_what_it_needs(checkout: Checkout) -> None:
    planned = checkout.plan("results/table5.csv")
    assert {name: planned[name] for name in ("finetune_classifier", "classify", "table5")} == {
        "finetune_classifier": CLASSIFIED * RUNS,
        "classify": CLASSIFIED * RUNS,
        "table5": 1,
    }
    assert planned["pretrain_detector"] == planned["pretrain_labels"] == DETECTORS
    assert planned["check_dataset"] == 6  # of three sources, and three targets
    assert not {"finetune_detector", "evaluate_pretraining", "table2"} & planned.keys()


def test_seeds_of_the_configuration_are_the_seeds_that_are_run(jobs: list[dict[str, str]]) -> None:
    for rule, program in (
        ("finetune_detector", "train_detector"),
        ("finetune_classifier", "train_classifier"),
    ):
        ran = [job for job in jobs if job["rule"] == rule]
        given = set()
        for job in ran:
            where = re.search(r"pretraining=(\w+), seed=(\d+)", job["wildcards"])
            assert where, job["wildcards"]
            assert f"scripts/{program}.py " in job["command"]
            assert f" --seed {where[2]} " in job["command"]
            assert f"/{where[1]}/seed{where[2]} --threads" in job["command"]  # its own folder
            given.add((where[1], where[2]))
        names = PRETRAININGS + CONTROLS
        assert given == {(name, str(seed)) for name in names for seed in range(SEEDS)}


@pytest.mark.parametrize(
    "target",
    [
        "results/detection/nope/coco/seed0/metrics.json",
        "results/detection/voc_detection/coco/seed7/metrics.json",
        "results/detection/caltech256/coco/seed0/metrics.json",  # a target of another task
        "results/pretraining/random/model.safetensors",  # given, not trained
    ],
)
def test_only_what_the_configuration_names_can_be_made(checkout: Checkout, target: str) -> None:
    result = checkout.snakemake("-n", target)
    assert result.code == 1
    assert f"No rule to produce {target}" in result.output
    assert "Traceback" not in result.output


def test_jobs_ask_for_what_the_configuration_gives_them(
    checkout: Checkout, jobs: list[dict[str, str]]
) -> None:
    content = yaml.safe_load((checkout.folder / "config" / "config.yaml").read_text())
    kinds = {
        "train": {"pretrain_detector", "pretrain_labels", "finetune_detector", "mine_for_target"},
        "predict": {"detect", "classify"},
        "data": {"fetch", "extract", "index", "check_dataset"},
    }
    for kind, names in kinds.items():
        asked = content["resources"][kind]
        for job in (job for job in jobs if job["rule"] in names):
            resources = dict(part.split("=") for part in job["resources"].split(", "))
            assert int(resources.get("gpu", 0)) == asked.get("gpu", 0), job
            assert int(job.get("threads", 1)) == asked["threads"], job
            assert int(resources["mem_mb"]) == asked["mem_mb"], job
            assert int(resources["runtime"]) == asked["runtime"], job
            if asked.get("gpu"):
                lease = f"python scripts/with_gpus.py --gpus {asked['gpu']} --expected "
                assert job["command"].startswith(f"{lease}{asked['gpu']} -- python scripts/"), job
                assert f"--threads {asked['threads']} " in job["command"], job


@pytest.mark.parametrize(("cores", "threads"), [("8", 1), ("24", 3), ("128", 8)])
def test_cores_are_shared_among_the_gpus(checkout: Checkout, cores: str, threads: int) -> None:
    """So that eight trainings run side by side on eight GPUs, however few the cores are."""
    words = ("-n", "--cores", cores, "--resources", "gpu=8", "--", "results/table2.csv")
    given = re.findall(r"train_detector\.py .*--threads (\d+)", checkout.snakemake(*words).output)
    assert set(given) == {str(threads)} and len(given) > 20


def test_a_demand_that_snakemake_lowers_is_still_compared_with_the_configuration(
    checkout: Checkout,
) -> None:
    target = "results/pretraining/coco/backbone.safetensors"
    result = checkout.snakemake("-n", "--resources", "gpu=0", "--", target)
    assert "with_gpus.py --gpus 0 --expected 1 -- python scripts/train_detector.py" in result.output


def test_the_report_knows_what_the_study_makes_and_which_jobs_hold_devices(
    jobs: list[dict[str, str]], rules: dict[str, dict[str, Any]]
) -> None:
    (command,) = (job["command"] for job in jobs if job["rule"] == "report")
    options = dict(part.partition(" ")[::2] for part in command.split(" --")[1:])
    assert options["command"] == "'snakemake" and " --' --gpus" in command
    assert "--rendered" not in command
    assert {"table2.csv", "figure9.png", "coco_finetuning.csv"} <= set(options["planned"].split())
    held = dict(word.split("=") for word in options["gpus"].split())
    assert held == {name: "1" for name, rule in rules.items() if "gpu" in rule["resources"]}


def test_the_file_of_the_network_is_given_to_whoever_builds_it(
    checkout: Checkout, jobs: list[dict[str, str]]
) -> None:
    """Weights name it too, but a program runs only the one that it is given."""
    named = re.compile(r"--architecture [^ ]+\.py")
    assert not any(named.search(job["command"]) for job in jobs), "timm has the paper's"
    file = "config/backbones/mobilenetv1_025_leaky.py"
    study = f"backbone={{name: mobilenetv1_025_leaky, file: {file}}}"
    words = ("-n", "--configfile", "config/demo.yaml", "--config", study)
    text = checkout.snakemake(*words).output
    commands = set(re.findall(r"^Shell command: (.*)$", text, re.M))
    given = {scripts(command)[-1] for command in commands if f"--architecture {file} " in command}
    opening = {"train_classifier", "train_detector", "train_labels", "train_segmenter"}
    opening |= {"search_classifier", "mine_proposals", "classify", "detect", "segment", "visualize"}
    opening |= {"extract_features", "extract_detector_features", "export_backbone"}
    assert given == opening & {scripts(command)[-1] for command in commands}
    assert len(given) > 10
    for command in commands:
        assert scripts(command)[-1] not in opening or f"--architecture {file} " in command, command


def test_trainings_of_detectors_know_the_inference_that_follows(
    jobs: list[dict[str, str]],
) -> None:
    found = set()
    for job in jobs:
        if {"train_detector", "mine_proposals"} & set(scripts(job["command"])):
            wildcards = dict(each.split("=") for each in job["wildcards"].split(", "))
            recipe = f"evaluate_{wildcards.get('target', wildcards['pretraining'])}.yaml"
            assert re.search(rf"--inference \S+/{recipe} ", job["command"])
            found.add(job["rule"])
    stages = {"pretrain_detector", "mine_for_pretraining"}
    assert found == stages | {"finetune_detector", "mine_for_target"}


def scripts(command: str) -> list[str]:
    """Return the names of the programs in a command."""
    return re.findall(r"scripts/(\w+)\.py", command) or [""]


def test_scales_are_advised_for_the_chips_that_are_trained_on(
    checkout: Checkout, jobs: list[dict[str, str]]
) -> None:
    demo = checkout.snakemake("-n", "--configfile", "config/demo.yaml").output
    commands = [job["command"] for job in jobs if job["rule"] == "describe_dataset"]
    sides = {}
    for study, text in (("paper", "\n".join(commands)), ("demo", demo)):
        found = re.findall(r"describe_dataset.py .* --name (\w+) .* --chip (\d+) ", text)
        sides[study] = {name: int(side) for name, side in found}
    assert set(sides["paper"].values()) == {512}
    trained = {"coco", "openimages", "imagenet_loc", "voc_detection"}
    assert {name for name, side in sides["demo"].items() if side == 128} == trained
    assert sides["demo"]["imagenet_det"] == 512, "nothing is trained on it"


def test_every_rule_that_runs_a_program_says_how(rules: dict[str, dict[str, Any]]) -> None:
    for name, rule in rules.items():
        if name == "all":
            assert not rule["command"]
            continue
        assert rule["log"] and rule["command"].endswith(" 2> {log}"), name
        assert rule["benchmark"].endswith(".tsv") != (name in SHARED), name
        assert rule["conda"].endswith(".yaml"), name
        assert rule["local"] or {"mem_mb", "runtime"} <= set(rule["resources"]), name
        assert rule["local"] == (name in LOCAL), name


def test_the_slurm_profile_asks_for_the_gpu_model_where_a_rule_uses_gpus(
    repository: Path, rules: dict[str, dict[str, Any]]
) -> None:
    """As a default resource it would give a GPU to jobs that use none."""
    text = (repository / "profiles/slurm/profile.yaml").read_text()
    profile = yaml.safe_load(text)
    using = {name for name, rule in rules.items() if "gpu" in rule["resources"]}
    assert set(profile["set-resources"]) == using
    assert "gpu_model" not in profile["default-resources"]
    assert text.count("# FILL IN: ") == 3


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_a_profile_plans_what_the_default_one_plans(checkout: Checkout, name: str) -> None:
    default = yaml.safe_load((checkout.folder / "profiles/default/profile.yaml").read_text())
    del default["cores"]  # there: the machine's; on a cluster: jobs
    place = f"profiles/{name}"
    own = yaml.safe_load((checkout.folder / place / "profile.yaml").read_text())
    assert default.items() <= own.items()
    target = "results/table5.csv"
    assert checkout.plan("--workflow-profile", place, "--", target) == checkout.plan(target)


def test_every_rule_sets_its_threads(repository: Path) -> None:
    text = "\n".join(file.read_text() for file in (repository / "workflow/rules").glob("*.smk"))
    blocks = re.findall(r"^ *rule (\w+):\n(.*?)(?=^\S|^ *rule |\Z)", text, re.M | re.S)
    assert len(blocks) > 10
    assert [name for name, body in blocks if "threads:" not in body and name not in LOCAL] == []


def test_every_program_belongs_to_a_rule(checkout: Checkout, jobs: list[dict[str, str]]) -> None:
    demo = checkout.snakemake("-n", "--configfile", "config/demo.yaml").output
    commands = demo + "".join(job["command"] for job in jobs)
    used = set(re.findall(r"scripts/(\w+\.py) ", commands))
    assert used | BY_HAND == {file.name for file in (checkout.folder / "scripts").glob("*.py")}


def test_everything_that_may_use_a_gpu_holds_a_lease(rules: dict[str, dict[str, Any]]) -> None:
    leased = {name for name, rule in rules.items() if "scripts/with_gpus.py" in rule["command"]}
    assert leased == {name for name, rule in rules.items() if "gpu" in rule["resources"]}
    trainings = {"pretrain_classifier", "pretrain_detector", "pretrain_labels"}
    trainings |= {"finetune_classifier", "search_classifier", "finetune_detector"}
    trainings |= {"finetune_segmenter", "finetune_shuffled"}
    mining = {"mine_for_pretraining", "mine_for_target"}
    features = {"extract_features", "extract_detector_features"}
    running = {"detect", "detect_in_pretraining", "classify", "classify_shuffled", "segment"}
    running |= {"map_activations", "mask_out"}
    assert leased == trainings | mining | features | running
    for name in leased:
        command = rules[name]["command"]
        assert command.startswith("python scripts/with_gpus.py --gpus {resources.gpu} "), name
        assert "--expected {params.gpu} -- python scripts/" in command, name


def test_all_trainings_run_by_one_command(rules: dict[str, dict[str, Any]]) -> None:
    kinds = ("pretrain_", "mine_", "finetune_", "search_")
    trainings = {name: rule for name, rule in rules.items() if name.startswith(kinds)}
    assert len(trainings) == 10
    assert len({rule["command"] for rule in trainings.values()}) == 1


def test_every_result_in_snakemakes_report_has_a_caption_a_category_and_labels(
    repository: Path,
) -> None:
    """Snakemake shows the labels as columns, so all have the same ones."""
    text = "\n".join(file.read_text() for file in (repository / "workflow/rules").glob("*.smk"))
    shown = re.findall(r"\breport\(\n(.*?)\n        +\)", text, re.S)
    assert len(shown) > 20
    for each in shown:
        caption = re.search(r'caption="\.\./report/(\w+\.rst)"', each)
        assert caption and (repository / "workflow/report" / caption[1]).is_file(), each
        assert re.search(r'category="\w[\w -]+"', each), each
        assert re.search(r'labels=\{\s*"result": "[^"]+",\s*"shows": "[^"]+",?\s*\}', each), each
