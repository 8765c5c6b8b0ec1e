"""The program from detections to tables of their errors, and Table 3's strata on real objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from detransfer.console import InputError
from detransfer.data.index import BOX, Index, read_index, write_index
from detransfer.data.occlusion import write_occlusion
from detransfer.detection.detections import write_detections
from detransfer.report.metrics import (
    Metric,
    RunMetrics,
    RunName,
    check_comparable,
    read_metrics,
    write_metrics,
)
from tests.detection.rectangles import call, inference_recipe, write_recipe, write_rectangles
from tests.detection.voc_records import VOC_CLASSES, read_records


class Diagnosing:
    """The program over one index, with detections that are the truth unless others are given."""

    def __init__(self, program: Path, folder: Path, index: Index) -> None:
        self.program, self.folder = program, folder
        write_index(folder / "index", index)
        self.index = read_index(folder / "index")
        self.test = self.index.split("test")
        run = RunName("detection", "things", "things", "scratch", 3)
        comparability = {"evaluation_data": self.test.digest(), "recipe": "r"}
        metrics = (Metric("mAP@0.5", 1.0, "%", len(self.test.images)),)
        provenance = {"model_digest": "m", "evaluation_code_digest": "e"}
        write_metrics(
            folder / "metrics.json", RunMetrics(run, metrics, {}, comparability, provenance)
        )
        write_recipe(folder / "recipe.yaml", inference_recipe())
        self.detections("truth", self.test.objects)

    def detections(self, name: str, objects: pd.DataFrame, more: Sequence[str] = ()) -> Path:
        path, names = self.folder / f"{name}.parquet", self.index.classes["name"].tolist()
        write_detections(path, objects.assign(score=0.5), [*names, *more])
        return path

    def occlusion(self, objects: pd.DataFrame, level: np.ndarray) -> Path:
        path = self.folder / "occlusion.parquet"
        write_occlusion(path, objects, level)
        return path

    def sets(self, *sets: list[str]) -> Path:
        recipe = inference_recipe(diagnosis={"similar_classes": list(sets)})
        return write_recipe(self.folder / "sets.yaml", recipe)

    def run(self, **changes: Any) -> pd.DataFrame:
        options = {
            "detections": self.folder / "truth.parquet",
            "metrics": self.folder / "metrics.json",
            "index": self.folder / "index",
            "split": "test",
            "recipe": self.folder / "recipe.yaml",
            "output": self.folder / "diagnosis.json",
            "table": self.folder / "diagnosis.csv",
            "objects": self.folder / "objects.parquet",
            **changes,
        }
        call(self.program, [f"--{name}={value}" for name, value in options.items()])
        return pd.read_csv(self.folder / "diagnosis.csv")

    def numbers(self) -> RunMetrics:
        return read_metrics(self.folder / "diagnosis.json")


@pytest.fixture
def diagnosing(repository: Path, tmp_path: Path) -> Diagnosing:
    index = write_rectangles(tmp_path / "rectangles")
    objects = index.objects.assign(truncated=index.objects.index % 3 == 0)
    index = Index(index.images, objects, index.classes, index.root)
    return Diagnosing(repository / "scripts/diagnose_detections.py", tmp_path, index)


def value(table: pd.DataFrame, *keys: str) -> float:
    """Return the one number with these class, analysis, stratum and metric."""
    names = ("class", "analysis", "stratum", "metric")
    chosen = np.logical_and.reduce([table[n] == key for n, key in zip(names, keys, strict=True)])
    assert chosen.sum() == 1, keys
    return float(table.loc[chosen, "value"].iloc[0])


def test_the_truth_has_no_errors(diagnosing: Diagnosing) -> None:
    table = diagnosing.run()
    assert list(table) == ["class", "analysis", "stratum", "metric", "value", "n"]
    assert not table.duplicated(["class", "analysis", "stratum", "metric"]).any()
    assert (table.loc[table["metric"] == "AP_N", "value"] == 100).all()
    assert (table.loc[table["metric"] == "missed", "value"] == 0).all()
    assert value(table, "all:pooled", "top_detections", "correct", "share") == 100
    curves = table[(table["analysis"] == "coco") & (table["metric"] == "AP")]
    np.testing.assert_allclose(curves["value"], 100)
    assert set(table["class"]) == {"red", "green", "blue", "all:mean", "all:pooled"}
    every = table[(table["class"] == "all:mean") & (table["analysis"] == "objects")]
    assert (every["n"] == len(diagnosing.test.objects)).all() and len(every) == 2


def test_groups_of_classes_are_means_and_sums(diagnosing: Diagnosing) -> None:
    objects = diagnosing.test.objects
    gone = np.arange(len(objects)) % 2 == 1
    table = diagnosing.run(detections=diagnosing.detections("few", objects[~gone]))
    pooled = value(table, "all:pooled", "objects", "all", "missed")
    assert pooled == pytest.approx(100 * gone.mean())
    each = 100 * pd.Series(gone).groupby(objects["class_id"]).mean()
    for class_id, name in enumerate(diagnosing.test.classes["name"]):
        assert value(table, name, "objects", "all", "missed") == pytest.approx(each[class_id])
    assert value(table, "all:mean", "objects", "all", "missed") == pytest.approx(each.mean())
    cut = objects["truncated"].to_numpy()
    truncated = value(table, "all:pooled", "truncation", "truncated", "missed")
    assert truncated == pytest.approx(100 * gone[cut].mean())


def test_occlusion_levels_make_the_strata_of_table_3(diagnosing: Diagnosing) -> None:
    """Only the class red has levels; the others are occluded where they are cut."""
    objects = diagnosing.test.objects
    red = (objects["class_id"] == 0).to_numpy()
    level = np.where(red, np.arange(len(objects)) % 4, -1)
    gone = np.arange(len(objects)) % 2 == 0
    table = diagnosing.run(
        detections=diagnosing.detections("few", objects[~gone]),
        occlusion=diagnosing.occlusion(objects, level),
    )
    run = diagnosing.numbers()
    for name, least in (("low", 1), ("medium", 2)):
        stratum = objects["truncated"].to_numpy() | (level >= least)
        labelled, every = run.metric(f"missed@{name}"), run.metric(f"missed@{name}/all")
        assert labelled.n == (stratum & red).sum() > 0
        assert labelled.value == pytest.approx(100 * gone[stratum & red].mean())
        assert run.metric(f"missed@{name}/mean").value == pytest.approx(labelled.value)
        assert (every.value, every.n) == (pytest.approx(100 * gone[stratum].mean()), stratum.sum())
        pooled = value(table, "labelled:pooled", "occluded", name, "missed")
        assert pooled == pytest.approx(labelled.value)
    with_levels = set(table[table["analysis"] == "occlusion"]["class"])
    assert with_levels == {"red", *(f"{g}:{k}" for g in ("all", "labelled") for k in KINDS)}


KINDS = ("mean", "pooled")


def test_the_numbers_say_where_they_come_from(diagnosing: Diagnosing) -> None:
    diagnosing.run()
    ours, run = diagnosing.numbers(), read_metrics(diagnosing.folder / "metrics.json")
    assert ours.run == run.run and ours.fit == run.fit
    assert ours.comparability.items() > run.comparability.items()
    assert ours.provenance["model_digest"] == "m"
    assert ours.provenance["evaluation_code_digest"] != "e"
    assert [metric.name for metric in ours.metrics] == ["missed@truncated/all", "missed@any/all"]
    objects = diagnosing.test.objects
    diagnosing.run(occlusion=diagnosing.occlusion(objects, np.zeros(len(objects))))
    with pytest.raises(InputError, match="they differ in occlusion"):
        check_comparable([ours, diagnosing.numbers()])
    diagnosing.run(recipe=diagnosing.sets(["red", "blue"]))
    with pytest.raises(InputError, match="they differ in similar_classes"):
        check_comparable([ours, diagnosing.numbers()])


def test_similar_classes_are_the_recipes(diagnosing: Diagnosing) -> None:
    objects = diagnosing.test.objects
    wrong = objects.assign(class_id=(objects["class_id"] + 1) % 3)
    table = diagnosing.run(
        detections=diagnosing.detections("wrong", wrong), recipe=diagnosing.sets(["red", "blue"])
    )
    assert value(table, "red", "top_detections", "similar", "share") == 100  # blue ones
    assert value(table, "green", "top_detections", "other", "share") == 100  # red ones


def test_every_object_says_what_found_it(diagnosing: Diagnosing) -> None:
    objects = diagnosing.test.objects
    diagnosing.run(detections=diagnosing.detections("some", objects.iloc[[4, 2, 0]]))
    table = pd.read_parquet(diagnosing.folder / "objects.parquet")
    pd.testing.assert_frame_equal(table[["image_id", *BOX]], objects[["image_id", *BOX]])
    wanted = np.full(len(objects), -1)
    wanted[[4, 2, 0]] = [0, 1, 2]
    assert table["detection"].tolist() == wanted.tolist()
    assert table["missed"].tolist() == (wanted < 0).tolist()
    assert ((table["precision"] > 0) == (wanted >= 0)).all() and (table["level"] == -1).all()


def test_detections_of_another_data_set_are_refused(diagnosing: Diagnosing) -> None:
    objects = diagnosing.test.objects
    other = diagnosing.detections("other", objects, ["grey"])
    with pytest.raises(InputError, match=r"other\.parquet: numbers 4 classes, but the data set"):
        diagnosing.run(detections=other)
    other = diagnosing.detections("other", objects.assign(image_id=999))
    with pytest.raises(InputError, match=r"other\.parquet: detection 0 .*has no such image"):
        diagnosing.run(detections=other)


def test_a_run_on_other_data_is_refused(diagnosing: Diagnosing) -> None:
    with pytest.raises(InputError, match=r"metrics\.json: detection/things/scratch/seed3 was eval"):
        diagnosing.run(split="train")


def test_levels_and_sets_of_another_data_set_are_refused(diagnosing: Diagnosing) -> None:
    objects = diagnosing.index.split("train").objects
    with pytest.raises(InputError, match=r"occlusion\.parquet: its \d+ objects are not the"):
        diagnosing.run(occlusion=diagnosing.occlusion(objects, np.zeros(len(objects))))
    with pytest.raises(InputError, match="no class 'bleu'; did you mean 'blue'"):
        diagnosing.run(recipe=diagnosing.sets(["red", "bleu"]))


@pytest.mark.real_data
def test_table_3_on_the_real_objects(repository: Path, real_data: Path, tmp_path: Path) -> None:
    """Every third labelled object is not found; the shares are counted from the files by hand."""
    images, objects = read_records(real_data)
    classes = pd.DataFrame(
        {"class_id": range(20), "name": VOC_CLASSES, "source_id": "", "superclass": ""}
    )
    index = Index(images.assign(split="test"), objects, classes, tmp_path)
    diagnosing = Diagnosing(repository / "scripts/diagnose_detections.py", tmp_path, index)
    release, labels = real_data / "hoiem_voc07", tmp_path / "labels.parquet"
    options = {"labels": release, "index": tmp_path / "index", "split": "test", "output": labels}
    words = [f"--{name}={value}" for name, value in options.items()]
    call(repository / "scripts/occlusion_labels.py", words)

    missed, total, gone = {1: 0, 2: 0}, {1: 0, 2: 0}, []
    for file in sorted(release.glob("gt_ved_*.txt")):
        class_id = VOC_CLASSES.index(file.stem.removeprefix("gt_ved_"))
        rows = np.flatnonzero((objects["class_id"] == class_id) & ~objects["difficult"])
        lines = file.read_text().splitlines()[1:]
        for k, (row, line) in enumerate(zip(rows, lines, strict=True)):
            gone += [row] if k % 3 == 0 else []
            for least in (1, 2):
                if int(line.split()[2]) >= least or objects["truncated"][row]:
                    total[least] += 1
                    missed[least] += k % 3 == 0
    diagnosing.run(
        detections=diagnosing.detections("found", objects.drop(index=gone)), occlusion=labels
    )
    for name, least in (("low", 1), ("medium", 2)):
        metric = diagnosing.numbers().metric(f"missed@{name}")
        assert metric.n == total[least]
        assert metric.value == pytest.approx(100 * missed[least] / total[least])
