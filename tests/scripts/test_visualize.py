"""Recording maps of test images, from weights, images and a probe to files."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from safetensors.numpy import save
from torch import Tensor

from detransfer.backbone import build, conv5, mean_colour, read_weights, save_backbone
from detransfer.console import InputError
from detransfer.data.decoding import decode
from detransfer.data.image_classes import image_classes
from detransfer.data.index import read_index, write_index
from detransfer.data.masks import encode_mask, read_mask
from detransfer.data.views import central_view
from detransfer.files import digest, sha256
from detransfer.report.metrics import RunMetrics, RunName, read_metrics, write_metrics
from detransfer.visualization.activations import activation_maps, central_mask, enlarge
from detransfer.visualization.coverage import area_share, best_iou, inside_share
from detransfer.visualization.grid import Grid
from tests.detection.rectangles import TINY, call, write_rectangles, write_start
from tests.launch import start_one_that_waits
from tests.segmentation.scenes import write_scenes

VIEW = {"size": 48, "resize": 56, "output_stride": 16, "precision": "fp32"}
GRID = Grid(48, 14, 12)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rectangles") / "world"
    write_rectangles(folder, test=9)
    write_start(folder / "backbone.safetensors")
    write_probe(folder, [0, 2])  # it does not know the class in the middle
    return folder


def write_probe(folder: Path, known: list[int]) -> None:
    rng = np.random.default_rng(1)
    probe = folder / "probe"
    probe.mkdir()
    weight = rng.normal(0, 3, (32, len(known))).astype(np.float32)
    (probe / "probe.safetensors").write_bytes(
        save({"weight": weight, "bias": np.zeros(len(known), np.float32)})
    )
    names = read_index(folder / "index").classes["name"]
    pd.DataFrame({"class_id": known, "name": names[known]}).to_csv(
        probe / "classes.csv", index=False
    )
    view = digest(f"{name}={value}" for name, value in sorted(VIEW.items()))
    model = sha256(folder / "backbone.safetensors")
    run = RunName("probe/conv5", "shapes", "shapes", "scratch", 0)
    alike: dict[str, str | int | float] = {"view": view, "recipe": "r"}
    content = RunMetrics(run, (), {}, alike, {"model_digest": model})
    write_metrics(probe / "metrics.json", content)


def words(world: Path, folder: Path, probe: bool = True, **changes: object) -> list[str]:
    features = {"task": "features", "batch_size": 4, "checkpoint_seconds": 1e-9, **VIEW}
    recipe = {"task": "visualization", "mask": 14, "stride": 12, "images": None}
    recipe |= {"precision": "fp32", "batch_size": 5, **changes}
    for name, content in (("features", features), ("visualization", recipe)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return [
        f"--weights={world / 'backbone.safetensors'}",
        f"--index={world / 'index'}",
        "--splits=train",
        "--eval-split=test",
        f"--view={folder / 'features.yaml'}",
        f"--recipe={folder / 'visualization.yaml'}",
        *([f"--probe={world / 'probe'}"] if probe else []),
        f"--state={folder / 'state'}",
        f"--output={folder / 'made'}",
        *("--pretraining=scratch", "--target=shapes", "--dataset=shapes", "--seed=0"),
    ]


def network(world: Path) -> torch.nn.Module:
    model = build(TINY, 0, 16)
    model.load_state_dict(read_weights(world / "backbone.safetensors")[0])
    return model.eval()


def by_hand(world: Path, path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of the classes without and with each square, and the activation map, one by one."""
    model, view = network(world), central_view(decode(path), 48, 56)
    weight = read_weights(world / "probe" / "probe.safetensors")[0]["weight"]
    images = [view]
    for top, bottom in GRID.intervals():
        for left, right in GRID.intervals():
            painted = view.clone()
            painted[:, top:bottom, left:right] = mean_colour(model).view(3, 1, 1)
            images.append(painted)
    with torch.no_grad():
        maps = [conv5(model, image[None]) for image in images]
    scores = torch.cat([each.mean((2, 3)) for each in maps]) @ weight
    found = torch.softmax(scores, 1).numpy()
    return found[0], found[1:], activation_maps(maps[0])[0].numpy()


