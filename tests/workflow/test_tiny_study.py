"""A whole study in earnest, as small as it gets: what is made, what goes stale, what survives.

The world has a few dozen images and the networks learn next to nothing: only the files matter.
"""

from __future__ import annotations

import contextlib
import html
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from PIL import Image

from detransfer.imports import imported_files
from detransfer.report.metrics import read_metrics
from detransfer.report.statements import STATEMENTS
from tests.workflow.checkout import ENVIRONMENT, Checkout, Result, copy_repository
from tests.workflow.tiny import CLASSES, PRETRAININGS, VOC_METRICS, write_configuration

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

RUNS = len(PRETRAININGS)  # of each target: one seed
DETECTED = RUNS + 2  # of VOC, and two on COCO
WITH_MASKS = PRETRAININGS  # as in the demo, of those that are left
SEGMENTED = len(WITH_MASKS)
DATASETS = 5
SHUFFLED = 5  # draws of permuted labels
# Logs of rules whose outputs checkouts can share; Snakemake takes no time of those.
SHARED = {"fetch", "import_backbone", "export_backbone", "pretrain", "mine_for_pretraining"}
FORMS = ("csv", "pdf", "png")  # of a figure
WORDS = ("--configfile", "config/tiny.yaml", "--cores", "2")
EVERYTHING = {
    "render_world": 1,
    "fetch": 12,
    "extract": DATASETS,
    "index": DATASETS,
    "occlusion_labels": 1,
    "check_dataset": DATASETS,
    "describe_dataset": 4,
    "import_backbone": 1,
    "pretrain_classifier": 1,
    "mine_for_pretraining": 1,  # coco takes negative chips
    "pretrain_detector": 1,
    "pretrain_labels": 1,
    "detect_in_pretraining": 1,
    "evaluate_pretraining": 1,
    "export_backbone": 3,
    "model_card": RUNS,
    "finetune_detector": DETECTED,
    "detect": DETECTED,
    "evaluate_detections": DETECTED,
    "diagnose_detections": RUNS,
    "finetune_segmenter": SEGMENTED,
    "segment": SEGMENTED,
    "evaluate_segmentation": SEGMENTED,
    "finetune_classifier": RUNS,
    "classify": RUNS,
    "extract_features": 2 * (RUNS - 1),  # for Caltech-256, and VOC's objects by size
    "extract_detector_features": 2,
    "probe": 2 * RUNS,
    "probe_head": 1,
    **{f"table{number}": 1 for number in range(1, 8)},
    "mask_out": 2 * RUNS,
    "map_activations": RUNS,
    "cluster_features": RUNS,
    "embed_features": RUNS,
    "similarity": 1,
    "explorer": 1,
    **{f"figure{number}": 1 for number in range(1, 10)},
    "table4_classes": 1,
    "few_shot": 1,
    "breakdown": 1,
    "diagnosis": 1,
    "pretraining_quality": 1,
    "coco_finetuning": 1,
    "floors": 4,
    "leaks": 3,  # of images with a class or boxes
    "probe_shuffled": SHUFFLED,
    "claims": 1,
    "report": 1,
    "all": 1,
}
QUALITY = {"evaluate_pretraining": 1, "pretraining_quality": 1, "model_card": 1}
CARDS = {"model_card": RUNS, "report": 1, "all": 1}  # they print the catalog's terms
SCORING = {  # of VOC alone
    "evaluate_detections": RUNS,
    "claims": 1,
    "table2": 1,
    "figure1": 1,
    "figure2": 1,
    "report": 1,
    "all": 1,
}
DIAGNOSIS = {
    "diagnose_detections": RUNS,
    "claims": 1,
    "table3": 1,
    "diagnosis": 1,
    "figure2": 1,
    "report": 1,
    "all": 1,
}
SCORED_MASKS = {"evaluate_segmentation": SEGMENTED, "table4": 1, "table4_classes": 1}
SCORED_MASKS |= {"claims": 1, "figure3": 1, "figure4": 1, "report": 1, "all": 1}
MASKS = {"finetune_segmenter": SEGMENTED, "segment": SEGMENTED, **SCORED_MASKS}
RECORDED = {"extract_features": RUNS - 1, "extract_detector_features": 1}  # of one data set
RECORDED |= {"probe": RUNS, "breakdown": 1, "mask_out": RUNS, "figure9": 1}
MAPPED = {"map_activations": RUNS, "figure8": 1, "claims": 1}
PROBED = {
    **RECORDED,
    "probe_head": 1,
    "probe_shuffled": SHUFFLED,
    "claims": 1,
    "few_shot": 1,
    "table6": 1,
    "table7": 1,
}
SPACES = {"cluster_features": RUNS, "embed_features": RUNS, "similarity": 1, "explorer": 1}
SPACES |= {"figure5": 1, "figure6": 1, "figure7": 1, "claims": 1}
CLASSIFICATION = {"finetune_classifier": RUNS, "classify": RUNS, "claims": 1}
CLASSIFICATION |= {"table5": 1, "report": 1, "all": 1}


