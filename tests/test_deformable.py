"""Deformable convolutions: torchvision's operator on a processor too, and plain at the start."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from detransfer.backbone import build, conv5, fit_backbone, transferable
from detransfer.console import InputError
from detransfer.deformable import DeformableConv
from detransfer.study import BackboneChoice
from detransfer.training import compile_backbone

SLIM = BackboneChoice(name="resnet26t", arguments={"channels": [8, 16, 32, 64], "stem_width": 8})
SHALLOW = SLIM.model_copy(update={"name": "resnet10t"})


def awake(model: nn.Module) -> nn.Module:
    """Undo timm's zeros in the last normalisation of a block, which would hide what is before."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
    return model.eval()


@pytest.mark.parametrize(
    ("groups", "stride", "padding", "dilation"), [(1, 1, 2, 2), (4, 2, 1, 1), (2, 1, 0, 1)]
)
def test_equals_torchvision(groups: int, stride: int, padding: int, dilation: int) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 6, 3, stride, padding, dilation).double()
    conv = DeformableConv(plain, groups).double()
    nn.init.normal_(conv.offset.weight, std=0.5)
    nn.init.normal_(conv.offset.bias, std=2.0)  # type: ignore[arg-type]
    x = torch.randn(2, 8, 9, 7, dtype=torch.double, requires_grad=True)
    inputs = [x, *conv.parameters()]

    def gradients(result: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(result.sin().sum(), inputs)

    ours = conv(x)
    arguments: Any = (conv.bias, conv.stride, conv.padding, conv.dilation)
    theirs = deform_conv2d(x, conv.offset(x), conv.weight, *arguments)
    torch.testing.assert_close(ours, theirs)
    for own, other in zip(gradients(ours), gradients(theirs), strict=True):
        torch.testing.assert_close(own, other)
        assert own.abs().max() > 0


@pytest.mark.parametrize("groups", [1, 2])
def test_taps_stay_where_they_are_in_bfloat16(groups: int) -> None:
    """Far from the corner, where bfloat16 knows halves of a cell alone."""
    plain = nn.Conv2d(2, 2, 1, groups=groups, bias=False)
    nn.init.constant_(plain.weight, groups / 2)
    conv = DeformableConv(plain, 1)
    with torch.no_grad():
        conv.offset.bias[1] = 0.25  # type: ignore[index]
    stripes = (torch.arange(120) % 2).float().expand(1, 2, 4, 120)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = conv(stripes.bfloat16())[..., :-1]
    assert found.dtype == torch.bfloat16 and set(found.flatten().tolist()) == {0.25, 0.75}


def test_a_stage_without_offsets_equals_the_plain_one() -> None:
    images = torch.randint(0, 256, (2, 3, 96, 64), dtype=torch.uint8)
    torch.manual_seed(0)
    plain = awake(build(SLIM, 0, 16))
    deformable = build(SLIM, 0, 16, deformable_groups=2)
    fit_backbone(deformable, plain.state_dict(), "plain")
    with torch.no_grad():
        wanted, given = conv5(plain, images), conv5(deformable.eval(), images)
    assert wanted.abs().mean() > 0.01
    assert float((given - wanted).abs().max() / wanted.abs().max()) < 3e-7 * 10
    added = deformable.state_dict().keys() - plain.state_dict().keys()
    assert added == {
        f"layer4.{i}.conv2.offset.{kind}" for i in (0, 1) for kind in ("weight", "bias")
    }
    for name in added:  # the taps do move once offsets are learnt
        nn.init.constant_(deformable.get_parameter(name), 0.5)
    with torch.no_grad():
        assert float((conv5(deformable, images) - wanted).abs().max()) > 0.01


def test_offsets_are_not_transferred() -> None:
    source = build(SLIM, 10, deformable_groups=1)
    for name, parameter in source.named_parameters():
        if ".offset." in name:
            nn.init.ones_(parameter)
    assert transferable(source, source.state_dict()).keys() == build(SLIM).state_dict().keys()
    again = build(SLIM, deformable_groups=4)  # another number of groups is no obstacle
    fit_backbone(again, source.state_dict(), "source")
    assert torch.equal(again.state_dict()["conv1.0.weight"], source.state_dict()["conv1.0.weight"])
    assert not any(v.any() for n, v in again.state_dict().items() if ".offset." in n)


def test_separable_stages_go_through_torchvision() -> None:
    model = build(BackboneChoice(name="mobilenetv1_100"), 0, 16, deformable_groups=1).eval()
    convs = [module for module in model.modules() if isinstance(module, DeformableConv)]
    assert len(convs) == 2 and all(conv.groups > 1 for conv in convs)
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    for precision in ("fp32", "bf16"):
        assert conv5(model, images, precision).shape == (1, 1024, 4, 4)


class Alone(nn.Module):
    """A backbone that is one deformable convolution, with offsets that are not zero."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.conv = DeformableConv(nn.Conv2d(4, 4, 3, padding=1, groups=groups), 1)
        nn.init.normal_(self.conv.offset.weight)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.conv(x)  # type: ignore[no-any-return]

    forward_intermediates = forward_features


def deformed() -> nn.Module:
    model = awake(build(SHALLOW, 0, 16, deformable_groups=2))
    for name, parameter in model.named_parameters():
        if ".offset." in name:
            nn.init.normal_(parameter, std=0.1)
    return model.train()


@pytest.mark.parametrize("make", [deformed, lambda: Alone(1), lambda: Alone(2)])
def test_a_compiled_step_is_one_graph_and_the_same(
    make: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced and differentiated by the compiler, without its code generation."""
    torch.manual_seed(0)
    model: Any = make()
    images = torch.randn(2, 4 if isinstance(model, Alone) else 3, 32, 32)

    def gradients() -> tuple[Tensor, ...]:
        with torch.autocast("cpu", torch.bfloat16):
            maps = model.forward_features(images)
        return torch.autograd.grad(maps.float().square().mean(), list(model.parameters()))

    wanted = gradients()
    whole = partial(torch.compile, backend="aot_eager", fullgraph=True)
    monkeypatch.setattr(torch, "compile", whole)
    compile_backbone(model)
    for own, other in zip(gradients(), wanted, strict=True):
        assert torch.equal(own, other) and own.abs().max() > 0


@pytest.mark.parametrize(
    ("choice", "groups", "message"),
    [
        (BackboneChoice(name="convnext_atto"), 1, "has no 3x3 convolution to deform; give 0"),
        (SLIM, 5, "5 does not divide the 64 channels of layer4"),
    ],
)
def test_what_cannot_be_deformed_is_refused(
    choice: BackboneChoice, groups: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build(choice, deformable_groups=groups)
