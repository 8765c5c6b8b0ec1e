"""Layers of a detector as features: by planted weights, and by operations of other libraries."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import roi_align

from detransfer.backbone import build, conv5
from detransfer.console import InputError
from detransfer.detection.detector import Detector
from detransfer.detection.layers import DetectorLayers
from detransfer.recipes.detection import DetectionRecipe, FasterRcnnRecipe
from tests.detection.rectangles import TINY, detection_recipe

CHANNELS, SIDE = 32, 14  # of Conv5: 224 pixels at stride 16
RFCN = {"kind": "rfcn3000", "superclasses": 2, "projection": 6, "roi_size": 3, "hidden": 8}


def detector(**head: Any) -> Detector:
    torch.manual_seed(0)
    recipe = detection_recipe(head={"roi_size": 14, "conv_proj": 5, "hidden": 7, **head})
    return Detector(build(TINY, 0, 16), 3, recipe).eval()


def rfcn() -> Detector:
    torch.manual_seed(0)
    content = detection_recipe().model_dump(mode="json")
    recipe = DetectionRecipe.model_validate({**content, "head": RFCN})
    return Detector(build(TINY, 0, 16), 3, recipe).eval()


def images(count: int = 2) -> Tensor:
    return torch.randint(0, 256, (count, 3, 224, 224), dtype=torch.uint8)


def test_the_seven_layers_of_table_7_in_its_order_and_sizes() -> None:
    paper = FasterRcnnRecipe(kind="faster_rcnn")
    assert paper.layers == (
        "conv_proj_14x14",
        "conv_proj_4x4",
        "conv_proj_2x2",
        "conv_proj_avg",
        "fc1",
        "fc2",
    )
    made = detector(conv_proj=256, hidden=1024)
    found = DetectorLayers(made, ("conv5", *paper.layers), "fp32")(images())
    sizes = [tuple(value.shape) for value in found.values()]
    assert list(found) == ["conv5", *paper.layers]
    assert [size[1] for size in sizes] == [CHANNELS, 50_176, 4_096, 1_024, 256, 1_024, 1_024]
    assert all(size[0] == 2 for size in sizes)


def test_planted_weights_show_which_layer_was_recorded() -> None:
    """Every layer is a constant of its own, with one unit below zero that the ReLU must clip."""
    made = detector()
    head: Any = made.head
    for number, layer in enumerate((head.conv_proj, head.fc1, head.fc2), 1):
        nn.init.zeros_(layer.weight)
        nn.init.constant_(layer.bias, number)
        layer.bias.data[0] = -1
    found = DetectorLayers(made, made.recipe.head.layers, "fp32")(images())
    for name, value in found.items():
        number = {"fc1": 2.0, "fc2": 3.0}.get(name, 1.0)
        values = value if name in ("fc1", "fc2") else value.view(2, 5, -1)[:, :, 0]
        assert values[:, 1:].unique().tolist() == pytest.approx([number]), name
        assert (values[:, 0] == 0).all(), name


@pytest.mark.parametrize("order", ["conv5", "conv4+conv5"])
def test_conv5_is_the_backbones_whatever_the_head_reads(order: str) -> None:
    recipe = detection_recipe(order)
    made = Detector(build(TINY, 0, 16), 3, recipe).eval()
    shown = images()
    expected = conv5(made.backbone, shown).mean((2, 3))
    found = DetectorLayers(made, ["conv5"], "fp32")(shown)["conv5"]
    torch.testing.assert_close(found, expected)
    whole = DetectorLayers(made, ["fc1", "conv5"], "fp32")(shown)
    assert list(whole) == ["fc1", "conv5"]
    torch.testing.assert_close(whole["conv5"], expected)


def by_hand(head: Any, maps: Tensor) -> dict[str, Tensor]:
    """The layers from torchvision's RoIAlign and plain matrix products."""
    projected = functional.conv2d(maps, head.conv_proj.weight, head.conv_proj.bias).clamp(min=0)
    box = torch.tensor([[0.0, 0, 224, 224]])
    blob = roi_align(projected, [box] * len(maps), SIDE, 1 / 16, 2, aligned=True)
    fc1 = (blob.flatten(1) @ head.fc1.weight.T + head.fc1.bias).clamp(min=0)
    fc2 = (fc1 @ head.fc2.weight.T + head.fc2.bias).clamp(min=0)
    halves = torch.stack(
        [blob[:, :, y : y + 7, x : x + 7].mean((2, 3)) for y in (0, 7) for x in (0, 7)], 2
    )
    return {
        "conv_proj_14x14": blob.flatten(1),
        "conv_proj_2x2": halves.flatten(1),
        "conv_proj_avg": blob.mean((2, 3)),
        "fc1": fc1,
        "fc2": fc2,
    }


def test_the_layers_are_what_they_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    made = detector()
    maps = torch.randn(2, CHANNELS, SIDE, SIDE)
    monkeypatch.setattr(made, "features", lambda *_: maps)
    found = DetectorLayers(made, made.recipe.head.layers, "fp32")(images())
    for name, expected in by_hand(made.head, maps).items():
        torch.testing.assert_close(found[name], expected, msg=name)
    # 14 cells in four: the first and the last of the 4 x 4 take cells 0 to 3 and 10 to 13.
    corner = found["conv_proj_14x14"].view(2, 5, SIDE, SIDE)[:, :, 10:, :4].mean((2, 3))
    torch.testing.assert_close(found["conv_proj_4x4"].view(2, 5, 4, 4)[:, :, 3, 0], corner)


def test_an_image_does_not_depend_on_those_beside_it() -> None:
    made = detector()
    layers = DetectorLayers(made, ("conv5", *made.recipe.head.layers), "fp32")
    shown = images(3)
    together = layers(shown)
    for row in range(3):
        for name, value in layers(shown[row : row + 1]).items():
            torch.testing.assert_close(value[0], together[name][row], rtol=1e-5, atol=1e-5)


def test_r_fcn_3000_has_its_own_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    made = rfcn()
    head: Any = made.head
    maps = torch.randn(2, CHANNELS, SIDE, SIDE)
    monkeypatch.setattr(made, "features", lambda *_: maps)
    found = DetectorLayers(made, ("conv5", "projection_avg", "hidden"), "fp32")(images())
    box = [torch.tensor([[0.0, 0, 224, 224]])] * 2
    pooled = roi_align(maps, box, 3, 1 / 16, 2, aligned=True).mean((2, 3))
    kernel = head.projection.weight[:, :, 0, 0]
    expected = {
        "conv5": maps.mean((2, 3)),
        "projection_avg": pooled @ kernel.T + head.projection.bias,  # the same, and no ReLU
        "hidden": (pooled @ head.hidden.weight.T + head.hidden.bias).clamp(min=0),
    }
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_a_layer_that_the_head_lacks_is_refused_with_those_it_has() -> None:
    with pytest.raises(InputError, match=r"\(rfcn3000\) has no layer 'fc1'; its layers are conv5,"):
        DetectorLayers(rfcn(), ["conv5", "fc1"], "fp32")
    with pytest.raises(InputError, match="no layer 'fc3'; its layers are conv5, conv_proj_14x14,"):
        DetectorLayers(detector(), ["fc3"], "fp32")
