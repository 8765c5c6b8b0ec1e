from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from detransfer.backbone import build, normalise
from detransfer.console import InputError
from detransfer.data.index import Index, read_index
from detransfer.detection import limits
from detransfer.detection.detector import Detector
from detransfer.detection.limits import check_memory, memory_of
from detransfer.detection.predict import predict
from tests.detection.rectangles import (
    TINY,
    call,
    detection_recipe,
    inference_recipe,
    training_words,
    write_recipe,
    write_rectangles,
    write_start,
)

CPU = torch.device("cpu")
TWICE = inference_recipe(scales=[{"long": 64}, {"factor": 2.0}], batch_size=4)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rectangles") / "world"
    write_rectangles(folder)
    write_start(folder / "backbone.safetensors")
    negatives = {"negatives": {"minimum_proposals": [3, 3]}}
    write_recipe(folder / "positive.yaml", detection_recipe())
    write_recipe(folder / "negative.yaml", detection_recipe(chips=negatives))
    write_recipe(folder / "evaluate.yaml", TWICE)
    return folder


def sized(index: Index, sizes: list[tuple[int, int]]) -> Index:
    images = index.images.head(len(sizes)).copy()
    images[["width", "height"]] = np.array(sizes)
    return replace(index, images=images)


def detector_of(precision: str = "fp32") -> Detector:
    recipe = detection_recipe(training={"precision": precision})
    return Detector(build(TINY, 0, 16), 3, recipe).eval()


def first_map_and_images(detector: Detector, batch: int, height: int, width: int) -> int:
    """Return the bytes of such a batch in float32 and of the first map, as the network makes it."""
    network: Any = detector.backbone
    kept: list[torch.Tensor] = []
    module = network.get_submodule(network.feature_info[0]["module"])
    handle = module.register_forward_hook(lambda *given: kept.append(given[-1]))
    images = torch.zeros(batch, 3, height, width, dtype=torch.uint8)
    with torch.inference_mode():
        detector.features(images)
    handle.remove()
    return normalise(images, network).nbytes + kept[0].nbytes


def give(monkeypatch: pytest.MonkeyPatch, memory: int) -> None:
    monkeypatch.setattr(limits, "memory_of", lambda device: memory)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_batch_is_held_against_the_memory(
    world: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """90 x 60 pixels become 180 x 120, and 192 x 128 with the padding; four fit into a batch."""
    index, detector = sized(read_index(world / "index"), [(90, 60)] * 9), detector_of(precision)
    needed = first_map_and_images(detector, 4, 128, 192)
    give(monkeypatch, needed)
    check_memory(index, TWICE, detector, CPU)
    check_memory(replace(index, images=index.images.head(0)), TWICE, detector, CPU)
    give(monkeypatch, needed - 1)
    with pytest.raises(InputError) as caught:
        check_memory(index, TWICE, detector, CPU)
    said = "0.png: 90 x 60 pixels become 192 x 128 at scales[1]; 4 at once need at least 0.0 GiB"
    assert said in str(caught.value) and "lower batch_size of the inference" in str(caught.value)
    smaller = TWICE.model_copy(update={"batch_size": 3})
    check_memory(index, smaller, detector, CPU)


def test_only_images_of_one_shape_and_chunk_are_at_once(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest image is alone; of six others, two are in each chunk."""
    sizes = [(90, 60), (90, 60), (180, 60), (60, 90), (90, 60), (90, 60), (60, 90), (90, 60)]
    index, detector = sized(read_index(world / "index"), sizes), detector_of()
    needed = first_map_and_images(detector, 4, 128, 192)
    give(monkeypatch, needed - 1)
    with pytest.raises(InputError, match=r"0\.png: 90 x 60 .* 4 at once"):
        check_memory(index, TWICE, detector, CPU)
    monkeypatch.setattr(limits, "CHUNK", 4)
    give(monkeypatch, 3 * needed // 4)
    check_memory(index, TWICE, detector, CPU)
    give(monkeypatch, 3 * needed // 4 - 1)
    with pytest.raises(InputError, match=r"4\.png: 90 x 60 .* 3 at once"):
        check_memory(index, TWICE, detector, CPU)


def test_what_a_large_batch_needs_is_told(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first map of 64 channels at half the size, as a ResNet's: 64 bytes a pixel, and 12."""
    index, detector = sized(read_index(world / "index"), [(640, 480)] * 13), detector_of()
    network: Any = detector.backbone
    network.feature_info[0] = {"num_chs": 64, "reduction": 2}
    recipe = inference_recipe(scales=[{"factor": 12.0}], batch_size=10)
    give(monkeypatch, 24 * 2**30)
    said = r"become 7680 x 5760 .* 10 at once need at least 31\.3 GiB, and the cpu of .* has 24\.0;"
    with pytest.raises(InputError, match=said):
        check_memory(index, recipe, detector, CPU)


def test_the_memory_is_that_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory_of(CPU) == psutil.virtual_memory().total
    asked: list[torch.device] = []

    def properties(device: torch.device) -> SimpleNamespace:
        asked.append(device)
        return SimpleNamespace(total_memory=24 * 2**30)

    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    assert memory_of(torch.device("cuda", 3)) == 24 * 2**30
    assert asked == [torch.device("cuda", 3)]


def test_a_detector_looks_at_no_image_where_memory_is_short(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch, 10_000)
    missing = replace(read_index(world / "index"), root=world / "nowhere")
    with pytest.raises(InputError, match=r"at scales\[0\]; . at once need at least"):
        predict(detector_of(), missing, TWICE, CPU, 0)


@pytest.mark.parametrize(
    ("program", "recipe"), [("train_detector", "positive"), ("mine_proposals", "negative")]
)
def test_the_memory_of_an_inference_is_refused_before_the_training(
    repository: Path, world: Path, monkeypatch: pytest.MonkeyPatch, program: str, recipe: str
) -> None:
    give(monkeypatch, 10_000)
    start = world / "backbone.safetensors"
    words = training_words(world, program, start, world / f"{recipe}.yaml")
    with pytest.raises(InputError, match=r"at once need at least 0\.0 GiB, and the cpu of"):
        call(
            repository / f"scripts/{program}.py", [*words, f"--inference={world / 'evaluate.yaml'}"]
        )
    assert not (world / program).exists()
