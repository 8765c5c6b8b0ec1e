from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from detransfer.backbone import build, read_weights, save_backbone
from detransfer.console import InputError
from detransfer.data.index import BOX, Index, read_index, write_index
from detransfer.detection.detections import read_detections
from detransfer.detection.detector import Detector
from detransfer.detection.predict import load_detector, predict
from tests.detection.rectangles import (
    COLOURS,
    TINY,
    call,
    detection_recipe,
    inference_recipe,
    write_recipe,
    write_rectangles,
)
from tests.launch import launch

PROGRAM = "scripts/detect.py"
RECIPE = inference_recipe(training_images=5, score_threshold=0.0, per_image=6)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained detector, the images and the recipe of inference."""
    folder = tmp_path_factory.mktemp("rectangles") / "world"
    write_rectangles(folder)
    torch.manual_seed(0)
    detector = Detector(build(TINY, 0, 16), 3, detection_recipe())
    header = {
        "task": "detection",
        "architecture": TINY.model_dump(mode="json"),
        "recipe": detector.recipe.model_dump(mode="json"),
        "classes": list(COLOURS),
    }
    save_backbone(folder / "model.safetensors", detector.state_dict(), header)
    write_recipe(folder / "recipe.yaml", RECIPE)
    return folder


def words(world: Path, output: Path, index: Path | None = None, **changes: str) -> list[str]:
    options = {
        "model": world / "model.safetensors",
        "index": index or world / "index",
        "split": "test",
        "training-splits": "train",
        "recipe": world / "recipe.yaml",
        "output": output / "detections.parquet",
        "training-output": output / "training.parquet",
        **changes,
    }
    return [f"--{name}={value}" for name, value in options.items()]


def test_both_tables_hold_what_the_detector_finds(
    repository: Path, world: Path, tmp_path: Path
) -> None:
    call(repository / PROGRAM, words(world, tmp_path))
    index = read_index(world / "index")
    detector, _ = load_detector(world / "model.safetensors")
    training = index.split("train").sample(5)
    for part, name in ((index.split("test"), "detections"), (training, "training")):
        path, ids = tmp_path / f"{name}.parquet", set(part.images["image_id"])
        found = read_detections(path, ids, classes=list(COLOURS))
        wanted = predict(detector, part, RECIPE, torch.device("cpu"), 0)
        assert np.allclose(found[["score", *BOX]], wanted[["score", *BOX]], atol=1e-3)
        assert found["image_id"].tolist() == wanted["image_id"].tolist()
        assert found["image_id"].nunique() == len(part.images)
        assert found.groupby("image_id").size().max() <= 6


def test_equal_runs_give_equal_bytes(repository: Path, world: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        call(repository / PROGRAM, words(world, tmp_path / name))
    for file in ("detections.parquet", "training.parquet"):
        first, second = (tmp_path / name / file for name in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one(repository: Path, world: Path, tmp_path: Path) -> None:
    for processes in (1, 2):
        launch(processes, repository / PROGRAM, *words(world, tmp_path / str(processes)))
    for file in ("detections.parquet", "training.parquet"):
        assert (tmp_path / "2" / file).read_bytes() == (tmp_path / "1" / file).read_bytes()


@pytest.mark.parametrize("names", [["red", "blue", "green"], ["red", "green"], [*COLOURS, "grey"]])
def test_a_model_of_other_classes_is_refused(
    repository: Path, world: Path, tmp_path: Path, names: list[str]
) -> None:
    index = read_index(world / "index")
    objects = index.objects[index.objects["class_id"] < len(names)]
    classes = pd.DataFrame(
        {"class_id": range(len(names)), "name": names, "source_id": "", "superclass": ""}
    )
    write_index(tmp_path / "other", Index(index.images, objects, classes, index.root))
    message = r"model\.safetensors: was trained on other classes than .*other.*; give a detector"
    with pytest.raises(InputError, match=message):
        call(repository / PROGRAM, words(world, tmp_path, tmp_path / "other"))
    assert not (tmp_path / "detections.parquet").exists()


def test_classes_that_mean_another_data_sets_are_added_up(
    repository: Path, world: Path, tmp_path: Path
) -> None:
    """The map joins red (n1) and blue (n3) to one class and leaves green (n2) out."""
    index = read_index(world / "index")
    objects = index.objects[index.objects["class_id"] == 0]
    classes = pd.DataFrame(
        {"class_id": [0, 1], "name": ["cat", "thing"], "source_id": "", "superclass": ""}
    )
    meaning = pd.DataFrame({"source_id": ["n9", "n1", "n3"], "class_id": [0, 1, 1]})
    other = Index(index.images, objects, classes, index.root, class_map=meaning)
    write_index(tmp_path / "other", other)
    state, header = read_weights(world / "model.safetensors")
    model = tmp_path / "model.safetensors"
    save_backbone(model, state, {**header, "source_ids": ["n1", "n2", "n3"]})
    options = {"training-index": str(world / "index"), "model": str(model)}
    call(repository / PROGRAM, words(world, tmp_path, tmp_path / "other", **options))
    found = read_detections(tmp_path / "detections.parquet", classes=["cat", "thing"])
    assert set(found["class_id"]) == {1}
    own = read_detections(tmp_path / "training.parquet", classes=list(COLOURS))
    assert set(own["class_id"]) <= {0, 1, 2}
    # Each proposal of the first view: the two probabilities are added.
    detector, _ = load_detector(model)
    detector.prepare_inference(RECIPE)
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        plain = detector(image, sizes=[(64, 64)])[0]
        detector.merge_classes([1, -1, 1], 2)
        merged = detector(image, sizes=[(64, 64)])[0]
    of = [plain["scores"][plain["labels"] == label] for label in (0, 2)]
    expected = (of[0] + of[1]).sort().values
    given = merged["scores"][merged["labels"] == 1].sort().values
    assert torch.allclose(given, expected, atol=1e-6) and len(given) > 5


def test_a_map_that_knows_none_of_the_classes_is_refused(
    repository: Path, world: Path, tmp_path: Path
) -> None:
    index = read_index(world / "index")
    classes = index.classes.assign(name=["a", "b", "c"])
    meaning = pd.DataFrame({"source_id": ["n9"], "class_id": [0]})
    other = Index(index.images, index.objects, classes, index.root, class_map=meaning)
    write_index(tmp_path / "other", other)
    state, header = read_weights(world / "model.safetensors")
    save_backbone(tmp_path / "m.safetensors", state, {**header, "source_ids": ["n1", "n2", "n3"]})
    options = {"model": str(tmp_path / "m.safetensors")}
    with pytest.raises(InputError, match=r"none of its classes means one of .*other"):
        call(repository / PROGRAM, words(world, tmp_path, tmp_path / "other", **options))


def test_what_the_user_gets_wrong_is_said_without_a_traceback(
    repository: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = write_rectangles(tmp_path / "own").root / "9.png"
    image.write_bytes(image.read_bytes()[:300])
    for arguments, message in (
        (words(world, tmp_path, split="val"), "split 'val' is empty; the index has: test, train"),
        (words(world, tmp_path, model=str(world / "no.safetensors")), "no such weight file"),
        (words(world, tmp_path, tmp_path / "own" / "index"), f"{image}: the image is damaged"),
    ):
        with pytest.raises(SystemExit) as ended:
            call(repository / PROGRAM, arguments, "__main__")
        shown = capsys.readouterr().err
        assert ended.value.code == 2 and message in shown and "Traceback" not in shown
