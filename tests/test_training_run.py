from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn
from torchvision.io import write_jpeg

from detransfer.backbone import build, hold_still, read_weights, save_backbone
from detransfer.checkpoints import BEFORE, CHECKPOINT
from detransfer.console import InputError
from detransfer.data.index import Index, empty_objects, write_index
from detransfer.recipes.training import BackboneRecipe
from detransfer.study import BackboneChoice
from detransfer.takeover import LOCK
from detransfer.training import Fit
from detransfer.training_run import FINISHED, open_job, training_arguments

SLIM: dict[str, Any] = {
    "name": "resnet10t",
    "arguments": {"channels": [8, 16, 24, 32], "stem_width": 8},
}
FIT = Fit(4, 32, 1.5, 21.3, 100.0, "cpu", 1, {"loss": 0.5})


@dataclass(frozen=True)
class Place:
    """A data set, a start, a recipe and a program in one folder."""

    folder: Path

    def write_index(self, width: int = 20) -> None:
        images = pd.DataFrame(
            {
                "image_id": [0, 1, 2],
                "path": ["a.jpg", "b.jpg", "c.jpg"],
                "width": [width, 20, 20],
                "height": 20,
                "split": ["train", "val", "test"],
            }
        )
        classes = pd.DataFrame(
            {"class_id": [0], "name": ["cat"], "source_id": [""], "superclass": [""]}
        )
        index = Index(images, empty_objects(), classes, self.folder / "images")
        write_index(self.folder / "index", index)

    def write_start(self, seed: int = 0, header: dict[str, Any] | None = None) -> None:
        torch.manual_seed(seed)
        state = build(BackboneChoice.model_validate(SLIM)).state_dict()
        header = {"architecture": SLIM, "pretraining": "coco"} if header is None else header
        save_backbone(self.folder / "start.safetensors", state, header)

    def arguments(self, **changes: str) -> argparse.Namespace:
        values = {
            "--index": str(self.folder / "index"),
            "--start": str(self.folder / "start.safetensors"),
            "--recipe": str(self.folder / "recipe.yaml"),
            "--seed": "7",
            "--state": str(self.folder / "state"),
            "--output": str(self.folder / "output"),
            **{f"--{name}": value for name, value in changes.items()},
        }
        words = [word for pair in values.items() for word in pair]
        parser = training_arguments("Trains.")
        return parser.parse_args([*words, "--splits", "train", "val"])

    def state(self, **changes: str) -> str:
        """Return the name of the folder in which such a run keeps its state."""
        return open_job(self.arguments(**changes), self.folder / "program.py").run.state.name


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    place.write_index()
    place.write_start()
    (tmp_path / "recipe.yaml").write_text("a: 1\n")
    (tmp_path / "program.py").write_text("import detransfer.files\n")
    threads = torch.get_num_threads()
    yield place
    torch.set_num_threads(threads)


def test_a_job_knows_its_data_start_and_place(place: Place) -> None:
    job = open_job(place.arguments(), place.folder / "program.py")
    assert list(job.index.images["path"]) == ["a.jpg", "b.jpg"]
    assert job.architecture == BackboneChoice.model_validate(SLIM)
    assert job.run.seed == 7
    assert job.run.state.parent == place.folder / "state"
    identity = json.loads((job.run.state / "run.json").read_text())
    assert identity.pop("output") == str(place.folder / "output")
    assert {**identity, "run_digest": job.identity["run_digest"]} == job.identity
    assert job.run.state.name == job.identity["run_digest"][:16]


def test_the_same_run_finds_its_state_again_wherever_it_writes(place: Place) -> None:
    name = place.state()
    assert place.state() == name
    assert place.state(output=str(place.folder / "elsewhere")) == name
    assert place.state(threads="2") == name


def test_further_inputs_are_part_of_the_identity(place: Place) -> None:
    program, further = place.folder / "program.py", place.folder / "further"
    names = [place.state()]
    for content in ("a", "b"):
        further.write_text(content)
        names.append(open_job(place.arguments(), program, [further]).run.state.name)
    assert len(set(names)) == 3
    further.unlink()
    with pytest.raises(InputError, match="further: there is no such file"):
        open_job(place.arguments(), program, [further])