@pytest.fixture(scope="module")
def study(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkout, Result]:
    """A tiny study that has been run to its end, and what Snakemake printed."""
    checkout = copy_repository(repository, tmp_path_factory.mktemp("tiny"))
    write_configuration(checkout.folder)
    assert checkout.plan(*WORDS) == EVERYTHING
    return checkout, checkout.snakemake(*WORDS, timeout=1500)


@pytest.fixture(scope="module")
def tiny(study: tuple[Checkout, Result]) -> Checkout:
    checkout, result = study
    assert result.code == 0, result.output
    return checkout


@contextlib.contextmanager
def edited(file: Path) -> Iterator[None]:
    """Add a comment to a file for the time of the body; the content comes back, not its time."""
    content = file.read_text()
    file.write_text(f"{content}\n# edited\n")
    try:
        yield
    finally:
        file.write_text(content)


@contextlib.contextmanager
def lost(file: Path) -> Iterator[None]:
    """Take a file away for the time of the body."""
    aside = file.rename(file.with_name(f"{file.name}.aside"))
    try:
        yield
    finally:
        aside.rename(file)


def test_the_study_runs_to_its_end(study: tuple[Checkout, Result]) -> None:
    checkout, result = study
    assert result.code == 0, result.output
    total = sum(EVERYTHING.values())
    assert f"{total} of {total} steps (100%) done" in result.output
    results = checkout.folder / "results" / "tiny"
    made = {file.name for file in results.iterdir() if file.is_file()}
    drawn = (*(f"figure{number}" for number in range(1, 10)), "diagnosis", "few_shot")
    figures = {f"{name}.{form}" for name in drawn for form in FORMS}
    tables = {f"table{number}.csv" for number in range(1, 8)}
    tables |= {"pretraining.csv", "table4_classes.csv", "breakdown.csv", "similarity.csv"}
    tables |= {"claims.csv", "controls.csv", "coco_finetuning.csv"}
    tables |= {f"figure{number}_images.csv" for number in (8, 9)}
    assert made == tables | figures | {"world.png", "explorer.html", "report.html"}
    logs = {str(file.relative_to(results / "logs")) for file in results.glob("logs/**/*.log")}
    assert len(logs) == total - 1  # `all` runs nothing
    times = {str(file.relative_to(results / "benchmarks")) for file in results.rglob("*.tsv")}
    timed = {name for name in logs if Path(name).parts[0] not in SHARED}
    assert {Path(name).with_suffix("") for name in timed} == {
        Path(name).with_suffix("") for name in times
    }


def test_tables_have_every_pretraining_and_metric(tiny: Checkout) -> None:
    for name, metrics in (("table2", VOC_METRICS), ("table5", {"top1"})):
        table = pd.read_csv(tiny.folder / "results" / "tiny" / f"{name}.csv")
        ours = table[table["n"] > 0]
        expected = {(run, metric) for run in PRETRAININGS for metric in metrics}
        assert set(zip(ours["run"], ours["metric"], strict=True)) == expected
        assert ours["mean"].between(0, 100).all() and ours["std"].isna().all()


