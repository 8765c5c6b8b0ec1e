"""Windows of maps, beside whole maps: what changes reach, what layers read, what networks say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from detransfer.backbone import build
from detransfer.deformable import deform
from detransfer.study import BackboneChoice
from detransfer.visualization.folding import fold
from detransfer.visualization.local_network import LocalNetwork
from detransfer.visualization.windows import Kernel, Reader, Window, kernel_of
from tests.detection.rectangles import TINY
from tests.visualization.test_maskout import lively

CPU = torch.device("cpu")
MAP = (11, 14)


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def kernels(draw: st.DrawFn) -> Kernel:
    size, dilation = draw(pairs(1, 4)), draw(pairs(1, 2))
    reach = [d * (k - 1) for k, d in zip(size, dilation, strict=True)]
    padding = (draw(st.integers(0, reach[0])), draw(st.integers(0, reach[1])))
    return Kernel(size, draw(pairs(1, 3)), padding, dilation)


@st.composite
def windows(draw: st.DrawFn, count: int = 3) -> Window:
    height, width = draw(st.integers(1, MAP[0])), draw(st.integers(1, MAP[1]))
    places = st.lists(pairs(0, 100), min_size=count, max_size=count)
    top, left = np.array(draw(places)).T
    return Window(top % (MAP[0] - height + 1), left % (MAP[1] - width + 1), height, width)


def marked(window: Window, shape: tuple[int, int]) -> Tensor:
    """Return maps (n, 1, h, w) that are 1 in the window, 0 elsewhere."""
    maps = torch.zeros(len(window.top), 1, *shape)
    for image, top, left in zip(maps, window.top, window.left, strict=True):
        image[0, top : top + window.height, left : left + window.width] = 1
    return maps


def slide(kernel: Kernel, maps: Tensor) -> Tensor:
    ones = torch.ones(1, 1, *kernel.size)
    return functional.conv2d(maps, ones, None, kernel.stride, kernel.padding, kernel.dilation)


@given(kernels(), windows())
def test_whatever_reads_a_window_is_reached_by_it(kernel: Kernel, window: Window) -> None:
    found = slide(kernel, marked(window, MAP))
    shape = (found.shape[2], found.shape[3])
    reached = window.reached(kernel, shape)
    assert not found[marked(reached, shape) == 0].any()
    for size, had, stride, span, length in zip(
        (reached.height, reached.width),
        (window.height, window.width),
        kernel.stride,
        kernel.span,
        shape,
        strict=True,
    ):
        assert size == min(length, -(-(had + span) // stride))  # as many as read it at most


@given(kernels(), windows(), windows(), st.sampled_from([0.0, -7.0]))
def test_layers_read_what_they_read_of_whole_maps(
    kernel: Kernel, known: Window, wanted: Window, padding: float
) -> None:
    alike, own = torch.randn(1, 2, *MAP), torch.randn(3, 2, known.height, known.width)
    reads = wanted.read_by(kernel)
    maps = alike.repeat(3, 1, 1, 1)
    expected = []
    for image, map_, top, left, down, right in zip(
        own, maps, known.top, known.left, reads.top, reads.left, strict=True
    ):
        map_[:, top : top + known.height, left : left + known.width] = image
        around = functional.pad(map_, (60, 60, 60, 60), value=padding)
        down, right = down + 60, right + 60
        expected.append(around[:, down : down + reads.height, right : right + reads.width])
    found = Reader(known, reads, MAP, CPU, padding)(own, alike)
    assert torch.equal(found, torch.stack(expected))


def test_layers_that_only_look_like_a_window_are_not_taken_for_one() -> None:
    assert kernel_of(nn.Conv2d(3, 3, (3, 1), padding=1)) == Kernel((3, 1), (1, 1), (1, 1), (1, 1))
    assert kernel_of(nn.MaxPool2d(3, 2)) == Kernel((3, 3), (2, 2), (0, 0), (1, 1))
    others = [
        nn.Conv2d(3, 3, 3, padding="same"),
        nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"),
        nn.MaxPool2d(3, ceil_mode=True),
        nn.AdaptiveAvgPool2d(1),
        nn.BatchNorm2d(3),
        type("Padded", (nn.Conv2d,), {})(3, 3, 3),
    ]
    assert not any(kernel_of(layer) for layer in others)


class Negative(nn.Module):
    """A maximum of numbers below zero, at the image's border too, and a sum of two windows."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.pool = nn.Conv2d(3, 4, 5, padding=2), nn.MaxPool2d(3, 1, 1)
        self.narrow = nn.Conv2d(3, 4, 1)
        nn.init.constant_(self.wide.bias, -9)  # type: ignore[arg-type]

    def forward_features(self, images: Tensor) -> Tensor:
        maps: Tensor = self.pool(self.wide(images))
        return torch.add(self.narrow(images), maps)


def networks() -> list[nn.Module]:
    mobile = BackboneChoice(
        name="mobilenetv1_025_leaky", file=Path("config/backbones/mobilenetv1_025_leaky.py")
    )
    deformed = build(TINY, 0, 16)
    deform(deformed, 1)
    named = ("resnet18", "mobilenetv3_small_050", "regnetx_002")
    others = [timm.create_model(name, num_classes=0) for name in named]
    return [build(TINY, 0, 16), deformed, build(mobile, 0, 16), Negative(), *others]


@pytest.mark.parametrize("number", range(7))
def test_networks_say_the_same_of_a_window_as_of_the_whole(
    number: int, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    torch.manual_seed(0)
    backbone = fold(lively(networks()[number]))
    window = Window(np.array([0, 40, 70, 76]), np.array([80, 33, 1, 0]), 20, 16)
    image, changed = torch.randn(1, 3, 96, 96), torch.randn(4, 3, 20, 16)
    images = image.repeat(4, 1, 1, 1)
    for each, own, top, left in zip(images, changed, window.top, window.left, strict=True):
        each[:, top : top + 20, left : left + 16] = own
    with torch.inference_mode():
        expected = backbone.forward_features(images)  # type: ignore[operator]
        unchanged = backbone.forward_features(image)  # type: ignore[operator]
        network = LocalNetwork(backbone)
        maps = network.maps(image)
        steps = network.steps(maps, window)
        for _ in range(2):
            found = network.run(steps, maps, changed)
    scale = expected.abs().max()
    assert (expected - unchanged).abs().max() > 0.01 * scale
    assert (found - expected).abs().max() < 1e-4 * scale
    cut = [s for s in steps for node, r in s.readers.items() if r.shape[1:] != maps[node].shape[2:]]
    assert len(cut) >= 2, "layers near the image run in windows"
