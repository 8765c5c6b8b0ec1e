from __future__ import annotations

import hashlib
import json
import pickle
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
from torch import nn

from detransfer.backbone import build, conv5, load_backbone, read_weights
from detransfer.console import InputError
from detransfer.study import BackboneChoice

SLIM = {"channels": [8, 8, 16, 16], "stem_width": 4}
TINY = BackboneChoice(name="resnet10t", arguments=SLIM)
Import = Callable[..., Path]


@pytest.fixture
def import_backbone(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Import:
    """Run the program with further options; return what it wrote."""
    main = runpy.run_path(str(repository / "scripts" / "import_backbone.py"))["main"]

    def start(*options: object, name: str = "resnet10t", arguments: Any = SLIM) -> Path:
        output = tmp_path / "out" / "backbone.safetensors"
        words = ["import_backbone.py", "--name", name, "--arguments", json.dumps(arguments)]
        words += ["--pretraining", "mine", "--output", str(output), *map(str, options)]
        monkeypatch.setattr(sys, "argv", words)
        main()
        return output

    return start


def network(seed: int = 5, classes: int = 7) -> nn.Module:
    torch.manual_seed(seed)
    return build(TINY, classes=classes).eval()


def same_features(path: Path, expected: nn.Module) -> None:
    model = build(TINY).eval()
    load_backbone(model, path)
    images = torch.randint(0, 256, (2, 3, 48, 32), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(conv5(model, images), conv5(expected, images))


def test_random_weights_depend_on_the_seed_alone(import_backbone: Import) -> None:
    first = import_backbone("--untrained", "--seed", 5).read_bytes()
    torch.manual_seed(77)
    path = import_backbone("--untrained", "--seed", 5)
    assert path.read_bytes() == first
    same_features(path, network(5, classes=0))
    other = import_backbone("--untrained", "--seed", 6)
    assert read_weights(other)[1]["weights_digest"] != json.loads(_header(first))["weights_digest"]


def _header(content: bytes) -> str:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length])["__metadata__"]["detransfer"]


def test_the_header_says_what_it_is(import_backbone: Import) -> None:
    state, header = read_weights(import_backbone("--untrained", "--seed", 5))
    assert header["architecture"] == {"name": "resnet10t", "arguments": SLIM, "file": None}
    assert (header["pretraining"], header["kind"]) == ("mine", "untrained")
    assert header["source"] == {"seed": 5}
    assert not any(name.startswith("fc.") for name in state)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_plain_checkpoint_becomes_a_backbone(
    import_backbone: Import, tmp_path: Path, wrapped: bool
) -> None:
    model = network()
    state = model.state_dict()
    torch.save({"state_dict": state} if wrapped else state, tmp_path / "published.pth")
    path = import_backbone("--weights", tmp_path / "published.pth")
    same_features(path, model)
    header = read_weights(path)[1]
    checksum = hashlib.sha256((tmp_path / "published.pth").read_bytes()).hexdigest()
    assert header["source"] == {"file": "published.pth", "sha256": checksum}
    assert header["kind"] == "imported"