def test_fine_tuning_on_coco_has_a_table_of_its_own(tiny: Checkout) -> None:
    table = pd.read_csv(tiny.folder / "results/tiny/coco_finetuning.csv")
    ours, printed = table[table["n"] > 0], table[table["published"].notna()]
    assert set(zip(ours["run"], ours["metric"], strict=True)) == {
        (name, metric)
        for name in ("random", "imagenet_cls")
        for metric in ("AP@[.5:.95]", "AP@0.5", "AP@0.75")
    }
    assert ours["mean"].between(0, 100).all()
    assert printed.set_index(["run", "metric"])["published"].to_dict() == {
        ("imagenet_cls", "AP@0.5"): 67.5,
        ("imagenet_cls", "AP@0.75"): 52.2,
        ("openimages", "AP@0.5"): 68.2,
        ("openimages", "AP@0.75"): 53.6,
    }


def test_figure1_is_drawn_from_nine_overlaps_of_every_pretraining(tiny: Checkout) -> None:
    folder = tiny.folder / "results" / "tiny"
    table = pd.read_csv(folder / "figure1.csv")
    ours = table[table["n"] > 0]
    assert set(zip(ours["run"], ours["iou"], strict=True)) == {
        (run, tenth / 10) for run in PRETRAININGS for tenth in range(1, 10)
    }
    for name in ("figure1.png", "figure2.png", "world.png"):
        with Image.open(folder / name) as picture:
            picture.load()
            assert min(picture.size) > 300
    assert (folder / "figure1.pdf").read_bytes().startswith(b"%PDF-")


def test_the_error_analysis_stands_by_occlusion(tiny: Checkout) -> None:
    folder = tiny.folder / "results" / "tiny"
    table = pd.read_csv(folder / "table3.csv")
    ours = table[(table["n"] > 0) & (table["classes"] == "labelled")]
    expected = {(run, stratum) for run in PRETRAININGS for stratum in ("low", "medium")}
    assert set(zip(ours["run"], ours["occlusion"], strict=True)) == expected
    assert ours["mean"].between(0, 100).all() and (ours["objects"] > 0).all()
    joined = pd.read_csv(folder / "diagnosis.csv")
    assert set(joined["run"]) == set(PRETRAININGS) and set(CLASSES) < set(joined["class"])


def test_segmentation_is_tabulated_and_drawn(tiny: Checkout) -> None:
    folder = tiny.folder / "results" / "tiny"
    table = pd.read_csv(folder / "table4.csv")
    ours = table[table["n"] > 0]
    assert set(zip(ours["run"], ours["metric"], strict=True)) == {
        (run, metric) for run in WITH_MASKS for metric in ("mIoU", "mIoU_resized")
    }
    assert ours["mean"].between(0, 100).all() and (ours["images"] == 2).all()
    assert table["run"].iloc[0] == "dcnv1"  # which the paper cites
    classes = pd.read_csv(folder / "table4_classes.csv")
    assert set(classes["class"]) == {"background", *CLASSES}
    assert set(classes["baseline"].dropna()) == {"imagenet_cls"}
    chosen = pd.read_csv(folder / "figure3.csv")
    assert set(chosen["run"]) == {"coco"} and (chosen["candidates"] == 2).all()
    curves = pd.read_csv(folder / "figure4.csv")
    assert set(curves["run"]) == set(WITH_MASKS) and set(curves["width"]) == set(range(1, 41))