def test_whatever_changes_the_weights_changes_the_folder(place: Place) -> None:
    names = [place.state(), place.state(seed="8")]
    (place.folder / "recipe.yaml").write_text("a: 2\n")
    names.append(place.state())
    place.write_index(width=21)
    names.append(place.state())
    place.write_start(seed=1)
    names.append(place.state())
    place.write_start(seed=1, header={"architecture": SLIM, "from": "elsewhere"})
    names.append(place.state())
    (place.folder / "program.py").write_text("import detransfer.files  # edited\n")
    names.append(place.state())
    (place.folder / "program.py").write_text("import detransfer.backbone\n")
    names.append(place.state())
    assert len(set(names)) == len(names)


def test_an_edited_backbone_file_is_another_run(place: Place) -> None:
    file = place.folder / "mine.py"
    code = (
        "from timm.models import register_model, resnet\n"
        "@register_model\n"
        "def mine_of_run(pretrained=False, **arguments):\n"
        "    return resnet.resnet10t(**arguments)\n"
    )
    file.write_text(code)
    place.write_start(header={"architecture": {**SLIM, "name": "mine_of_run", "file": str(file)}})
    with pytest.raises(InputError, match=f"--architecture {file}"):
        place.state()
    before = place.state(architecture=str(file))
    file.write_text(code + "# edited\n")
    assert place.state(architecture=str(file)) != before


def test_a_start_without_architecture_is_refused(place: Place) -> None:
    place.write_start(header={})
    expected = r"start\.safetensors: its header does not say which network it is; make it with"
    with pytest.raises(InputError, match=expected):
        place.state()
    place.write_start(header={"architecture": {"nmae": "x"}})
    with pytest.raises(InputError, match=r"start\.safetensors: key 'name' is missing"):
        place.state()
    place.write_start(header={"architecture": {"name": "resnet81"}})
    with pytest.raises(InputError, match="timm has no model 'resnet81'"):
        place.state()


def test_the_backbone_starts_from_the_file_and_is_held_still(place: Place) -> None:
    job = open_job(place.arguments(), place.folder / "program.py")
    recipe = BackboneRecipe(output_stride=16, freeze=("layer1",), batch_norm="frozen")
    model = job.backbone(5, recipe)
    start, _ = read_weights(place.folder / "start.safetensors")
    own = model.state_dict()
    assert sorted(own.keys() - start.keys()) == ["fc.bias", "fc.weight"]
    assert all(torch.equal(own[name], value) for name, value in start.items())
    assert own["fc.weight"].shape[0] == 5
    assert not model.get_parameter("layer1.0.conv1.weight").requires_grad
    assert not model.get_parameter("layer4.0.bn1.weight").requires_grad
    assert model.get_parameter("layer4.0.conv1.weight").requires_grad


UNTRAINED = {"architecture": SLIM, "kind": "untrained"}


def silent(model: nn.Module) -> list[str]:
    """Return the layers of the last stage's first block that a loss teaches nothing."""
    model.train()
    hold_still(model, BackboneRecipe(output_stride=16, freeze=("conv1",), batch_norm="frozen"))
    network: Any = model
    network.forward_features(torch.randn(2, 3, 64, 64)).square().sum().backward()
    layers = [f"layer4.0.conv{number}.weight" for number in (1, 2)]
    return [name for name in layers if not model.get_parameter(name).grad.abs().max() > 0]  # type: ignore[union-attr]


