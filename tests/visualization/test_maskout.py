from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from detransfer.backbone import build, conv5, mean_colour
from detransfer.console import InputError
from detransfer.deformable import deform
from detransfer.study import BackboneChoice
from detransfer.visualization.activations import activation_maps, enlarge
from detransfer.visualization.coverage import best_iou, inside_share
from detransfer.visualization.folding import fold
from detransfer.visualization.grid import Grid
from detransfer.visualization.maskout import (
    MaskOut,
    fragile_share,
    mean_drop,
    probabilities,
)
from tests.detection.rectangles import TINY


def lively(model: nn.Module) -> nn.Module:
    """Give a network's normalisation statistics and weights that are not those of the start."""
    torch.manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return model.eval()


def one_by_one(model: nn.Module, view: Tensor, grid: Grid) -> np.ndarray:
    """Paint each square on the image and run the network as it is."""
    rows = []
    for top, bottom in grid.intervals():
        for left, right in grid.intervals():
            image = view.clone()
            image[:, top:bottom, left:right] = mean_colour(model).view(3, 1, 1)
            rows.append(conv5(model, image[None]).mean((2, 3))[0].detach().numpy())
    return np.array(rows)


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_features_are_those_of_one_square_at_a_time(batch: int) -> None:
    model = lively(build(TINY, 0, 16))
    grid = Grid(48, 14, 9)
    view = torch.randint(0, 256, (3, 48, 48), dtype=torch.uint8)
    found = MaskOut(fold(model), grid, batch, "fp32").features(view).numpy()
    expected = one_by_one(model, view, grid)
    assert np.ptp(expected, axis=0).max() > 0.01
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


class Doubling(nn.Module):
    """A network whose code overwrites the output of a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.next = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, padding=1)
        self.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}

    def forward_features(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        found: Tensor = self.next(maps.mul_(2))
        return found


class Choosing(Doubling):
    """A network whose code looks at the numbers that it is given."""

    def forward_features(self, images: Tensor) -> Tensor:
        return super().forward_features(images if images.mean() > -10 else -images)


@pytest.mark.parametrize(("network", "log"), [(Doubling, "what they are given"), (Choosing, "")])
def test_networks_whose_layers_cannot_be_told_apart_run_whole(
    network: type[Doubling], log: str, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    model = network().eval()
    grid = Grid(24, 6, 6)
    view = torch.randint(0, 256, (3, 24, 24), dtype=torch.uint8)
    masks = MaskOut(model, grid, 5, "fp32")
    for _ in range(2):
        found = masks.features(view).numpy()
        np.testing.assert_allclose(found, one_by_one(model, view, grid), rtol=1e-4, atol=1e-5)
    assert log in caplog.text and len(caplog.messages) == bool(log)


def test_half_precision_stays_near() -> None:
    model = lively(build(TINY, 0, 16))
    grid = Grid(48, 14, 9)
    view = torch.randint(0, 256, (3, 48, 48), dtype=torch.uint8)
    full, half = (MaskOut(fold(model), grid, 25, p).features(view) for p in ("fp32", "bf16"))
    assert half.dtype == torch.float32 and not torch.equal(half, full)
    assert (half - full).abs().max() < 0.02 * full.abs().max()


def test_squares_stand_on_the_middles_of_the_cells() -> None:
    grid = Grid(224, 60, 8)  # the paper's square on the recipe's grid
    intervals = grid.intervals()
    assert grid.side == 28 and grid.squares().shape == (784, 224, 224)
    assert intervals[0] == (0, 34) and intervals[4] == (6, 66) and intervals[-1] == (190, 224)
    middles = [sum(each) / 2 for each in intervals[4:-4]]
    assert middles == [8 * place + 4 for place in range(4, 24)]
    square = grid.squares()[28 * 5 + 20]
    assert square[14:74, 134:194].all() and square.sum() == 3600
    assert Grid(50, 10, 12).intervals() == [(2, 12), (14, 24), (26, 36), (38, 48)]


def test_a_square_as_large_as_the_view_is_refused() -> None:
    with pytest.raises(InputError, match="60 pixels hides the whole view of 60"):
        Grid(60, 60, 8)


def backbones() -> list[tuple[str, nn.Module]]:
    mobile = BackboneChoice(
        name="mobilenetv1_025_leaky", file=Path("config/backbones/mobilenetv1_025_leaky.py")
    )
    deformed = build(TINY, 0, 16)
    deform(deformed, 1)
    return [
        ("resnet", build(TINY, 0, 16)),
        ("deformable", deformed),
        ("leaky", build(mobile, 0, 16)),
        (
            "activations in the normalisation",
            timm.create_model("mobilenetv3_small_050", num_classes=0),
        ),
    ]


@pytest.mark.parametrize("number", range(4))
def test_folding_changes_nothing(
    number: int, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    name, model = backbones()[number]
    lively(model)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        before = conv5(model, images)
        folded = fold(model)
        after, again = conv5(folded, images), conv5(model, images)
    assert torch.equal(before, again), "the network itself was changed"
    assert (after - before).abs().max() < 1e-4 * before.abs().max()
    left = [m for m in folded.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert not left, name


class Twice(nn.Module):
    """A convolution whose output is read by its normalisation and by another layer too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward_features(self, images: Tensor) -> Tensor:
        found = self.conv(images)
        return self.norm(found) * found