def test_claims_are_tested_and_controls_are_run(tiny: Checkout) -> None:
    folder = tiny.folder / "results" / "tiny"
    claims = pd.read_csv(folder / "claims.csv")
    assert {statement.id for statement in STATEMENTS} == set(claims["claim"])
    tested = claims[claims["effect"].notna()]
    assert "not run" not in set(tested["verdict"])
    fine_tuned = tested[tested["claim"].isin(["map50", "miou", "finetuned_top1"])]
    assert set(fine_tuned["verdict"]) <= {"inconclusive", "invalid"}  # of one seed
    assert {"map50", "miou", "finetuned_top1", "frozen_top1"} <= set(tested["claim"])
    assert set(tested.loc[tested["baseline"] == "imagenet_cls", "matched"].dropna()) == {
        "coco_labels"
    }
    controls = pd.read_csv(folder / "controls.csv")
    oracle = controls[controls["control"] == "oracle"]
    assert len(oracle) == 12 and (oracle["holds"] == "yes").all()
    absent = set(controls.loc[controls["holds"] == "not run", "control"])
    one_seed = {"a_against_a"}  # has no rivals
    assert absent == {"shuffled_finetuning", "destroyed", "dial", "worlds"} | one_seed


def test_tables_have_the_columns_that_the_page_names(tiny: Checkout, repository: Path) -> None:
    page = (repository / "docs/reference/files.md").read_text()
    rows = page.split("### Other tables and figures")[1].split("\n## ")[0]
    named = dict(re.findall(r"^\| `(\w+\.csv)`[^|]*\|[^|]*\|(.*)\|$", rows, re.M))
    assert len(named) == 21
    del named["dial.csv"]  # which `make controls` makes
    for name, cell in named.items():
        columns = pd.read_csv(tiny.folder / "results/tiny" / name, nrows=0).columns
        own = [column for column in columns if column not in PRETRAININGS]
        assert own == re.findall(r"`(\w+)`", cell), name


def test_every_run_says_what_it_is_and_whose_weights_it_started_from(tiny: Checkout) -> None:
    files = sorted((tiny.folder / "results" / "tiny").glob("*/*/*/seed0/metrics.json"))
    assert len(files) == DETECTED + SEGMENTED + RUNS
    runs = {str(file.parent.relative_to(tiny.folder / "results/tiny")): file for file in files}
    starts: dict[str, set[Any]] = {name: set() for name in PRETRAININGS}
    for place, file in runs.items():
        run = read_metrics(file)
        assert str(run.run) == place
        starts[run.run.pretraining].add(run.provenance["start_digest"])
    # All targets of a pre-training start from the same file, and the files all differ.
    assert [len(digests) for digests in starts.values()] == [1] * RUNS
    assert len(set.union(*starts.values())) == RUNS


def test_a_finished_study_has_nothing_to_do(tiny: Checkout) -> None:
    result = tiny.snakemake("-n", *WORDS)
    assert "Nothing to be done" in result.output and result.jobs() == {}


def test_an_edited_recipe_makes_stale_what_it_trains(tiny: Checkout) -> None:
    recipes = tiny.folder / "config" / "recipes" / "tiny"
    with edited(recipes / "finetune_caltech256.yaml"):
        assert tiny.plan(*WORDS) == {**CLASSIFICATION, "floors": 1}
    with edited(recipes / "evaluate_voc_detection.yaml"):
        assert tiny.plan(*WORDS) == {"detect": RUNS, "floors": 1, **SCORING, **DIAGNOSIS}
    with edited(recipes / "evaluate_coco.yaml"):
        planned = tiny.plan(*WORDS)
        assert planned["detect_in_pretraining"] == 1 and "pretrain_detector" not in planned
    with edited(recipes / "finetune_voc_segmentation.yaml"):
        assert tiny.plan(*WORDS) == {**MASKS, "floors": 1}
    assert tiny.plan(*WORDS) == {}  # the old content is back


