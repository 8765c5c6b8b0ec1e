from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from sklearn.metrics import accuracy_score
from torch import nn

from detransfer import training
from detransfer.backbone import build, read_weights, save_backbone
from detransfer.batches import Epoch
from detransfer.classification.finetune import load_classifier
from detransfer.console import InputError
from detransfer.data.index import Index, empty_objects, read_index, write_index
from detransfer.report.metrics import read_metrics
from detransfer.study import BackboneChoice
from detransfer.training import Fit

TINY = BackboneChoice(name="resnet10t", arguments={"channels": [8, 8, 16, 16], "stem_width": 4})
COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}
RECIPE = {
    "task": "classification",
    "training": {
        "epochs": 8,
        "batch_size": 8,
        "optimizer": "adamw",
        "learning_rate": 0.01,
        "weight_decay": 0.0,
        "schedule": "cosine",
        "log_every": 4,
    },
    "backbone": {"output_stride": 32, "batch_norm": "trained"},
    "images": {"size": 32, "resize": 36, "minimum_area": 0.3},
}


def write_world(folder: Path) -> Path:
    """Noisy images of three colours: 8 to train on and 4 to test on of each."""
    rng = np.random.default_rng(0)
    rows = []
    for class_id, (name, colour) in enumerate(COLOURS.items()):
        for number in range(12):
            path = f"{name}{number}.png"
            pixels = np.clip(colour + rng.normal(0, 25, (40, 48, 3)), 0, 255).astype(np.uint8)
            (folder / "images").mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / "images" / path)
            split = "train" if number < 8 else "test"
            rows.append((len(rows), path, 48, 40, split, class_id))
    images = pd.DataFrame(
        rows, columns=["image_id", "path", "width", "height", "split", "class_id"]
    )
    classes = pd.DataFrame(
        {"class_id": range(3), "name": list(COLOURS), "source_id": "", "superclass": ""}
    )
    index = folder / "index"
    shuffled = images.sample(frac=1, random_state=0)
    write_index(index, Index(shuffled, empty_objects(), classes, folder / "images"))
    return index


class Programs:
    """The two programs, over one world."""

    def __init__(self, repository: Path, folder: Path) -> None:
        self.folder = folder
        self.index = write_world(folder)
        self.scripts = repository / "scripts"
        self.recipe = folder / "recipe.yaml"
        self.recipe.write_text(yaml.safe_dump(RECIPE))
        self.start = folder / "backbone.safetensors"
        torch.manual_seed(0)
        header = {"architecture": TINY.model_dump(mode="json"), "pretraining": "scratch"}
        save_backbone(self.start, build(TINY).state_dict(), header)

    def call(self, program: str, **options: object) -> None:
        self.start_program(runpy.run_path(str(self.scripts / f"{program}.py")), program, options)

    def start_program(
        self, loaded: dict[str, Any], program: str, options: dict[str, object]
    ) -> None:
        words = [f"--{name}={value}" for name, value in options.items() if value is not True]
        words += [f"--{name}" for name, value in options.items() if value is True]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [f"{program}.py", *words])
            loaded["main"]()

    def training_options(self, output: str, seed: int) -> dict[str, object]:
        return {
            "index": self.index,
            "splits": "train",
            "start": self.start,
            "recipe": self.recipe,
            "seed": seed,
            "state": self.folder / f"state_{output}",
            "output": self.folder / output,
        }

    def train(self, output: str, seed: int = 0) -> Path:
        self.call("train_classifier", **self.training_options(output, seed))
        return self.folder / output

    def first_example(self, seed: int, epoch: int) -> torch.Tensor:
        """Return the image that the program would train on first, were the order not shuffled."""
        loaded = runpy.run_path(str(self.scripts / "train_classifier.py"))
        seen = []

        def train(model: nn.Module, examples: Epoch, *rest: object) -> Fit:
            seen.append(examples(epoch)[0].image)
            return Fit(1, 1, 1.0, 1.0, 1.0, "cpu", 1, {})

        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(loaded["main"].__globals__, "train", train)
            options = self.training_options("unused", seed)
            self.start_program(loaded, "train_classifier", options)
        return seen[0]

    def taught(self, *flags: str) -> tuple[list[int], str]:
        """Return the classes that the program trains on, in order, and the digest of its data."""
        loaded = runpy.run_path(str(self.scripts / "train_classifier.py"))
        seen: list[int] = []

        def train(model: nn.Module, examples: Epoch, *rest: object) -> Fit:
            images = examples(0)
            seen.extend(int(images[row].target) for row in range(len(images)))  # type: ignore[arg-type]
            return Fit(1, 1, 1.0, 1.0, 1.0, "cpu", 1, {})

        words = [f"--{name}={value}" for name, value in self.training_options("taught", 3).items()]
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(loaded["main"].__globals__, "train", train)
            patch.setattr(sys, "argv", ["train_classifier.py", *words, *flags])
            loaded["main"]()
        header = read_weights(self.folder / "taught" / "model.safetensors")[1]
        return seen, header["data_digest"]

    def classify(self, run: Path, index: Path | None = None) -> Path:
        self.call(
            "classify",
            model=run / "model.safetensors",
            fit=run / "fit.json",
            index=index or self.index,
            split="test",
            pretraining="scratch",
            target="pixels",
            dataset="colours",
            seed=0,
            predictions=run / "predictions.parquet",
            output=run / "metrics.json",
        )
        return run / "metrics.json"


