"""The program that probes recorded features, from a folder of features to numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.numpy import load_file
from sklearn.metrics import accuracy_score

from detransfer.backbone import save_backbone
from detransfer.console import InputError
from detransfer.data.index import BOX, FLAGS, Index, empty_objects, read_index, write_index
from detransfer.features.store import FeatureWriter
from detransfer.files import sha256
from detransfer.report.metrics import read_metrics
from tests.detection.rectangles import call

NAMES = ["heron", "wren", "gull"]
LEARNT, TESTED = 20, 10  # images of each class
RECIPE = {
    "task": "probe",
    "penalties": [1.0, 0.1, 0.01],
    "tolerance": 1e-5,
    "iterations": 500,
    "shots": [1, 2, 5, 30],
    "neighbours": [1, 3],
}


def write_images(folder: Path, objects: bool) -> Index:
    """An index without any file behind it; with objects, the images have no class of their own."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    count = len(NAMES) * (LEARNT + TESTED)
    class_ids = np.arange(count) % len(NAMES)
    images = pd.DataFrame(
        {
            "image_id": np.arange(100, 100 + count),
            "path": [f"{number}.jpg" for number in range(count)],
            "width": 100,
            "height": 80,
            "split": ["train"] * len(NAMES) * LEARNT + ["test"] * len(NAMES) * TESTED,
        }
    )
    classes = pd.DataFrame({"class_id": range(3), "name": NAMES, "source_id": "", "superclass": ""})
    table = empty_objects()
    if objects:
        rows = [(100 + i, c, 0, 0, 20, 20, *[False] * len(FLAGS)) for i, c in enumerate(class_ids)]
        rows.append((100, 1, 30, 30, 50, 50, *[False] * len(FLAGS)))  # a heron with a wren: out
        rows.append((101, 2, 30, 30, 50, 50, True, *[False] * 4))  # a difficult one does not count
        table = pd.DataFrame(rows, columns=["image_id", "class_id", *BOX, *FLAGS])
    else:
        images["class_id"] = class_ids
    write_index(folder / "index", Index(images, table, classes, folder / "images"))
    return read_index(folder / "index")


def write_world(folder: Path, objects: bool = False) -> list[str]:
    """Write an index, features of its images in two layers, weights and a recipe."""
    index = write_images(folder, objects)
    rng = np.random.default_rng(0)
    class_ids = np.arange(len(index.images)) % len(NAMES)
    features = rng.normal(size=(len(NAMES), 8))[class_ids] + 0.8 * rng.normal(
        size=(len(class_ids), 8)
    )
    weights = folder / "backbone.safetensors"
    save_backbone(weights, {"w": torch.zeros(1)}, {"pretraining": "scratch"})
    writer = FeatureWriter(folder / "state", len(class_ids))
    writer.append({"conv5": np.float32(features), "fc1": np.float32(features[:, :2])})
    header = {
        "index_digest": index.split("train", "test").digest(),
        "weights_digest": sha256(weights),
        "splits": ["train", "test"],
        "view": {"size": 64, "resize": 72, "output_stride": 16, "precision": "fp32"},
    }
    writer.finish(folder / "features", index.split("train", "test").images, header)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return [
        f"--features={folder / 'features'}",
        f"--weights={weights}",
        f"--index={folder / 'index'}",
        "--splits=train",
        "--eval-split=test",
        f"--recipe={folder / 'recipe.yaml'}",
        "--pretraining=scratch",
        "--target=birds",
        "--dataset=my_birds",
        "--seed=0",
        f"--output={folder / 'run'}",
    ]


