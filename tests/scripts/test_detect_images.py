from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from detransfer.backbone import build, save_backbone
from detransfer.console import InputError
from detransfer.data.index import BOX, read_index
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

PROGRAM = Path("scripts/detect_images.py")
RECIPE = inference_recipe(score_threshold=0.0, per_image=6)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained detector, images, and the recipe of inference."""
    folder = tmp_path_factory.mktemp("own") / "world"
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


def words(world: Path, output: Path, *images: Path) -> list[str]:
    model, recipe = world / "model.safetensors", world / "recipe.yaml"
    return [*map(str, images), f"--model={model}", f"--recipe={recipe}", f"--output={output}"]


def test_a_folder_gives_what_an_index_of_it_gives(world: Path, tmp_path: Path) -> None:
    index = read_index(world / "index").split("test")
    own = tmp_path / "own"
    for path in index.images["path"]:
        place = own / "deeper" / Path(path).name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(index.root / path, place)
    (own / "notes.txt").write_text("no image")
    call(PROGRAM, words(world, tmp_path / "found.csv", own))
    found = pd.read_csv(tmp_path / "found.csv")
    detector, _ = load_detector(world / "model.safetensors")
    expected = predict(detector, index, RECIPE, torch.device("cpu"), 0)
    names = index.images.set_index("image_id")["path"].map(lambda path: Path(path).name)
    assert sorted(found["path"].map(lambda path: Path(path).name)) == sorted(
        names[expected["image_id"]]
    )
    order = np.argsort([Path(p).name for p in index.images["path"]], kind="stable")
    ids = index.images["image_id"].to_numpy()[order]
    wanted = pd.concat([expected[expected["image_id"] == image_id] for image_id in ids])
    assert np.allclose(found[["score", *BOX]], wanted[["score", *BOX]], rtol=1e-4)
    assert found["name"].tolist() == [list(COLOURS)[i] for i in wanted["class_id"]]


def test_pictures_show_the_sure_detections(world: Path, tmp_path: Path) -> None:
    image = next(world.rglob("*.png"))
    options = [f"--drawings={tmp_path / 'drawn'}", "--draw-above=0"]
    call(PROGRAM, [*words(world, tmp_path / "found.csv", image), *options])
    (picture,) = (tmp_path / "drawn").iterdir()
    with Image.open(image) as before, Image.open(picture) as after:
        assert max(after.size) == 1000
        plain = before.convert("RGB").resize(after.size, Image.Resampling.LANCZOS)
        assert (np.asarray(plain) != np.asarray(after)).mean() > 0.01
    call(PROGRAM, [*words(world, tmp_path / "found.csv", image), options[0], "--draw-above=1"])
    with Image.open(picture) as after:
        assert np.array_equal(np.asarray(plain), np.asarray(after))


def test_hidden_files_are_no_images(world: Path, tmp_path: Path) -> None:
    """Such as those that macOS leaves beside others."""
    source = next((world / "images").iterdir())
    (tmp_path / source.name).write_bytes(source.read_bytes())
    (tmp_path / f"._{source.name}").write_bytes(b"Mac OS X")
    (tmp_path / "folder.png").mkdir()
    call(PROGRAM, words(world, tmp_path / "found.csv", tmp_path))
    assert (tmp_path / "found.csv").is_file()


def test_no_image_is_said_so(world: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no image found; its name should end in one of \.jpg"):
        call(PROGRAM, words(world, tmp_path / "found.csv", tmp_path))
    with pytest.raises(InputError, match=r"absent: there is no such file or folder"):
        call(PROGRAM, words(world, tmp_path / "found.csv", tmp_path / "absent"))
