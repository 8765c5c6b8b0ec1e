"""The two programs that record features, from weights and images to a folder."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from detransfer.backbone import build, conv5, read_weights, save_backbone
from detransfer.console import InputError
from detransfer.data.decoding import decode
from detransfer.data.index import read_index
from detransfer.data.views import CentralViews, central_view
from detransfer.detection.detector import Detector
from detransfer.features.extract import BackboneFeatures, load_frozen, record
from detransfer.features.store import open_features
from detransfer.recipes.classification import FeatureRecipe
from tests.detection.rectangles import TINY, call, detection_recipe, write_rectangles, write_start
from tests.launch import start_one_that_waits

RECIPE = {"task": "features", "size": 64, "resize": 72, "output_stride": 16, "batch_size": 5}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rectangles") / "world"
    write_rectangles(folder)
    write_start(folder / "backbone.safetensors")
    return folder


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_recipe(tmp_path)


def write_recipe(folder: Path, **changes: object) -> Path:
    path = folder / "features.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **changes}))
    return path


def words(world: Path, folder: Path, recipe: Path, weights: Path | None = None) -> list[str]:
    return [
        f"--weights={weights or world / 'backbone.safetensors'}",
        f"--index={world / 'index'}",
        "--splits=train",
        "--eval-split=test",
        f"--recipe={recipe}",
        f"--state={folder / 'state'}",
        f"--output={folder / 'features'}",
    ]


def by_hand(world: Path, weights: Path, **network: int) -> np.ndarray:
    """Conv5 of every image alone, in the order of the index."""
    model = build(TINY, 0, 16, **network)
    state = {k.removeprefix("backbone."): v for k, v in read_weights(weights)[0].items()}
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    index = read_index(world / "index")
    rows = []
    for path in index.split("train", "test").images["path"]:
        view = central_view(decode(index.root / path), 64, 72)
        rows.append(conv5(model.eval(), view[None]).mean((2, 3))[0].detach().numpy())
    return np.array(rows)


def test_rows_are_the_features_of_the_indexs_images(
    repository: Path, world: Path, tmp_path: Path, recipe: Path
) -> None:
    call(repository / "scripts/extract_features.py", words(world, tmp_path, recipe))
    found = open_features(tmp_path / "features")
    index = read_index(world / "index")
    found.check_source(index, world / "backbone.safetensors")
    expected = by_hand(world, world / "backbone.safetensors")
    np.testing.assert_allclose(found.layer("conv5"), expected, rtol=1e-4, atol=1e-5)
    assert found.images["path"].tolist() == index.split("train", "test").images["path"].tolist()
    assert found.header["view"] == {
        "size": 64,
        "resize": 72,
        "output_stride": 16,
        "precision": "fp32",
    }
    assert found.header["pretraining"] == "scratch" and found.header["batch_norm"] == "stored"
    assert not list((tmp_path / "state").iterdir())


@pytest.mark.parametrize(("size", "workers"), [(1, 0), (13, 0), (5, 2)])
def test_batches_and_workers_change_nothing(
    world: Path, tmp_path: Path, size: int, workers: int
) -> None:
    index = read_index(world / "index")
    backbone, _ = load_frozen(world / "backbone.safetensors", 16)
    rows = []
    for number, (batch, loaders) in enumerate(((4, 0), (size, workers))):
        recipe = FeatureRecipe.model_validate({**RECIPE, "batch_size": batch})
        network = BackboneFeatures(backbone, "fp32")
        views = CentralViews(index, recipe.size, recipe.resize)
        writer = record(network, views, recipe, tmp_path / str(number), CPU, loaders)
        header = {"splits": ["train", "test"]}
        writer.finish(tmp_path / f"made{number}", index.images, header)
        rows.append(open_features(tmp_path / f"made{number}").layer("conv5"))
    assert np.abs(rows[0]).max() > 0.1
    np.testing.assert_allclose(rows[1], rows[0], rtol=1e-5, atol=1e-5)


def test_an_interrupted_recording_goes_on_to_the_same_bytes(
    repository: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path, checkpoint_seconds=1e-9)
    program = repository / "scripts/extract_features.py"
    call(program, words(world, tmp_path / "whole", recipe))
    seen: list[Path] = []
    limit = 8

    def failing(path: Path) -> Tensor:
        seen.append(path)
        if len(seen) > limit:
            raise KeyboardInterrupt
        return decode(path)

    monkeypatch.setattr("detransfer.data.views.decode", failing)
    with pytest.raises(KeyboardInterrupt):
        call(program, words(world, tmp_path, recipe))
    assert not (tmp_path / "features").exists() and list((tmp_path / "state").iterdir())
    seen.clear()
    limit = 1000
    call(program, words(world, tmp_path, recipe))
    assert len(seen) == 13 - 5  # one whole batch was safe
    for name in ("conv5.npy", "features.json", "images.parquet"):
        first = (tmp_path / "whole/features" / name).read_bytes()
        assert (tmp_path / "features" / name).read_bytes() == first, name


def test_another_recipe_does_not_go_on_from_an_unfinished_recording(
    repository: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = repository / "scripts/extract_features.py"
    unfinished = write_recipe(tmp_path, checkpoint_seconds=1e-9, batch_size=2)

    def failing(path: Path) -> Tensor:
        if path.name == "6.png":
            raise KeyboardInterrupt
        return decode(path)

    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr("detransfer.data.views.decode", failing)
        call(program, words(world, tmp_path, unfinished))
    call(program, words(world, tmp_path, write_recipe(tmp_path, resize=64)))
    found = open_features(tmp_path / "features").layer("conv5")
    expected = by_hand(world, world / "backbone.safetensors")
    assert np.abs(found - expected).max() > 1e-3


def test_features_that_are_not_finite_name_the_image(
    repository: Path, world: Path, tmp_path: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(self: BackboneFeatures, images: Tensor) -> dict[str, Tensor]:
        values = images.float().mean((2, 3))
        values[len(images) // 2, 1] = float("nan")
        return {"conv5": values}

    monkeypatch.setattr(BackboneFeatures, "forward", poisoned)
    with pytest.raises(InputError, match=r"images/2\.png: its conv5 features are not finite"):
        call(repository / "scripts/extract_features.py", words(world, tmp_path, recipe))
    assert not (tmp_path / "features").exists()


def write_detector(path: Path, **network: Any) -> Path:
    """Write an untrained detector; the offsets of deformable layers are not zero."""
    torch.manual_seed(1)
    recipe = detection_recipe(backbone=network)
    detector = Detector(
        build(TINY, 0, recipe.backbone.output_stride, recipe.backbone.deformable_groups), 3, recipe
    )
    state = detector.state_dict()
    for name, value in state.items():
        if ".offset." in name:
            value.normal_(std=0.3)
    header = {
        "task": "detection",
        "architecture": TINY.model_dump(mode="json"),
        "classes": ["red", "green", "blue"],
        "recipe": recipe.model_dump(mode="json"),
        "pretraining": "scratch",
    }
    save_backbone(path, state, header)
    return path


def test_a_detectors_layers_are_recorded_at_once(
    repository: Path, world: Path, tmp_path: Path, recipe: Path
) -> None:
    model = write_detector(tmp_path / "model.safetensors", deformable_groups=2)
    more = ["--layers", "conv5", "conv_proj_2x2", "fc2"]
    program = repository / "scripts/extract_detector_features.py"
    call(program, [*words(world, tmp_path, recipe, model), *more])
    found = open_features(tmp_path / "features")
    sizes = {name: found.layer(name).shape for name in found.layers}
    assert sizes == {"conv5": (13, 32), "conv_proj_2x2": (13, 64), "fc2": (13, 48)}
    expected = by_hand(world, model, deformable_groups=2)  # with the offsets as they were learnt
    np.testing.assert_allclose(found.layer("conv5"), expected, rtol=1e-4, atol=1e-5)
    # The other program reads the same Conv5 from the same file.
    backbone_only = words(world, tmp_path / "plain", recipe, model)
    call(repository / "scripts/extract_features.py", backbone_only)
    plain = open_features(tmp_path / "plain/features").layer("conv5")
    np.testing.assert_allclose(plain, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="no layer 'fc3'"):
        call(program, [*words(world, tmp_path, recipe, model), "--layers", "fc3"])


def test_what_was_learnt_at_one_stride_is_not_run_at_another(
    repository: Path, world: Path, tmp_path: Path
) -> None:
    model = write_detector(tmp_path / "model.safetensors", deformable_groups=2)
    arguments = words(world, tmp_path, write_recipe(tmp_path, output_stride=32), model)
    for program, more in (
        ("extract_features", []),
        ("extract_detector_features", ["--layers", "fc1"]),
    ):
        with pytest.raises(InputError, match=r"trained at output_stride 16, .* nothing at 32; set"):
            call(repository / f"scripts/{program}.py", [*arguments, *more])


def test_an_untrained_network_gets_the_statistics_of_the_images(
    repository: Path, world: Path, tmp_path: Path, recipe: Path
) -> None:
    weights = tmp_path / "backbone.safetensors"
    state, header = read_weights(world / "backbone.safetensors")
    save_backbone(weights, state, {**header, "kind": "untrained"})
    program = repository / "scripts/extract_features.py"
    call(program, words(world, tmp_path, recipe, weights))
    found = open_features(tmp_path / "features")
    assert found.header["batch_norm"] == "estimated"
    stored = by_hand(world, weights)
    assert np.abs(found.layer("conv5") - stored).max() > 1e-3
    call(program, words(world, tmp_path / "again", write_recipe(tmp_path, batch_size=2), weights))
    again = open_features(tmp_path / "again/features").layer("conv5")
    np.testing.assert_allclose(again, found.layer("conv5"), rtol=1e-5, atol=1e-5)
    first = json.loads((tmp_path / "features/features.json").read_text())
    assert first["index_digest"] == found.header["index_digest"]


def test_a_recording_that_was_left_behind_is_waited_for(
    repository: Path, world: Path, tmp_path: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both write rows into the same files: where the first one ended is looked up after its end."""
    program = repository / "scripts/extract_features.py"
    started: list[subprocess.Popen[str]] = []

    def decode_beside_another(path: Path) -> Tensor:
        if not started:
            started.append(start_one_that_waits(program, words(world, tmp_path, recipe)))
        return decode(path)

    monkeypatch.setattr("detransfer.data.views.decode", decode_beside_another)
    call(program, words(world, tmp_path, recipe))
    assert started[0].wait(60) == 0
    expected = by_hand(world, world / "backbone.safetensors")
    found = open_features(tmp_path / "features").layer("conv5")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert not list((tmp_path / "state").iterdir())