@pytest.fixture(scope="module")
def probed(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("birds")
    words = write_world(folder)
    call(repository / "scripts/probe.py", [*words, "--layers=conv5", "--curves"])
    return folder


def test_the_scores_are_those_of_the_predictions(probed: Path) -> None:
    metrics = read_metrics(probed / "run/conv5/metrics.json")
    table = pd.read_parquet(probed / "run/conv5/predictions.parquet")
    truth = read_index(probed / "index").split("test").images
    assert table["image_id"].tolist() == truth["image_id"].tolist()
    assert table["class_id"].tolist() == truth["class_id"].tolist()
    assert table.dtypes.astype(str).tolist() == ["int32", "int32", "int32", "float32"]
    top1 = metrics.metric("top1")
    assert top1.value == pytest.approx(100 * accuracy_score(table["class_id"], table["predicted"]))
    assert (top1.n, top1.floor, top1.unit) == (30, pytest.approx(100 / 3), "%")
    assert 60 < metrics.metric("top1_low").value < top1.value < metrics.metric("top1_high").value
    assert str(metrics.run) == "probe/conv5/birds/scratch/seed0"
    classes = pd.read_csv(probed / "run/conv5/classes.csv")
    assert classes["name"].tolist() == NAMES and classes["images"].tolist() == [TESTED] * 3
    assert classes["accuracy"].mean() == pytest.approx(metrics.metric("mean_class_accuracy").value)


def test_permuted_labels_teach_nothing(probed: Path, repository: Path, tmp_path: Path) -> None:
    words = write_world(tmp_path)
    call(repository / "scripts/probe.py", [*words, "--layers=conv5", "--shuffle-labels"])
    plain, permuted = (
        read_metrics(folder / "run/conv5/metrics.json") for folder in (probed, tmp_path)
    )
    assert permuted.comparability == {**plain.comparability, "labels": "permuted"}
    assert permuted.metric("top1").value < 65 < plain.metric("top1").value
    assert permuted.fit["training_score"] < 70  # of the labels that it was given
    # The test images keep their classes.
    columns = ["image_id", "class_id"]
    tables = [pd.read_parquet(f / "run/conv5/predictions.parquet") for f in (probed, tmp_path)]
    pd.testing.assert_frame_equal(tables[0][columns], tables[1][columns])


def test_the_path_is_kept_and_says_what_was_chosen(probed: Path) -> None:
    path = pd.read_csv(probed / "run/conv5/path.csv")
    fit = read_metrics(probed / "run/conv5/metrics.json").fit
    assert path["penalty"].tolist() == RECIPE["penalties"] and path["converged"].all()
    chosen = path[path["chosen"]]
    assert chosen["penalty"].tolist() == [fit["penalty"]]
    assert chosen["held_out_top1"].item() == path["held_out_top1"].max()
    assert fit["converged"] and fit["gradient_norm"] <= 1e-5 and fit["dimension"] == 8
    assert fit["images"] == 60 and fit["training_score"] > 80
    assert fit["best_training_score"] == pytest.approx(path["training_top1"].max(), abs=1e-3)


def test_the_weights_work_on_the_features_as_recorded(probed: Path) -> None:
    weights = load_file(probed / "run/conv5/probe.safetensors")
    features = np.load(probed / "features/conv5.npy")
    scores = features @ weights["weight"] + weights["bias"]
    table = pd.read_parquet(probed / "run/conv5/predictions.parquet")
    assert scores[-30:].argmax(1).tolist() == table["predicted"].tolist()
    share = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    true = share[-30:][np.arange(30), table["class_id"]]
    np.testing.assert_allclose(true, table["probability"], rtol=1e-3)


def test_curves_have_a_point_for_all_that_the_images_allow(probed: Path) -> None:
    metrics = read_metrics(probed / "run/conv5/metrics.json")
    names = [metric.name for metric in metrics.metrics]
    assert names[4:] == ["few_shot@1", "few_shot@2", "few_shot@5", "neighbours@1", "neighbours@3"]
    assert metrics.metric("few_shot@5").value > metrics.metric("few_shot@1").value - 10


def test_no_test_image_chooses_a_hyper_parameter(
    repository: Path, probed: Path, tmp_path: Path
) -> None:
    """Other test features, other scores; penalty, path and weights stay, bit for bit."""
    words = write_world(tmp_path)
    values = np.load(tmp_path / "features/conv5.npy")
    values[-30:] = np.random.default_rng(5).normal(size=(30, 8)) * 10
    np.save(tmp_path / "features/conv5.npy", values)
    header = (tmp_path / "features/features.json").read_text()
    old = sha256(probed / "features/conv5.npy")
    (tmp_path / "features/features.json").write_text(
        header.replace(old, sha256(tmp_path / "features/conv5.npy"))
    )
    call(repository / "scripts/probe.py", [*words, "--layers=conv5"])
    for name in ("path.csv", "probe.safetensors"):
        assert (tmp_path / "run/conv5" / name).read_bytes() == (
            probed / "run/conv5" / name
        ).read_bytes()
    scores = [
        read_metrics(f / "run/conv5/metrics.json").metric("top1").value for f in (probed, tmp_path)
    ]
    assert scores[1] < scores[0] - 20


def test_images_with_objects_are_taken_where_these_are_of_one_class(
    repository: Path, tmp_path: Path
) -> None:
    words = write_world(tmp_path, objects=True)
    call(repository / "scripts/probe.py", [*words, "--layers=conv5"])
    metrics = read_metrics(tmp_path / "run/conv5/metrics.json")
    assert metrics.fit["images"] == 59 and metrics.metric("top1").n == 30
    assert metrics.comparability["classes"] == 3


def test_objects_classes_that_no_training_image_shows_alone_are_left_out(
    repository: Path, tmp_path: Path
) -> None:
    words = write_world(tmp_path, objects=True)
    index = read_index(tmp_path / "index")
    objects = index.objects.copy()
    training = objects["image_id"] < 100 + 3 * LEARNT
    objects.loc[training & (objects["class_id"] == 1), "crowd"] = True
    write_index(tmp_path / "index", Index(index.images, objects, index.classes, index.root))
    again = read_index(tmp_path / "index").split("train", "test")
    old = index.split("train", "test").digest()
    header = (tmp_path / "features/features.json").read_text().replace(old, again.digest())
    (tmp_path / "features/features.json").write_text(header)
    call(repository / "scripts/probe.py", [*words, "--layers=conv5"])
    table = pd.read_parquet(tmp_path / "run/conv5/predictions.parquet")
    assert set(table["class_id"]) == {0, 2} and set(table["predicted"]) <= {0, 2}
    classes = pd.read_csv(tmp_path / "run/conv5/classes.csv")
    assert classes["class_id"].tolist() == [0, 2] and classes["name"].tolist() == ["heron", "gull"]


def refused(repository: Path, words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(repository / "scripts/probe.py", words)


def test_what_does_not_fit_is_refused(repository: Path, tmp_path: Path) -> None:
    words = write_world(tmp_path)
    refused(
        repository, [*words, "--layers=fc2"], "has no layer 'fc2', only conv5, fc1; name one of"
    )
    other: dict[str, Any] = {**RECIPE, "penalties": [0.1, 1.0]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(other))
    refused(repository, [*words, "--layers=fc1"], "penalties: the largest comes first")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    save_backbone(tmp_path / "backbone.safetensors", {"w": torch.ones(1)}, {})
    refused(repository, [*words, "--layers=fc1"], "these features are of other weights")
    assert not (tmp_path / "run").exists()


def test_a_class_without_training_images_is_named(repository: Path, tmp_path: Path) -> None:
    words = write_world(tmp_path)
    index = read_index(tmp_path / "index")
    classes = pd.concat([index.classes, index.classes.iloc[:1].assign(class_id=3, name="owl")])
    write_index(tmp_path / "index", Index(index.images, index.objects, classes, index.root))
    again = read_index(tmp_path / "index").split("train", "test")
    old = index.split("train", "test").digest()
    header = (tmp_path / "features/features.json").read_text().replace(old, again.digest())
    (tmp_path / "features/features.json").write_text(header)
    refused(repository, [*words, "--layers=fc1"], "1 of 4 classes have no training image.*: owl;")
