from __future__ import annotations

import copy
import pickle
import tarfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
import torchvision.transforms.v2.functional as reference
from torch import Tensor, nn
from torchvision.io import ImageReadMode, decode_image

from detransfer.backbone import (
    build,
    conv5,
    fit_backbone,
    hold_still,
    load_backbone,
    normalise,
    read_weights,
    register,
    save_backbone,
)
from detransfer.console import InputError
from detransfer.recipes.training import BackboneRecipe
from detransfer.study import BackboneChoice

SLIM = BackboneChoice(
    name="resnet10t", arguments={"channels": (8, 16, 24, 32), "stem_width": 8, "stem_type": "deep"}
)
MOBILE = "config/backbones/mobilenetv1_025_leaky.py"
WEIGHTS = "weights/mobilenetv1_025_leaky.imagenet.safetensors"


@pytest.fixture(scope="module")
def images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def leaky(repository: Path) -> BackboneChoice:
    return BackboneChoice(name="mobilenetv1_025_leaky", file=repository / MOBILE)


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter and statistic a value of its own.

    timm starts the last scale of each block at zero, which would hide the convolutions before it.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if "num_batches" in name:
            value.fill_(seed + 1)
        elif value.ndim == 1:
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
        else:
            value.copy_(torch.randn(value.shape, generator=generator) / value[0].numel() ** 0.5)
    return model


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("backbone") / "backbone.safetensors"
    save_backbone(path, randomised(build(SLIM)).state_dict(), {"architecture": {"name": "x"}})
    return path


@torch.no_grad()
def features(model: nn.Module, images: Tensor) -> Tensor:
    return conv5(model.eval(), images)


def test_a_file_gives_equal_features_with_and_without_a_classifier(
    file: Path, images: Tensor
) -> None:
    expected = features(randomised(build(SLIM, 0, 16)), images)
    assert expected.shape == (2, 32, 4, 6)
    assert expected.std() > 0.1
    for classes in (0, 10):
        model = build(SLIM, classes, 16)
        assert not torch.equal(features(model, images), expected)
        assert load_backbone(model, file) == {"architecture": {"name": "x"}}
        assert torch.equal(features(model, images), expected)