def test_what_is_frozen_of_an_untrained_network_fits_the_images(place: Place) -> None:
    (place.folder / "images").mkdir()
    for name in ("a", "b"):
        noise = torch.randint(0, 256, (3, 20, 20), dtype=torch.uint8)
        write_jpeg(noise, str(place.folder / f"images/{name}.jpg"))
    place.write_start(header=UNTRAINED)
    start, _ = read_weights(place.folder / "start.safetensors")
    plain = build(BackboneChoice.model_validate(SLIM))
    plain.load_state_dict(start)
    assert silent(plain) == ["layer4.0.conv1.weight", "layer4.0.conv2.weight"]
    for recipe in (
        BackboneRecipe(output_stride=16, batch_norm="frozen"),
        BackboneRecipe(output_stride=16, freeze=("layer1",), batch_norm="trained"),
    ):
        model = open_job(place.arguments(), place.folder / "program.py").backbone(0, recipe)
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        assert {norm.momentum for norm in norms} == {0.1}
        assert all(norm.running_mean.abs().max() > 0 for norm in norms)  # type: ignore[union-attr]
        assert not model.get_submodule("layer1.0.bn1").training
        # A scale that is to learn starts where timm starts it.
        awake = recipe.batch_norm == "frozen"
        assert bool(model.get_parameter("layer4.0.bn2.weight").all()) == awake
        assert (silent(model) == []) == awake


def test_an_untrained_network_of_which_all_learns_starts_as_it_is(place: Place) -> None:
    place.write_start(header=UNTRAINED)
    start, _ = read_weights(place.folder / "start.safetensors")
    recipe = BackboneRecipe(output_stride=16, batch_norm="trained")
    model = open_job(place.arguments(), place.folder / "program.py").backbone(0, recipe)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in start.items())


def test_new_layers_depend_on_the_seed_alone(place: Place) -> None:
    recipe = BackboneRecipe(output_stride=32, batch_norm="trained")
    heads = []
    for seed in ("1", "1", "2"):
        torch.rand(3)
        job = open_job(place.arguments(seed=seed), place.folder / "program.py")
        heads.append(job.backbone(5, recipe).get_parameter("fc.weight"))
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_what_a_control_does_to_the_images_is_part_of_the_identity(place: Place) -> None:
    def change(index: Index) -> Index:
        return replace(index, images=index.images.assign(width=index.images["width"] + 1))

    plain = open_job(place.arguments(), place.folder / "program.py")
    changed = open_job(place.arguments(), place.folder / "program.py", change=change)
    assert plain.run.state != changed.run.state
    assert plain.identity["data_digest"] != changed.identity["data_digest"]
    assert changed.index.images["width"].tolist() == [21, 21]


def test_finish_leaves_the_model_its_origin_and_one_checkpoint(place: Place) -> None:
    job = open_job(place.arguments(), place.folder / "program.py")
    model = job.backbone(5, BackboneRecipe(output_stride=32, batch_norm="trained"))
    for name in (CHECKPOINT, BEFORE):
        (job.run.state / name).write_bytes(b"of the last steps")
    job.finish(model, {"task": "classification", "classes": ["a"]}, FIT, 93.5)
    state, header = read_weights(job.output / "model.safetensors")
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert header == {
        "architecture": {**SLIM, "file": None},
        "pretraining": "coco",
        "task": "classification",
        "classes": ["a"],
        **job.identity,
    }
    fit = json.loads((job.output / "fit.json").read_text())
    assert (fit["training_score"], fit["losses"], fit["world_size"]) == (93.5, {"loss": 0.5}, 1)
    assert sorted(file.name for file in job.run.state.iterdir()) == [
        CHECKPOINT, FINISHED, "run.json", LOCK,
    ]  # fmt: skip
    open_job(place.arguments(), place.folder / "program.py")
    assert not (job.run.state / FINISHED).exists()  # it is to be written again


def test_both_checkpoints_stay_until_the_results_are_written(place: Place) -> None:
    job = open_job(place.arguments(), place.folder / "program.py")
    model = job.backbone(0, BackboneRecipe(output_stride=32, batch_norm="trained"))
    for name in (CHECKPOINT, BEFORE):
        (job.run.state / name).touch()
    with pytest.raises(ValueError, match="JSON"):
        job.finish(model, {}, FIT, float("nan"))
    assert (job.run.state / CHECKPOINT).exists() and (job.run.state / BEFORE).exists()
    assert not (job.run.state / FINISHED).exists()


def test_a_forgotten_argument_is_named(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        training_arguments("Trains.").parse_args(["--index", "x"])
    assert "--splits, --start, --recipe, --seed, --state, --output" in capsys.readouterr().err