def test_an_edited_module_makes_stale_what_uses_it(tiny: Checkout) -> None:
    module = tiny.folder / "src/detransfer/detection/average_precision.py"
    programs = (tiny.folder / "scripts").glob("*.py")
    package = tiny.folder / "src/detransfer"
    users = {each.stem for each in programs if module in imported_files(each, package)}
    assert users == {"evaluate_detections", "claims", "floors"}
    with edited(module):
        both = {**SCORING, "evaluate_detections": DETECTED, "coco_finetuning": 1}
        assert tiny.plan(*WORDS) == {**QUALITY, **both, "floors": 4}
    with edited(tiny.folder / "scripts/check_dataset.py"):
        assert tiny.plan(*WORDS) == {}  # or it would hide what else is stale
    with edited(tiny.folder / "src/detransfer/detection/chips.py"):
        planned = tiny.plan(*WORDS)
        assert planned["finetune_detector"] == DETECTED and planned["pretrain_detector"] == 1
    with edited(tiny.folder / "scripts" / "figure1.py"):
        assert tiny.plan(*WORDS) == {"figure1": 1, "report": 1, "all": 1}
    with edited(tiny.folder / "src/detransfer/detection/diagnosis.py"):
        assert tiny.plan(*WORDS) == {**DIAGNOSIS, "floors": 4}
    with edited(tiny.folder / "src/detransfer/segmentation/trimap.py"):
        assert tiny.plan(*WORDS) == SCORED_MASKS


def test_an_edited_reader_makes_stale_what_it_reads(tiny: Checkout) -> None:
    """index.py loads its reader by name; of all readers only the data set's own counts."""
    with edited(tiny.folder / "src/detransfer/data/readers/voc_segmentation.py"):
        assert tiny.plan(*WORDS) == {"index": 1, "check_dataset": 1, "floors": 1, **MAPPED, **MASKS}
    with edited(tiny.folder / "src/detransfer/data/readers/voc.py"):
        assert tiny.plan(*WORDS) == {
            "index": 2,  # the masks' reader takes its lists of images from it
            "occlusion_labels": 1,
            "check_dataset": 2,
            "describe_dataset": 1,
            "table1": 1,
            "finetune_detector": RUNS,
            "floors": 2,
            "leaks": 1,
            **RECORDED,
            **MAPPED,
            **MASKS,
            "detect": RUNS,
            **SCORING,
            **DIAGNOSIS,
        }


def test_what_says_nothing_of_the_data_makes_nothing_stale(tiny: Checkout) -> None:
    """An archive is fixed by its checksum, whatever fetched it and whatever the catalog adds."""
    names = ("datasets.py", "download.py", "fetch.py")
    for file in ("scripts/fetch.py", *(f"src/detransfer/data/{name}" for name in names)):
        with edited(tiny.folder / file):
            assert tiny.plan(*WORDS) == {}, file
    for name in ("catalog.yaml", "catalog.py"):
        with edited(tiny.folder / "src/detransfer/data" / name):
            assert tiny.plan(*WORDS) == CARDS, name


def test_an_entry_of_the_catalog_makes_stale_its_own_data_set(tiny: Checkout) -> None:
    catalog = tiny.folder / "src/detransfer/data/catalog.yaml"
    text = catalog.read_text()
    own = {"check_dataset": 1, "describe_dataset": 1, "table1": 1, **PROBED, **SPACES}
    own |= CLASSIFICATION
    own |= {"floors": 1, "leaks": 1, **CARDS}
    sums = yaml.safe_load(text)["archives"]
    for archive, planned in (
        ("256_ObjectCategories.tar", {"fetch": 1, "extract": 1, "index": 1, **own}),
        ("102flowers.tgz", CARDS),  # of a data set that the study does not use
    ):
        catalog.write_text(text.replace(sums[archive]["sha256"], "ab" * 32))
        assert tiny.plan(*WORDS) == planned, archive
    for old, new, planned in (
        ("train_per_class: 60", "train_per_class: 61", CARDS),  # the study says otherwise
        ("seed: 0\n    train_splits", "seed: 1\n    train_splits", {"index": 1, **own}),
    ):
        assert text.count(old) == 1
        catalog.write_text(text.replace(old, new))
        assert tiny.plan(*WORDS) == planned, old
    catalog.write_text(text)
    assert tiny.plan(*WORDS) == {}


def test_the_code_of_a_step_makes_stale_all_that_it_made(tiny: Checkout) -> None:
    """Every data set is extracted, or indexed, anew, and with it all that was learnt from it."""
    after = {name: count for name, count in EVERYTHING.items()
             if name not in ("render_world", "fetch", "import_backbone")}  # fmt: skip
    after["model_card"] -= 1  # of random weights, which no image changes
    for file in ("scripts/extract.py", "src/detransfer/data/extract.py"):
        with edited(tiny.folder / file):
            assert tiny.plan(*WORDS) == after, file
    for file in ("scripts/index.py", "src/detransfer/data/fingerprint.py"):
        with edited(tiny.folder / file):
            assert {"extract": DATASETS, **tiny.plan(*WORDS)} == after, file