@pytest.fixture(scope="module")
def programs(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return Programs(repository, tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def trained(programs: Programs) -> Path:
    run = programs.train("run")
    programs.classify(run)
    return run


def test_training_learns_what_is_easy(trained: Path, programs: Programs) -> None:
    fit = json.loads((trained / "fit.json").read_text())
    assert fit["steps"] == 24 and fit["training_score"] == 100.0
    log = pd.concat(pd.read_csv(p) for p in programs.folder.glob("state_run/*/log.csv"))
    losses = log["loss_class"].tolist()
    assert len(losses) == 6 and losses[-1] < 0.5 * losses[0]
    assert fit["losses"]["loss_class"] == pytest.approx(losses[-1], rel=1e-4)


def test_the_model_file_says_what_rebuilds_it(trained: Path, programs: Programs) -> None:
    state, header = read_weights(trained / "model.safetensors")
    assert {name.split(".")[0] for name in state} == {"backbone"}
    assert state["backbone.fc.weight"].shape[0] == 3
    assert (header["task"], header["classes"]) == ("classification", list(COLOURS))
    assert header["recipe"]["images"]["size"] == 32 and header["pretraining"] == "scratch"
    assert header["data_digest"] == read_index(programs.index).split("train").digest()


def test_equal_runs_give_equal_models_and_the_seed_matters(
    trained: Path, programs: Programs
) -> None:
    first = (trained / "model.safetensors").read_bytes()
    assert (programs.train("again") / "model.safetensors").read_bytes() == first
    assert (programs.train("other", seed=1) / "model.safetensors").read_bytes() != first


def test_each_epoch_and_seed_sees_other_crops(programs: Programs) -> None:
    first = programs.first_example(seed=0, epoch=0)
    assert torch.equal(programs.first_example(seed=0, epoch=0), first)
    assert not torch.equal(programs.first_example(seed=0, epoch=1), first)
    assert not torch.equal(programs.first_example(seed=1, epoch=0), first)


def test_the_scores_are_those_of_the_predictions(trained: Path, programs: Programs) -> None:
    metrics = read_metrics(trained / "metrics.json")
    table = pd.read_parquet(trained / "predictions.parquet")
    truth = read_index(programs.index).split("test").images
    assert table.dtypes.astype(str).to_dict() == {
        "image_id": "int32",
        "class_id": "int32",
        "predicted": "int32",
        "probability": "float32",
    }
    assert table["image_id"].tolist() == truth["image_id"].tolist()
    assert table["class_id"].tolist() == truth["class_id"].tolist()
    top1 = metrics.metric("top1")
    assert top1.value == 100 * accuracy_score(table["class_id"], table["predicted"]) == 100.0
    assert (top1.n, top1.floor, top1.ceiling) == (12, pytest.approx(100 / 3), 100.0)
    assert metrics.metric("mean_class_accuracy").value == 100.0
    assert (table["probability"] > 0.5).all()


def test_the_metrics_say_where_they_come_from(trained: Path, programs: Programs) -> None:
    metrics = read_metrics(trained / "metrics.json")
    header = read_weights(trained / "model.safetensors")[1]
    assert str(metrics.run) == "classification/pixels/scratch/seed0"
    assert metrics.run.dataset == "colours"
    assert metrics.fit == json.loads((trained / "fit.json").read_text())
    assert metrics.comparability["training_data"] == header["data_digest"]
    assert metrics.comparability["recipe"] == header["recipe_digest"]
    test = read_index(programs.index).split("test")
    assert metrics.comparability["evaluation_data"] == test.digest()
    assert metrics.provenance["start_digest"] == header["start_digest"]
    assert "seed" not in metrics.comparability


def test_other_classes_are_refused(trained: Path, programs: Programs, tmp_path: Path) -> None:
    index = read_index(programs.index)
    names = ["red", "blue", "green"]
    swapped = Index(index.images, index.objects, index.classes.assign(name=names), index.root)
    write_index(tmp_path / "swapped", swapped)
    with pytest.raises(InputError, match="class 1 is 'green' there and 'blue' here"):
        programs.classify(trained, tmp_path / "swapped")
    classes = pd.concat([index.classes, index.classes.tail(1).assign(class_id=3, name="grey")])
    write_index(tmp_path / "more", Index(index.images, index.objects, classes, index.root))
    with pytest.raises(InputError, match="class 3 is 'none' there and 'grey' here"):
        programs.classify(trained, tmp_path / "more")


def test_a_classifier_needs_nothing_but_its_file(trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere.safetensors"
    copy.write_bytes((trained / "model.safetensors").read_bytes())
    model, _ = load_classifier(copy)
    colours = torch.tensor(list(COLOURS.values()), dtype=torch.uint8)
    plain = colours[:, :, None, None].expand(3, 3, 32, 32).contiguous()
    with torch.inference_mode():
        assert model(plain).argmax(1).tolist() == [0, 1, 2]


def test_labels_can_be_permuted_as_a_control(programs: Programs) -> None:
    plain, digest = programs.taught()
    permuted, other = programs.taught("--shuffle-labels")
    assert sorted(plain) == sorted(permuted) and plain != permuted
    assert digest != other  # and so its numbers stand in no table beside the others
    assert programs.taught("--shuffle-labels") == (permuted, other)


class Trained(Exception):
    """A step of training was taken."""


def no_step(*_: Any) -> None:
    raise Trained


def test_outputs_that_are_lost_are_written_again_without_a_step(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Snakemake loses them that was killed before it saw them; another run trains."""
    run = programs.train("lost")
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    for file in run.iterdir():
        file.unlink()
    monkeypatch.setattr(training, "_step", no_step)
    programs.train("lost")
    assert (run / "model.safetensors").read_bytes() == before["model.safetensors"]
    first, again = (
        json.loads(text) for text in (before["fit.json"], (run / "fit.json").read_text())
    )
    assert again.pop("peak_memory_mb") >= first.pop("peak_memory_mb") and again == first
    with pytest.raises(Trained):
        programs.train("lost", seed=1)
    with pytest.raises(Trained):
        programs.call(
            "train_classifier", **programs.training_options("lost", 0), **{"shuffle-labels": True}
        )
    shorter = programs.folder / "shorter.yaml"
    shorter.write_text(yaml.safe_dump({**RECIPE, "label_smoothing": 0.1}))
    with pytest.raises(Trained):
        programs.call(
            "train_classifier", **{**programs.training_options("lost", 0), "recipe": shorter}
        )


def test_a_gpu_without_memory_for_the_score_is_named_and_costs_no_step(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    loaded = runpy.run_path(str(programs.scripts / "train_classifier.py"))
    options = programs.training_options("unscored", 0)
    with monkeypatch.context() as patch:
        patch.setitem(loaded["main"].__globals__, "predict", full)
        expected = (
            r"^scoring .*unscored: the cpu of .* ran out of memory: .* 64 images .*images\.size"
        )
        with pytest.raises(InputError, match=expected):
            programs.start_program(loaded, "train_classifier", options)
    monkeypatch.setattr(training, "_step", no_step)
    assert (programs.train("unscored") / "fit.json").exists()