def test_a_download_is_checked_and_leaves_nothing_behind(
    import_backbone: Import, tmp_path: Path
) -> None:
    model = network()
    torch.save(model.state_dict(), tmp_path / "published.pth")
    url = (tmp_path / "published.pth").as_uri()
    checksum = hashlib.sha256((tmp_path / "published.pth").read_bytes()).hexdigest()
    with pytest.raises(InputError, match="wrong sha256"):
        import_backbone("--url", url, "--sha256", "0" * 64)
    path = import_backbone("--url", url, "--sha256", checksum)
    same_features(path, model)
    assert list(path.parent.iterdir()) == [path]
    assert read_weights(path)[1]["source"] == {"url": url, "sha256": checksum}


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_a_checkpoint_with_code_is_not_opened(import_backbone: Import, tmp_path: Path) -> None:
    torch.save({"conv1.weight": Payload(tmp_path / "ran")}, tmp_path / "published.pth")
    with pytest.raises(InputError, match=r"published\.pth: .*holds more than tensors .*run code"):
        import_backbone("--weights", tmp_path / "published.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with pytest.raises(InputError, match=r"old\.pth"):
        import_backbone("--weights", tmp_path / "old.pth")
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_network_are_refused(import_backbone: Import, tmp_path: Path) -> None:
    wide = BackboneChoice(name="resnet10t", arguments={**SLIM, "channels": [8, 8, 16, 32]})
    torch.save(build(wide).state_dict(), tmp_path / "wide.pth")
    with pytest.raises(InputError, match=r"another architecture .*of another shape \(first: lay"):
        import_backbone("--weights", tmp_path / "wide.pth")
    state = network().state_dict()
    state.pop("layer3.0.conv1.weight")
    torch.save({**state, "surplus": torch.zeros(1)}, tmp_path / "part.pth")
    with pytest.raises(InputError, match=r"1 missing \(first: layer3\.0\.conv1.*first: surplus"):
        import_backbone("--weights", tmp_path / "part.pth")


def test_a_missing_file_is_named(import_backbone: Import, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.pth: there is no such weight file"):
        import_backbone("--weights", tmp_path / "absent.pth")


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("resnet10t", r"bare name .* give one of its tags: resnet10t\.c3_in1k"),
        ("resnet10t.c3_in1", r"no such weights; did you mean 'resnet10t\.c3_in1k'"),
        ("resnet10tt.c3_in1k", r"no such weights; did you mean 'resnet10t\.c3_in1k'"),
    ],
)
def test_a_tag_must_be_whole_and_known(import_backbone: Import, tag: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        import_backbone("--timm", tag)


def test_without_network_timm_weights_have_another_way_in(
    import_backbone: Import, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        InputError, match=r"could not be downloaded .* give the file with --weights"
    ):
        import_backbone("--timm", "resnet10t.c3_in1k", arguments={})


def timm_that_downloads(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let timm answer ``pretrained=True`` with ``model``."""
    original = timm.create_model

    def create(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        return model if pretrained else original(name, **options)

    monkeypatch.setattr(timm, "create_model", create)


def test_timm_weights_become_a_backbone(
    import_backbone: Import, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network()
    timm_that_downloads(model, monkeypatch)
    path = import_backbone("--timm", "resnet10t.c3_in1k")
    same_features(path, model)
    assert read_weights(path)[1]["source"]["timm"] == "resnet10t.c3_in1k"


def test_timm_weights_for_other_images_are_refused(
    import_backbone: Import, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network()
    model.pretrained_cfg = {**model.pretrained_cfg, "mean": (0.5, 0.5, 0.5)}
    timm_that_downloads(model, monkeypatch)
    with pytest.raises(InputError, match=r"normalised by .*0\.5.*name the network 'resnet10t\.c3"):
        import_backbone("--timm", "resnet10t.c3_in1k")


def test_a_network_of_ones_own(import_backbone: Import, tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(
        "from timm.models import register_model\n"
        "from timm.models.resnet import resnet10t\n"
        "@register_model\n"
        "def resnet_of_mine(pretrained=False, **options):\n"
        "    return resnet10t(channels=(8, 8, 16, 16), stem_width=4, **options)\n"
    )
    options = ("--untrained", "--seed", 5, "--file", own)
    path = import_backbone(*options, name="resnet_of_mine", arguments={})
    same_features(path, network(5, classes=0))
    assert read_weights(path)[1]["architecture"]["file"] == str(own)


@pytest.mark.parametrize("arguments", ['{"stem_width"', "[1]"])
def test_arguments_that_are_no_json_object(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str
) -> None:
    main = runpy.run_path(str(repository / "scripts" / "import_backbone.py"))["main"]
    words = ["import_backbone.py", "--name", "resnet10t", "--arguments", arguments, "--untrained"]
    words += ["--seed", "0", "--pretraining", "mine", "--output", str(tmp_path / "x.safetensors")]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(InputError, match="arguments"):
        main()


@pytest.mark.parametrize(
    "options",
    [
        ["--untrained"],
        ["--seed", "1", "--weights", "x.pth"],
        ["--url", "file:///x.pth"],
        ["--untrained", "--seed", "1", "--timm", "resnet10t.c3_in1k"],
        [],
    ],
)
def test_options_that_contradict_each_other(
    import_backbone: Import, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        import_backbone(*options)
    assert "usage" in capsys.readouterr().err


@pytest.mark.real_data
def test_real_weights_for_a_network_of_ones_own(
    import_backbone: Import, tmp_path: Path, real_data: Path
) -> None:
    own = tmp_path / "mobile.py"
    own.write_text(
        "from functools import partial\n"
        "from timm.models import register_model\n"
        "from timm.models.efficientnet import _gen_mobilenet_v1\n"
        "from torch import nn\n"
        "@register_model\n"
        "def users_own_leaky(pretrained=False, **options):\n"
        "    act = partial(nn.LeakyReLU, negative_slope=0.1)\n"
        "    return _gen_mobilenet_v1('mobilenetv1_100', 0.25, act_layer=act, **options)\n"
    )
    weights = real_data / "weights" / "mobilenetv1_025_leaky.imagenet.safetensors"
    options = ("--weights", weights, "--file", own)
    path = import_backbone(*options, name="users_own_leaky", arguments={})
    given, made = read_weights(weights)[0], read_weights(path)[0]
    assert made.keys() == {name for name in given if not name.startswith("classifier.")}
    assert all(torch.equal(made[name], given[name]) for name in made)


def torchvision_detector() -> nn.Module:
    """A detector as torchvision publishes its weights: frozen normalisation, no batch counts."""
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops import FrozenBatchNorm2d

    torch.manual_seed(3)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d
    )
    return FasterRCNN(backbone, num_classes=91).eval()


def test_the_backbone_of_a_published_detector_is_taken_out_of_it(
    import_backbone: Import, tmp_path: Path
) -> None:
    detector: Any = torchvision_detector()
    torch.save(detector.state_dict(), tmp_path / "detector.pth")
    checksum = hashlib.sha256((tmp_path / "detector.pth").read_bytes()).hexdigest()
    url = (tmp_path / "detector.pth").as_uri()
    words = ("--url", url, "--sha256", checksum[:8], "--prefix", "backbone.body.")
    path = import_backbone(*words, name="resnet50", arguments={})
    model: Any = build(BackboneChoice(name="resnet50")).eval()
    load_backbone(model, path)
    image = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        expected = detector.backbone.body(image)["3"]
        assert expected.std() > 1e-3
        torch.testing.assert_close(model.forward_features(image), expected)
    with pytest.raises(InputError, match=r"no parameter begins with 'body\.'.*backbone\.body"):
        import_backbone(*words[:-1], "body.", name="resnet50", arguments={})
    with pytest.raises(InputError, match="wrong sha256"):
        import_backbone("--url", url, "--sha256", "0" * 8, name="resnet50", arguments={})
