from __future__ import annotations

import errno
import json
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from detransfer.backbone import build, save_backbone, transferable
from detransfer.console import InputError
from detransfer.study import BackboneChoice

SLIM = {"channels": [8, 8, 16, 16], "stem_width": 4}
Program = Callable[..., None]


@pytest.fixture
def program(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Run a program of scripts/ with some words."""

    def start(name: str, *words: object) -> None:
        path = repository / "scripts" / f"{name}.py"
        monkeypatch.setattr(sys, "argv", [path.name, *map(str, words)])
        runpy.run_path(str(path))["main"]()

    return start


def backbone(folder: Path, file: Path | None = None, **more: Any) -> tuple[Path, Any]:
    """A backbone file of random weights, and its network."""
    torch.manual_seed(4)
    arguments = {} if file else SLIM
    name = "mobilenetv1_025_leaky" if file else "resnet10t"
    choice = BackboneChoice(name=name, arguments=arguments, file=file)
    model: Any = build(choice).eval()
    header = {
        "architecture": choice.model_dump(mode="json"),
        "pretraining": "mine",
        "kind": "untrained",
        "source": {"seed": 4},
        **more,
    }
    save_backbone(folder / "backbone.safetensors", transferable(model, model.state_dict()), header)
    return folder / "backbone.safetensors", model


def same(model: Any, other: Any) -> None:
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(model.eval()(image), other(image))


def python_block(card: Path) -> str:
    found = re.search(r"```python\n(.*?)```", card.read_text(), re.S)
    assert found and len(found[1].splitlines()) == 3
    return found[1]


@pytest.mark.parametrize("registered", [False, True])
def test_its_three_lines_load_the_weights(
    repository: Path,
    program: Program,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    registered: bool,
) -> None:
    file = repository / "config/backbones/mobilenetv1_025_leaky.py" if registered else None
    path, model = backbone(tmp_path, file)
    program("model_card", "--backbone", path, "--output", tmp_path / "README.md")
    monkeypatch.chdir(tmp_path)
    if file:
        monkeypatch.syspath_prepend(file.parent)
    names: dict[str, Any] = {}
    exec(python_block(tmp_path / "README.md"), names)
    same(names["model"], model)


def test_it_knows_every_task_that_is_trained(repository: Path) -> None:
    known = runpy.run_path(str(repository / "scripts/model_card.py"))["TASKS"]
    programs = [path.read_text() for path in (repository / "scripts").glob("train_*.py")]
    trained = {task for text in programs for task in re.findall(r'"task": "(\w+)"', text)}
    assert trained >= {"classification", "detection", "labels"}
    assert trained - {"segmentation"} == set(known)


def test_it_names_terms_quality_and_recipe(program: Program, tmp_path: Path) -> None:
    training = {
        "kind": "trained",
        "task": "detection",
        "seed": 3,
        "source": {"start": "random"},
        "recipe": {"task": "detection"},
    }
    path, model = backbone(tmp_path, **training)
    metrics = {
        "run": {"task": "pretraining", "target": "coco", "dataset": "coco",
                "pretraining": "mine", "seed": 0},
        "metrics": [{"name": "AP@0.5", "value": 41.25, "unit": "%", "n": 5000}],
        "fit": {}, "comparability": {"evaluation_split": "val2017"}, "provenance": {},
    }  # fmt: skip
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    words = ["--backbone", path, "--output", tmp_path / "README.md", "--dataset", "coco"]
    words += ["--archives", "train2017.zip", "--metrics", tmp_path / "metrics.json"]
    program("model_card", *words)
    text = (tmp_path / "README.md").read_text()
    count = sum(value.numel() for value in model.parameters())
    for part in (f"| {count:,} |", "Lin et al., Microsoft COCO", "Flickr terms of use",
                 "41.2 % (5,000 images)", "task: detection", "| seed | 3 |"):  # fmt: skip
        assert part in text
    program("model_card", *words, "--rendered")
    assert "miniature world" in (tmp_path / "README.md").read_text()
    with pytest.raises(InputError, match="say on what with --dataset"):
        program("model_card", "--backbone", path, "--output", tmp_path / "README.md")


def test_a_classifiers_training_top_1_is_called_that(program: Program, tmp_path: Path) -> None:
    training = {"kind": "trained", "task": "classification", "seed": 0, "source": {}}
    path, _ = backbone(tmp_path, **training)
    fit, card = tmp_path / "fit.json", tmp_path / "README.md"
    words = ["--backbone", path, "--output", card, "--dataset", "mine", "--fit", fit]
    fit.write_text(json.dumps({"training_score": 81.25}))
    program("model_card", *words)
    assert "| training top-1 | 81.2 % |" in card.read_text()
    assert "which is no measure of others" in card.read_text()
    for content in ('{"training_score": null}', "{}", "no JSON"):
        fit.write_text(content)
        with pytest.raises(InputError, match=r"fit\.json: not a readable fit\.json of a class"):
            program("model_card", *words)


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ({"timm": "resnet101.tv_in1k", "version": "1.0"}, "resnet101.tv_in1k"),
        ({"url": "https://example.org/w.pth", "sha256": "ab"}, "https://example.org/w.pth"),
        ({"file": "mine.pth", "sha256": "ab"}, "mine.pth"),
    ],
)
def test_what_is_not_known_of_imported_weights_is_said(
    program: Program, tmp_path: Path, source: dict[str, str], place: str
) -> None:
    path, _ = backbone(tmp_path, kind="imported", source=source)
    program("model_card", "--backbone", path, "--output", tmp_path / "README.md")
    text = (tmp_path / "README.md").read_text()
    for row in ("training data", "licence"):
        assert f"| {row} | not stated: imported from `{place}` |" in text


def test_random_weights_have_no_data(program: Program, tmp_path: Path) -> None:
    path, _ = backbone(tmp_path)
    program("model_card", "--backbone", path, "--output", tmp_path / "README.md")
    text = (tmp_path / "README.md").read_text()
    assert "## Data" not in text and "## Quality" not in text


def test_timm_reads_the_folder_for_a_hub(program: Program, tmp_path: Path) -> None:
    path, model = backbone(tmp_path)
    program("model_card", "--backbone", path, "--output", tmp_path / "README.md")
    words = ["--backbone", path, "--card", tmp_path / "README.md", "--output", tmp_path / "hub"]
    program("export_hub", *words)
    same(timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True), model)
    assert json.loads((tmp_path / "hub/config.json").read_text())["pretrained_cfg"]["tag"] == "mine"
    assert 'load_file("model.safetensors")' in (tmp_path / "hub/README.md").read_text()
    with pytest.raises(InputError, match="is there already"):
        program("export_hub", *words)


def test_a_folder_for_a_hub_is_whole_or_not_there(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a full disk leaves half would be refused by the next run, as a folder that is there."""
    path, model = backbone(tmp_path)
    program("model_card", "--backbone", path, "--output", tmp_path / "README.md")
    words = ["--backbone", path, "--card", tmp_path / "README.md", "--output", tmp_path / "hub"]

    def full(source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr("shutil.copyfile", full)
        program("export_hub", *words)
    assert {each.name for each in tmp_path.iterdir()} == {path.name, "README.md"}
    program("export_hub", *words)
    same(timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True), model)