def test_maps_are_those_of_one_image_and_square_at_a_time(
    repository: Path, world: Path, tmp_path: Path
) -> None:
    call(repository / "scripts/visualize.py", words(world, tmp_path))
    made = tmp_path / "made"
    table = pd.read_parquet(made / "images.parquet")
    index = read_index(world / "index").split("test")
    known = np.isin(image_classes(index), [0, 2])
    assert 0 < known.sum() < len(known)
    assert table["path"].tolist() == index.images["path"][known].tolist()
    assert table["class_id"].tolist() == image_classes(index)[known].tolist()
    shown, masked = np.load(made / "activation.npy"), np.load(made / "maskout.npy")
    assert shown.shape == (len(table), 3, 3) and masked.shape == (len(table), 4, 4)
    assert shown.dtype == masked.dtype == np.float32
    for row, image in table.iterrows():
        plain, hidden, activation = by_hand(world, index.root / image["path"])
        place = [0, 2].index(image["class_id"])
        assert image["probability"] == pytest.approx(plain[place], rel=1e-4)
        assert image["predicted"] == [0, 2][plain.argmax()]
        np.testing.assert_allclose(masked[row].ravel(), hidden[:, place], rtol=1e-4)
        np.testing.assert_allclose(shown[row], activation, atol=0.05)
        assert image["mean_drop"] == pytest.approx((plain - hidden.mean(0))[place], abs=1e-5)
        share = (hidden[:, place] < plain[place] / 2).mean()
        assert image["fragile_share"] == pytest.approx(share)
    metrics = read_metrics(made / "metrics.json")
    assert str(metrics.run) == "visualization/shapes/scratch/seed0"
    assert metrics.metric("mean_drop").value == pytest.approx(100 * table["mean_drop"].mean())
    assert not list((tmp_path / "state").iterdir())


def test_an_image_smaller_than_the_square_is_enlarged_first(
    repository: Path, tmp_path: Path
) -> None:
    world = tmp_path / "world"
    index = write_rectangles(world, training=3, test=1).split("test")
    write_start(world / "backbone.safetensors")
    write_probe(world, [0, 1, 2])
    path = index.root / index.images["path"][0]
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    call(repository / "scripts/visualize.py", words(world, tmp_path))
    (masked,) = np.load(tmp_path / "made/maskout.npy")
    assert (central_view(decode(path), 48, 56) > 0).float().mean() > 0.9, "no frame around it"
    plain, hidden, _ = by_hand(world, path)
    (place,) = image_classes(index)
    np.testing.assert_allclose(masked.ravel(), hidden[:, place], rtol=1e-4)
    assert len(np.unique(masked)) == 16, "each square hides something else"
    table = pd.read_parquet(tmp_path / "made/images.parquet")
    assert table["probability"].item() == pytest.approx(plain[place], rel=1e-4)


def test_fewer_images_are_the_same_ones_every_time(
    repository: Path, world: Path, tmp_path: Path
) -> None:
    ids = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        call(repository / "scripts/visualize.py", words(world, tmp_path / name, images=2))
        ids.append(pd.read_parquet(tmp_path / name / "made/images.parquet")["image_id"].tolist())
    assert ids[0] == ids[1] and len(ids[0]) == 2


def test_an_interrupted_recording_goes_on_to_the_same_bytes(
    repository: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "whole").mkdir()
    program = repository / "scripts/visualize.py"
    call(program, words(world, tmp_path / "whole"))
    seen: list[Path] = []

    def failing(path: Path) -> Tensor:
        seen.append(path)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return decode(path)

    monkeypatch.setattr("detransfer.data.views.decode", failing)
    with pytest.raises(KeyboardInterrupt):
        call(program, words(world, tmp_path))
    assert not (tmp_path / "made").exists()
    call(program, words(world, tmp_path))
    images = len(pd.read_parquet(tmp_path / "made/images.parquet"))
    assert len(seen) == 3 + images - 2  # two images were safe
    for name in ("activation.npy", "maskout.npy", "images.parquet"):
        first = (tmp_path / "whole/made" / name).read_bytes()
        assert (tmp_path / "made" / name).read_bytes() == first, name