def test_a_lost_file_is_made_again_and_nothing_else(tiny: Checkout) -> None:
    """A lost table, or the metrics of a run, whose tables are then made anew."""
    results = Path("results/tiny")
    run = str(results / "detection/voc_detection/coco/seed0/metrics.json")
    with lost(tiny.folder / results / "table5.csv"):
        assert tiny.plan(*WORDS) == {"table5": 1, "report": 1, "all": 1}
    with lost(tiny.folder / run):
        once = {"evaluate_detections": 1, "diagnose_detections": 1}
        assert tiny.plan(*WORDS) == {**SCORING, **DIAGNOSIS, **once}


def test_the_page_of_the_study_shows_all_that_it_made(tiny: Checkout) -> None:
    page = (tiny.folder / "results/tiny/report.html").read_text()
    assert "A miniature world." in page and "run-detection-voc_detection-coco" in page
    left = re.findall(r"This makes it: <code>(.*?)</code>", page)
    assert left == ["make controls"]


def test_snakemakes_report_holds_the_tables_and_their_captions(tiny: Checkout) -> None:
    result = tiny.snakemake(*WORDS, "--report", "report.html")
    assert result.code == 0, result.output
    report = html.unescape((tiny.folder / "report.html").read_text())
    for caption in (tiny.folder / "workflow" / "report").glob("*.rst"):
        if caption.stem == "dial":
            continue  # of worlds that the study does not have
        words = re.split(r"{{.*?}}|\*", caption.read_text().partition("\n")[0])
        assert max(words, key=len) in report, caption.name
    tables = [f"table{number}.csv" for number in range(1, 8)]
    for name in (*tables, "pretraining.csv", "figure1.png", "figure2.png", "diagnosis.png"):
        assert f"results/tiny/{name}" in report
    assert ", ".join(PRETRAININGS) in report  # filled into the description of the study


def test_a_killed_study_goes_on_to_the_same_bits(tiny: Checkout) -> None:
    """SIGKILL to everything in the middle of a training; then the same command again."""
    place = "classification/caltech256/imagenet_cls/seed0"
    log = tiny.folder / "results/tiny/logs/finetune_classifier/caltech256/imagenet_cls/seed0.log"
    model = tiny.folder / "results/tiny" / place / "model.safetensors"
    words = (*WORDS, str(model.relative_to(tiny.folder)))
    undisturbed, state = model.read_bytes(), tiny.folder / "state/tiny" / place
    model.unlink()
    shutil.rmtree(state)  # or its last checkpoint would be written once more
    kill_in_training(tiny, words, state)
    assert not model.exists()
    # Nobody could take away the lock on the files, and Snakemake says what to do about it.
    refused = tiny.snakemake(*words)
    assert refused.code == 1 and "It can be removed with the --unlock argument" in refused.output
    assert tiny.snakemake(*words, "--unlock").code == 0
    again = tiny.snakemake(*words)
    assert again.code == 0, again.output
    assert again.jobs() == {"finetune_classifier": 1}
    assert "resuming after step" in log.read_text()
    assert model.read_bytes() == undisturbed


def kill_in_training(tiny: Checkout, words: tuple[str, ...], state: Path) -> None:
    """Start Snakemake, and kill its process group once the training has a checkpoint."""
    running = subprocess.Popen(
        [sys.executable, "-m", "snakemake", *words],
        cwd=tiny.folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    end = time.monotonic() + 60
    try:
        while not list(state.glob("*/checkpoint.pt")):
            assert running.poll() is None, running.communicate()[0].decode()
            assert time.monotonic() < end, "no checkpoint came"
            time.sleep(0.02)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
    assert list(state.glob("*/checkpoint.pt")), "the training ended before it was killed"