def test_what_cannot_be_folded_is_left_as_it_is() -> None:
    model = lively(Twice())
    folded = fold(model)
    images = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(folded.forward_features(images), model.forward_features(images))  # type: ignore[operator]


def test_numbers_of_a_map_by_hand() -> None:
    maps = np.array([[[0.8, 0.3], [0.4, 0.1]], [[0.0, 0.0], [0.0, 0.0]]])
    unmasked = np.array([0.8, 0.0])
    np.testing.assert_allclose(mean_drop(maps, unmasked), [0.8 - 0.4, 0])
    assert fragile_share(maps, unmasked).tolist() == [0.5, 0]  # 0.4 is half, not less


def test_probabilities_are_a_softmax_of_linear_scores() -> None:
    features, weight, bias = torch.rand(4, 5), torch.randn(5, 3), torch.randn(3)
    scores = np.exp((features @ weight + bias).numpy())
    np.testing.assert_allclose(
        probabilities(features, weight, bias), scores / scores.sum(1, keepdims=True), rtol=1e-5
    )


class Reader(nn.Module):
    """A network whose Conv5 is active where a colour channel is bright: the part, or the whole."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.channels = channels
        self.pretrained_cfg = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}

    def forward_features(self, images: Tensor) -> Tensor:
        bright = images[:, self.channels].amax(1, keepdim=True)
        return nn.functional.avg_pool2d(bright, 4)


def test_readers_of_parts_and_of_wholes_are_told_apart() -> None:
    """Objects have a body (red) and a part (green) a twelfth of its size; the truth is known."""
    view = torch.zeros(3, 64, 64, dtype=torch.uint8)
    view[0, 12:52, 12:52] = 250
    view[:, 12:24, 40:52] = torch.tensor([0, 250, 0], dtype=torch.uint8).view(3, 1, 1)
    labels = np.zeros((64, 64), np.uint8)
    labels[12:52, 12:52] = 1
    grid = Grid(64, 16, 8)
    numbers = {}
    for name, channels in (("part", [1]), ("whole", [0, 1])):
        network = Reader(channels)
        maps = conv5(network, view[None])
        plain = float(maps.mean())
        # The class is there where half of what the reader sees of it is left.
        weight, bias = torch.tensor([[0.0, 16 / plain]]), torch.tensor([0.0, -8.0])
        features = MaskOut(network, grid, 64, "fp32").features(view)
        seen = probabilities(features, weight, bias)[:, 1].reshape(1, grid.side, -1).numpy()
        activation = enlarge(activation_maps(maps).numpy(), 64)[0]
        unmasked = np.array([1 / (1 + np.exp(-8.0))])
        numbers[name] = (
            fragile_share(seen, unmasked)[0],
            mean_drop(seen, unmasked)[0],
            best_iou(activation, labels),
        )
        assert inside_share(activation, labels) > 0.8
    (fragile, drop, iou), (fragile_whole, drop_whole, iou_whole) = numbers["part"], numbers["whole"]
    assert fragile > 0.02 and fragile_whole == 0
    assert drop > 10 * drop_whole and iou_whole > 0.9 > 0.5 > iou