def test_a_recording_that_was_left_behind_is_waited_for(
    repository: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both write rows into the same files, and the first to end removes them."""
    program = repository / "scripts/visualize.py"
    given = words(world, tmp_path, images=2)
    started: list[subprocess.Popen[str]] = []

    def decode_beside_another(path: Path) -> Tensor:
        if not started:
            started.append(start_one_that_waits(program, given))
        return decode(path)

    monkeypatch.setattr("detransfer.data.views.decode", decode_beside_another)
    call(program, given)
    first = (tmp_path / "made/maskout.npy").read_bytes()
    assert started[0].wait(60) == 0
    assert (tmp_path / "made/maskout.npy").read_bytes() == first
    assert not list((tmp_path / "state").iterdir())


def test_a_probe_of_other_weights_views_or_classes_is_refused(
    repository: Path, world: Path, tmp_path: Path
) -> None:
    program, given = repository / "scripts/visualize.py", words(world, tmp_path)
    other = write_start(tmp_path / "other.safetensors")
    state, header = read_weights(other)
    save_backbone(other, {name: value + 1 for name, value in state.items()}, header)
    with pytest.raises(InputError, match="fitted on other weights; fit it again"):
        call(program, [f"--weights={other}", *given[1:]])
    wider = yaml.safe_load((tmp_path / "features.yaml").read_text()) | {"resize": 64}
    (tmp_path / "features.yaml").write_text(yaml.safe_dump(wider))
    with pytest.raises(InputError, match="fitted on other views; fit it again"):
        call(program, given)
    given = words(world, tmp_path)
    classes = world / "probe" / "classes.csv"
    before = classes.read_text()
    classes.write_text(before.replace("blue", "violet"))
    try:
        with pytest.raises(InputError, match="class 2 is 'violet' to this probe and 'blue'"):
            call(program, given)
    finally:
        classes.write_text(before)


def test_a_probe_that_knows_no_image_is_refused(
    repository: Path, world: Path, tmp_path: Path
) -> None:
    given = [w.replace("--eval-split=test", "--eval-split=train") for w in words(world, tmp_path)]
    index = read_index(world / "index")
    objects = index.objects.assign(class_id=1)
    write_index(tmp_path / "index", replace(index, objects=objects))
    given = [w.replace(str(world / "index"), str(tmp_path / "index")) for w in given]
    with pytest.raises(InputError, match="knows the class of no image of 'train'"):
        call(repository / "scripts/visualize.py", given)


def test_activations_are_held_against_the_masks(repository: Path, tmp_path: Path) -> None:
    index = write_scenes(tmp_path / "scenes", 2, 5)
    write_index(tmp_path / "index", index)
    write_start(tmp_path / "backbone.safetensors")
    # The square, which would hide the whole view, is for mask-out maps alone.
    call(repository / "scripts/visualize.py", words(tmp_path, tmp_path, probe=False, mask=48))
    table = pd.read_parquet(tmp_path / "made/images.parquet")
    shown = np.load(tmp_path / "made/activation.npy")
    test = index.split("test").images
    assert table["image_id"].tolist() == test["image_id"].tolist()
    for row, mask in enumerate(test["mask"]):
        labels = central_mask(read_mask(index.root / mask, 3), 48, 56)
        activation = enlarge(shown[row : row + 1], 48)[0]
        found = table.iloc[row]
        assert found["inside_share"] == pytest.approx(inside_share(activation, labels))
        assert found["best_iou"] == pytest.approx(best_iou(activation, labels))
        assert found["trough_iou"] == pytest.approx(best_iou(-activation, labels))
        assert found["object_area"] == pytest.approx(area_share(labels))
    assert table["best_iou"].between(0.05, 1).all()
    metrics = read_metrics(tmp_path / "made/metrics.json")
    assert metrics.metric("best_iou").floor == pytest.approx(100 * table["object_area"].mean())
    assert not (tmp_path / "made/maskout.npy").exists()


def test_masks_without_an_object_leave_no_number(repository: Path, tmp_path: Path) -> None:
    index = write_scenes(tmp_path / "scenes", 2, 3)
    for name in index.images["mask"]:
        path = index.root / name
        path.write_bytes(encode_mask(np.zeros_like(np.asarray(Image.open(path)))))
    write_index(tmp_path / "index", index)
    write_start(tmp_path / "backbone.safetensors")
    call(repository / "scripts/visualize.py", words(tmp_path, tmp_path, probe=False))
    table = pd.read_parquet(tmp_path / "made/images.parquet")
    assert table[["inside_share", "best_iou", "trough_iou"]].isna().all(axis=None)
    assert (table["object_area"] == 0).all() and len(np.load(tmp_path / "made/activation.npy")) == 3
    assert read_metrics(tmp_path / "made/metrics.json").metrics == ()


def test_without_masks_and_without_a_probe_there_is_nothing_to_measure(
    repository: Path, world: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="images have no masks"):
        call(repository / "scripts/visualize.py", words(world, tmp_path, probe=False))


def test_constant_features_give_flat_maps(repository: Path, tmp_path: Path) -> None:
    write_rectangles(tmp_path / "world", test=6)
    state, header = read_weights(write_start(tmp_path / "start.safetensors"))
    weights = tmp_path / "world/backbone.safetensors"
    save_backbone(weights, {name: torch.zeros_like(value) for name, value in state.items()}, header)
    write_probe(tmp_path / "world", [0, 1, 2])
    call(repository / "scripts/visualize.py", words(tmp_path / "world", tmp_path))
    table = pd.read_parquet(tmp_path / "made/images.parquet")
    assert (np.load(tmp_path / "made/activation.npy") == 255).all()
    assert table["probability"].to_numpy() == pytest.approx(1 / 3)
    assert (table["fragile_share"] == 0).all()
    assert table["mean_drop"].to_numpy() == pytest.approx(0, abs=1e-6)
