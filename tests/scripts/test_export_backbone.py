from __future__ import annotations

import hashlib
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from detransfer.backbone import build, conv5, load_backbone, read_weights, save_backbone
from detransfer.console import InputError
from detransfer.study import BackboneChoice

TINY = BackboneChoice(name="resnet10t", arguments={"channels": [8, 8, 16, 24], "stem_width": 4})
IDENTITY = {"recipe_digest": "r", "data_digest": "d", "start_digest": "s", "seed": 3}
Export = Callable[[Path], Path]


@pytest.fixture
def export_backbone(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Export:
    main = runpy.run_path(str(repository / "scripts" / "export_backbone.py"))["main"]

    def start(model: Path) -> Path:
        output = tmp_path / "backbone.safetensors"
        words = ["--model", str(model), "--pretraining", "mine", "--output", str(output)]
        monkeypatch.setattr(sys, "argv", ["export_backbone.py", *words])
        main()
        return output

    return start


@pytest.mark.parametrize(
    ("task", "classes", "head"),
    [("classification", 7, {}), ("detection", 0, {"rpn.conv.weight": torch.ones(4, 4)})],
)
def test_the_exported_backbone_computes_the_same(
    export_backbone: Export, tmp_path: Path, task: str, classes: int, head: dict[str, torch.Tensor]
) -> None:
    network = build(TINY, classes=classes, output_stride=16).eval()
    state = {f"backbone.{name}": value for name, value in network.state_dict().items()}
    header = {
        "architecture": TINY.model_dump(mode="json"),
        "task": task,
        "classes": ["a"] * 7,
        "recipe": {"output_stride": 16},
        "pretraining": "start",
        **IDENTITY,
    }
    save_backbone(tmp_path / "model.safetensors", {**state, **head}, header)
    path = export_backbone(tmp_path / "model.safetensors")
    again = build(TINY, classes=0, output_stride=16).eval()
    found = load_backbone(again, path)
    images = torch.randint(0, 256, (2, 3, 48, 32), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(conv5(again, images), conv5(network, images))
    assert read_weights(path)[0].keys() == build(TINY).state_dict().keys()
    assert (found["pretraining"], found["kind"], found["task"]) == ("mine", "trained", task)
    assert found["architecture"] == header["architecture"]
    assert IDENTITY.items() <= found.items() and "classes" not in found
    checksum = hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    assert found["source"] == {"start": "start", "model_digest": checksum}


def test_a_file_that_is_no_trained_model_is_refused(
    export_backbone: Export, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    state = build(TINY).state_dict()
    header = {"architecture": TINY.model_dump(mode="json")}
    save_backbone(path, state, header)
    with pytest.raises(InputError, match=r"model\.safetensors: holds no parameter below 'backb"):
        export_backbone(path)
    save_backbone(path, {f"backbone.{name}": value for name, value in state.items()}, {})
    with pytest.raises(InputError, match="does not say which network it is"):
        export_backbone(path)
    rest = [f"backbone.{name}" for name in state][1:]
    save_backbone(path, {name: torch.ones(1) for name in rest}, header)
    with pytest.raises(InputError, match="another architecture"):
        export_backbone(path)