# resnet10t averages 2x2 neighbours where it shrinks, and timm does not dilate these a second time.
@pytest.mark.parametrize(("name", "strides"), [("resnet10t", (32, 16)), ("resnet18", (32, 16, 8))])
def test_a_dilated_map_holds_the_strided_one(
    images: Tensor, name: str, strides: tuple[int, ...]
) -> None:
    choice = SLIM.model_copy(update={"name": name})
    state = randomised(build(choice)).state_dict()
    maps = []
    for stride in strides:
        model = build(choice, output_stride=stride)
        fit_backbone(model, state, "x")
        maps.append(features(model, images))
        assert maps[-1].shape[-2:] == (64 // stride, 96 // stride)
    for coarse, fine in pairwise(maps):
        assert coarse.std() > 0.1
        assert torch.allclose(fine[..., ::2, ::2], coarse, rtol=1e-4, atol=1e-5)


def test_timms_own_feature_network_loads_the_file_strictly(file: Path, images: Tensor) -> None:
    model = build(SLIM, output_stride=16)
    load_backbone(model, file)
    pyramid: Any = timm.create_model(
        SLIM.name, features_only=True, output_stride=16, **SLIM.arguments
    ).eval()
    pyramid.load_state_dict(read_weights(file)[0], strict=True)
    with torch.no_grad():
        last = pyramid(normalise(images, model))[-1]
    assert torch.equal(last, features(model, images))


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    state = randomised(build(SLIM)).to(memory_format=torch.channels_last).state_dict()  # type: ignore[call-overload]
    header = {"seed": 1, "architecture": {"name": "x", "arguments": {}}, "from": ["a", "ü"]}
    save_backbone(tmp_path / "a", state, header)
    backwards = {name: state[name].contiguous() for name in reversed(list(state))}
    save_backbone(tmp_path / "b", backwards, dict(reversed(header.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    (tmp_path / "a").rename(tmp_path / "a.safetensors")
    content, again = read_weights(tmp_path / "a.safetensors")
    assert again == header
    assert content.keys() == state.keys()
    assert all(torch.equal(content[name], state[name]) for name in state)
    assert all(content[name].dtype == state[name].dtype for name in state)


def test_another_architecture_is_refused_with_the_parameters_named(file: Path) -> None:
    other = SLIM.model_copy(update={"name": "resnet14t"})
    wide = SLIM.model_copy(update={"arguments": {**SLIM.arguments, "channels": (8, 16, 24, 64)}})
    cases = [
        (other, r"\d+ missing \(first: layer1\.0\.bn3\.bias\); \d+ of another shape \(first: la"),
        (wide, r"parameters \d+ of another shape \(first: layer4\.0\.bn1\.bias\)$"),
    ]
    for choice, faults in cases:
        model = build(choice)
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(InputError, match=rf"{file}: .*another architecture.*{faults}"):
            load_backbone(model, file)
        assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())
    state, _ = read_weights(file)
    with pytest.raises(InputError, match=r"x: .* 1 not in the model \(first: neck\.weight\)"):
        fit_backbone(build(SLIM), {**state, "neck.weight": torch.zeros(1)}, "x")
    del state["bn1.running_var"]
    with pytest.raises(InputError, match=r"parameters 1 missing \(first: bn1\.running_var\)"):
        fit_backbone(build(SLIM), state, "x")


def test_a_checkpoint_with_a_classifier_of_other_classes_loads(images: Tensor) -> None:
    source, target = randomised(build(SLIM, 10)), build(SLIM, 7)
    head = copy.deepcopy(target.get_submodule("fc").state_dict())
    fit_backbone(target, source.state_dict(), "x")
    assert torch.equal(features(source, images), features(target, images))
    assert torch.equal(head["weight"], target.get_parameter("fc.weight"))


class Malice:
    """Pickles to a call that leaves a file behind."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.target,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("dump", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o))])
def test_a_file_with_code_is_refused_and_not_run(
    tmp_path: Path, dump: Callable[[Any, Path], None]
) -> None:
    trace = tmp_path / "trace"
    pickle.loads(pickle.dumps(Malice(trace)))
    assert trace.exists(), "the plant works"
    trace.unlink()
    dump({"state_dict": {"a": torch.zeros(1)}, "extra": Malice(trace)}, tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"x\.pth: .*could run code; convert it to \.safetensors"):
        read_weights(tmp_path / "x.pth")
    assert not trace.exists()


def test_a_plain_state_dict_is_read_bare_or_wrapped(tmp_path: Path) -> None:
    for content in ({"a": torch.ones(2)}, {"state_dict": {"a": torch.ones(2)}, "epoch": 3}):
        torch.save(content, tmp_path / "x.pth")
        state, header = read_weights(tmp_path / "x.pth")
        assert header == {}
        assert torch.equal(state["a"], torch.ones(2))


def test_unreadable_files_are_named(tmp_path: Path, file: Path) -> None:
    def refusal(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError) as caught:
            read_weights(tmp_path / name)
        return str(caught.value).removeprefix(f"{tmp_path / name}: ")

    whole = file.read_bytes()
    for part in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        message = refusal("x.safetensors", whole[:part])
        assert message.startswith("not a readable safetensors file")
    torch.save({"a": torch.zeros(1000)}, tmp_path / "whole.pth")
    zipped = (tmp_path / "whole.pth").read_bytes()
    assert refusal("x.pth", zipped[: len(zipped) // 2]).startswith("not a readable PyTorch file")
    assert refusal("x.pth", b"").startswith("not a readable PyTorch file")
    assert refusal("x.pth", b"<html>404</html>").startswith("is damaged, or holds more than")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    assert "expected parameters by name" in refusal("x.pth", (tmp_path / "list.pth").read_bytes())
    with pytest.raises(InputError, match=r"absent\.pth: there is no such weight file"):
        read_weights(tmp_path / "absent.pth")


@pytest.mark.parametrize(
    ("freeze", "batch_norm", "fixed"),
    [
        ((), "trained", ()),
        (("layer1", "conv1"), "trained", ("layer1.", "conv1.")),
        (("conv1.0",), "trained", ("conv1.0.",)),
        ((), "frozen", ("norm",)),
        (("layer2",), "frozen", ("layer2.", "norm")),
    ],
)
def test_what_is_held_still_is_bit_equal_after_a_step(
    images: Tensor, freeze: tuple[str, ...], batch_norm: Any, fixed: tuple[str, ...]
) -> None:
    model = randomised(build(SLIM, output_stride=16))
    recipe = BackboneRecipe(output_stride=16, freeze=freeze, batch_norm=batch_norm)
    norms = {n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    model.train()
    hold_still(model, recipe)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    conv5(model, images).square().mean().backward()
    optimizer.step()
    for name, value in model.state_dict().items():
        in_norm = name.rpartition(".")[0] in norms
        still = name.startswith(fixed) or ("norm" in fixed and in_norm)
        assert torch.equal(before[name], value) == still, name


def test_train_undoes_hold_still() -> None:
    model = build(SLIM)
    hold_still(model, BackboneRecipe(output_stride=32, batch_norm="frozen"))
    assert not model.get_submodule("bn1").training
    assert model.get_submodule("layer1").training
    model.train()
    assert model.get_submodule("bn1").training, "why it is called after every train()"


def test_a_prefix_that_fits_nothing_is_refused() -> None:
    recipe = BackboneRecipe(output_stride=16, freeze=("layer1", "lay"), batch_norm="frozen")
    with pytest.raises(InputError, match="freeze: no parameter of the model begins with 'lay'"):
        hold_still(build(SLIM), recipe)


@pytest.mark.parametrize("mean", [(0.485, 0.456, 0.406), (0.5, 0.5, 0.5)])
def test_normalise_equals_torchvision(images: Tensor, mean: tuple[float, ...]) -> None:
    std = (0.229, 0.224, 0.3)
    model: Any = SimpleNamespace(pretrained_cfg={"mean": mean, "std": std})
    scaled = reference.to_dtype(images, torch.float32, scale=True)
    expected = reference.normalize(scaled, list(mean), list(std))
    assert torch.allclose(normalise(images, model), expected, atol=1e-6)


def test_bf16_is_close_and_comes_back_as_fp32(file: Path, images: Tensor) -> None:
    model = build(SLIM, output_stride=16).eval()
    load_backbone(model, file)
    with torch.no_grad():
        exact, half = (conv5(model, images, precision) for precision in ("fp32", "bf16"))
    assert half.dtype == torch.float32
    error = ((half - exact).norm() / exact.norm()).item()
    assert 1e-5 < error < 0.02, "0 would mean that autocast is off"


@pytest.mark.parametrize(
    ("name", "arguments", "stride", "message"),
    [
        ("resnet81", {}, 32, "backbone.name: timm has no model 'resnet81'; did you mean 'resnet"),
        ("resnet18.nosuch", {}, 32, r"Invalid pretrained tag \(nosuch\)"),
        ("resnet18", {"foo": 1}, 32, "unexpected keyword argument 'foo'"),
        ("resnet18", {"num_classes": 9}, 32, "multiple values for keyword argument"),
        ("resnet18", {"act_layer": "foo"}, 32, "arguments {'act_layer': 'foo'} .*'foo'"),
        ("vit_tiny_patch16_224", {}, 16, "stride 16 cannot be built"),
    ],
)
def test_a_backbone_that_cannot_be_built_is_explained(
    name: str, arguments: dict[str, Any], stride: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build(BackboneChoice(name=name, arguments=arguments), output_stride=stride)


def test_a_users_file_is_imported_once_and_checked(tmp_path: Path) -> None:
    user = tmp_path / "mine.py"
    with pytest.raises(InputError, match=r"mine\.py does not exist"):
        register(BackboneChoice(name="mine_of_test", file=user))
    user.write_text("")
    with pytest.raises(InputError, match=r"'mine_of_test' and .*mine\.py does not register it"):
        register(BackboneChoice(name="mine_of_test", file=user))
    user.write_text(
        "from timm.models import register_model, resnet\n"
        "print('imported')\n"
        "@register_model\n"
        "def mine_of_test(pretrained=False, **arguments):\n"
        "    return resnet.resnet10t(**arguments)\n"
    )
    choice = BackboneChoice(name="mine_of_test", file=user, arguments=SLIM.arguments)
    assert build(choice).state_dict().keys() == build(SLIM).state_dict().keys()
    user.unlink()
    register(choice)
    elsewhere = tmp_path / "other" / "mine.py"
    with pytest.raises(InputError, match=r"timm has a model 'mine_of_test' without .*mine\.py"):
        register(BackboneChoice(name="mine_of_test", file=elsewhere))


def test_a_file_does_not_replace_a_model_of_timm(tmp_path: Path) -> None:
    user = tmp_path / "stock.py"
    user.write_text(
        "from timm.models import register_model, resnet\n"
        "@register_model\n"
        "def resnet18(pretrained=False, **arguments):\n"
        "    return resnet.resnet10t(**arguments)\n"
    )
    expected = r"timm has a model 'resnet18' without .*stock\.py, which would be ignored; give"
    for _ in range(2):
        with pytest.raises(InputError, match=expected):
            build(BackboneChoice(name="resnet18", file=user))


def test_the_example_of_a_users_backbone_leaves_timm_as_it_is(leaky: BackboneChoice) -> None:
    model: Any = build(leaky, classes=5, output_stride=16)
    assert model.pretrained_cfg["mean"] == (0.485, 0.456, 0.406)
    assert model.pretrained_cfg["std"] == (0.229, 0.224, 0.225)
    assert model.classifier.out_features == 5
    stock: Any = timm.create_model("mobilenetv1_100")
    assert stock.pretrained_cfg["mean"] == (0.5, 0.5, 0.5)
    pretrained = leaky.model_copy(update={"arguments": {"pretrained": True}})
    with pytest.raises(InputError, match="import them from a file"):
        build(pretrained)


@pytest.mark.real_data
def test_real_weights_load_and_their_maps_agree_across_strides(
    real_data: Path, leaky: BackboneChoice, images: Tensor
) -> None:
    path = real_data / WEIGHTS
    whole: Any = build(leaky, classes=1000)
    whole.load_state_dict(read_weights(path)[0], strict=True)
    maps = {}
    square = images[:, :, :32, :32].repeat(1, 1, 7, 7)
    for stride in (16, 32):
        model = build(leaky, output_stride=stride)
        assert load_backbone(model, path) == {}
        maps[stride] = features(model, square)
    assert maps[16].shape == (2, 256, 14, 14)
    assert maps[32].shape == (2, 256, 7, 7)
    assert torch.equal(maps[32], features(whole, square))
    assert torch.allclose(maps[16][..., ::2, ::2], maps[32], rtol=1e-4, atol=1e-4)


# Folders of Caltech-256's archive and ImageNet's number of the same thing.
THINGS = {"005.accordion": 401, "032.dalmatian": 251, "042.flamingo": 130, "090.strawberry": 949}


@pytest.mark.real_data
def test_a_real_classifier_names_real_images(real_data: Path, leaky: BackboneChoice) -> None:
    """Weights, normalisation and channel order are right together."""
    model: Any = build(leaky, classes=1000)
    model.load_state_dict(read_weights(real_data / WEIGHTS)[0])
    images: list[Tensor] = []
    labels: list[int] = []
    with tarfile.open(real_data / "mirror/256_ObjectCategories.tar") as archive:
        for member in archive:
            folder = Path(member.name).parent.name
            if folder in THINGS and labels.count(THINGS[folder]) < 10 and member.isfile():
                data = archive.extractfile(member)
                assert data is not None
                coded = torch.frombuffer(bytearray(data.read()), dtype=torch.uint8)
                image = decode_image(coded, mode=ImageReadMode.RGB)
                images.append(reference.center_crop(reference.resize(image, [256]), [224, 224]))
                labels.append(THINGS[folder])
    assert len(labels) == 40
    with torch.no_grad():
        logits = model.eval().forward_head(conv5(model, torch.stack(images)))
    right = (logits.argmax(1) == torch.tensor(labels)).double().mean()
    assert right > 0.6  # 1,000 classes: chance is 0.001
