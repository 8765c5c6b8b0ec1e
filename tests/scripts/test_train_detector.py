from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import NoReturn, cast

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from detransfer.backbone import read_weights, save_backbone
from detransfer.batches import Epoch
from detransfer.checkpoints import CHECKPOINT
from detransfer.console import InputError
from detransfer.data.index import BOX, Index, read_index, write_index
from detransfer.detection.heads import Rfcn3000Head
from detransfer.detection.predict import load_detector
from detransfer.detection.proposals import write_proposals
from detransfer.detection.train import ChipDataset
from detransfer.recipes.detection import DetectionRecipe
from detransfer.study import BackboneChoice
from tests.detection.rectangles import (
    COLOURS,
    TINY,
    call,
    detection_recipe,
    training_words,
    write_recipe,
    write_rectangles,
    write_start,
)

MODEL = "model.safetensors"
PROGRAM = "scripts/train_detector.py"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rectangles") / "world"
    write_rectangles(folder)
    write_start(folder / "backbone.safetensors")
    recipe = detection_recipe(training={"epochs": 8, "checkpoint_minutes": 1e-6})
    write_recipe(folder / "recipe.yaml", recipe)
    return folder


def words(world: Path, output: str, seed: int = 0) -> list[str]:
    start, recipe = world / "backbone.safetensors", world / "recipe.yaml"
    return training_words(world, output, start, recipe, seed)


@pytest.fixture(scope="module")
def trained(repository: Path, world: Path) -> Path:
    call(repository / PROGRAM, words(world, "run"))
    return world / "run"


def test_a_training_leaves_a_model_and_its_fit(trained: Path, world: Path) -> None:
    assert sorted(path.name for path in trained.iterdir()) == ["fit.json", MODEL]
    fit = json.loads((trained / "fit.json").read_text())
    assert fit["steps"] >= 8 and fit["images"] == 8 * fit["steps"]
    assert fit["training_score"] is None and fit["device"] == "cpu"
    assert set(fit["losses"]) == {
        "loss",
        "loss_objectness",
        "loss_rpn_box_reg",
        "loss_classifier",
        "loss_box_reg",
    }
    assert [file.name for file in world.glob("state_run/*/*.pt")] == [CHECKPOINT]


def test_the_model_file_says_what_rebuilds_it(trained: Path, world: Path) -> None:
    state, header = read_weights(trained / MODEL)
    assert {name.split(".")[0] for name in state} == {"backbone", "rpn", "head"}
    assert (header["task"], header["classes"]) == ("detection", list(COLOURS))
    assert header["recipe"]["chips"]["size"] == 64 and header["pretraining"] == "scratch"
    assert header["data_digest"] == read_index(world / "index").split("train").digest()
    detector, classes = load_detector(trained / MODEL)
    assert classes == list(COLOURS) and detector.recipe.model_dump(mode="json") == header["recipe"]


def test_the_start_is_where_the_training_starts(repository: Path, world: Path) -> None:
    """With a frozen backbone the model holds the start, whatever the seed."""
    recipe = detection_recipe(
        training={"epochs": 0.3},
        backbone={"freeze": ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"]},
    )
    start = world / "backbone.safetensors"
    path = write_recipe(world / "frozen.yaml", recipe)
    call(repository / PROGRAM, training_words(world, "frozen", start, path, seed=5))
    given, _ = read_weights(start)
    state, header = read_weights(world / "frozen" / MODEL)
    for name, value in given.items():
        if not name.startswith("fc."):
            assert torch.equal(state[f"backbone.{name}"], value), name
    assert header["seed"] == 5


def test_equal_runs_give_equal_bytes_and_the_seed_matters(
    repository: Path, trained: Path, world: Path
) -> None:
    first = (trained / MODEL).read_bytes()
    call(repository / PROGRAM, words(world, "again"))
    assert (world / "again" / MODEL).read_bytes() == first
    call(repository / PROGRAM, words(world, "other", seed=1))
    assert (world / "other" / MODEL).read_bytes() != first


def test_each_epoch_and_seed_cuts_other_chips(repository: Path, world: Path) -> None:
    def seen(seed: int) -> list[list[list[int]]]:
        windows: list[list[list[int]]] = []

        def train(model: nn.Module, examples: Epoch, *rest: object) -> NoReturn:
            for epoch in (0, 1, 0):
                windows.append(cast(ChipDataset, examples(epoch)).table.windows.tolist())
            raise InputError("enough")

        loaded = runpy.run_path(str(repository / PROGRAM))
        with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError, match="enough"):
            patch.setattr(sys, "argv", [PROGRAM, *words(world, "chips", seed)])
            patch.setitem(loaded["main"].__globals__, "train", train)
            loaded["main"]()
        return windows

    first, second, again = seen(0)
    assert first == again and first != second
    assert seen(1)[0] != first


def test_weights_of_another_architecture_are_refused(
    repository: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The header names one network and the parameters are another's."""
    other = BackboneChoice(name="resnet10t", arguments={**TINY.arguments, "stem_width": 16})
    start = write_start(world / "other.safetensors", other)
    state, header = read_weights(start)
    save_backbone(start, state, {**header, "architecture": TINY.model_dump(mode="json")})
    arguments = training_words(world, "refused", start, world / "recipe.yaml")
    with pytest.raises(SystemExit) as ended:
        call(repository / PROGRAM, arguments, "__main__")
    message = capsys.readouterr().err
    assert ended.value.code == 2 and "Traceback" not in message
    assert "other.safetensors: these weights are of another architecture" in message
    assert "17 of another shape (first: bn1.bias)" in message
    assert not (world / "refused").exists()


def test_weights_that_do_not_say_what_they_are_are_refused(repository: Path, world: Path) -> None:
    state, _ = read_weights(world / "backbone.safetensors")
    nameless = world / "nameless.safetensors"
    save_backbone(nameless, state, {})
    with pytest.raises(InputError, match=r"nameless\.safetensors: its header does not say which"):
        call(
            repository / PROGRAM,
            training_words(world, "refused", nameless, world / "recipe.yaml"),
        )


def test_a_damaged_image_is_named_without_a_traceback(
    repository: Path, tmp_path: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rectangles(tmp_path / "own")
    image = tmp_path / "own" / "images" / "5.png"
    image.write_bytes(image.read_bytes()[:400])
    arguments = training_words(
        tmp_path / "own", "run", world / "backbone.safetensors", world / "recipe.yaml"
    )
    with pytest.raises(SystemExit) as ended:
        call(repository / PROGRAM, arguments, "__main__")
    message = capsys.readouterr().err
    assert ended.value.code == 2 and "Traceback" not in message
    assert f"error: {image}: the image is damaged or truncated" in message
    assert not (tmp_path / "own" / "run").exists()


def test_images_without_objects_are_no_training_set(repository: Path, tmp_path: Path) -> None:
    index = write_rectangles(tmp_path / "world")
    bare = Index(index.images, index.objects.head(0), index.classes, index.root)
    write_index(tmp_path / "world" / "index", bare)
    start = write_start(tmp_path / "backbone.safetensors")
    recipe = write_recipe(tmp_path / "recipe.yaml", detection_recipe())
    with pytest.raises(InputError, match="the training set is empty"):
        call(repository / PROGRAM, training_words(tmp_path / "world", "run", start, recipe))


NEGATIVE = {"negatives": {"minimum_proposals": [3, 3]}}


def test_negative_chips_are_trained_on_and_part_of_the_run(repository: Path, world: Path) -> None:
    index = read_index(world / "index").split("train")
    recipe = detection_recipe(training={"epochs": 1}, chips=NEGATIVE)
    start = world / "backbone.safetensors"
    arguments = training_words(world, "with", start, write_recipe(world / "with.yaml", recipe))
    headers = []
    for seed in (0, 1):
        path = world / f"proposals{seed}.parquet"
        write_proposals(path, scattered(index, seed), index.digest())
        call(repository / PROGRAM, [*arguments, f"--proposals={path}"])
        headers.append(read_weights(world / "with" / MODEL)[1])
    assert headers[0]["recipe_digest"] == headers[1]["recipe_digest"]
    assert headers[0]["inputs_digest"] != headers[1]["inputs_digest"]
    assert headers[0]["run_digest"] != headers[1]["run_digest"]
    fit = json.loads((world / "with" / "fit.json").read_text())
    only = training_words(
        world, "without", start, write_recipe(world / "a.yaml", detection_recipe())
    )
    call(repository / PROGRAM, only)
    assert fit["steps"] > json.loads((world / "without" / "fit.json").read_text())["steps"] + 2


def scattered(index: Index, seed: int) -> pd.DataFrame:
    """Return sixty small proposals in each image of an index."""
    rng, parts = np.random.default_rng(seed), []
    for row in index.images.itertuples():
        corner = rng.random((60, 2)) * [row.width - 12, row.height - 12]
        values = np.hstack([corner, corner + 12, rng.random((60, 1))])
        parts.append(pd.DataFrame(values, columns=[*BOX, "score"]).assign(image_id=row.image_id))
    return pd.concat(parts)


def test_negative_chips_and_proposals_go_together(repository: Path, world: Path) -> None:
    index = read_index(world / "index")
    path = world / "whole.parquet"
    write_proposals(path, scattered(index, 0), index.digest())
    given = [f"--proposals={path}"]
    with pytest.raises(InputError, match=r"chips\.negatives and --proposals go together"):
        call(repository / PROGRAM, [*words(world, "refused"), *given])
    recipe = write_recipe(world / "negative.yaml", detection_recipe(chips=NEGATIVE))
    arguments = training_words(world, "refused", world / "backbone.safetensors", recipe)
    with pytest.raises(InputError, match=r"chips\.negatives and --proposals go together"):
        call(repository / PROGRAM, arguments)
    with pytest.raises(InputError, match=r"whole\.parquet: proposals of other images"):
        call(repository / PROGRAM, [*arguments, *given])
    with pytest.raises(InputError, match=r"missing\.parquet: there is no such file"):
        call(repository / PROGRAM, [*arguments, f"--proposals={world / 'missing.parquet'}"])
    assert not (world / "refused").exists()


def grouped(world: Path, groups: int = 2) -> list[str]:
    """The command line of a training whose recipe groups the three classes."""
    head = {"kind": "rfcn3000", "superclasses": groups, "projection": 8, "roi_size": 3}
    content = detection_recipe(training={"epochs": 0.3}).model_dump(mode="json")
    recipe = DetectionRecipe.model_validate({**content, "head": {**head, "hidden": 8}})
    path = write_recipe(world / f"grouped{groups}.yaml", recipe)
    return training_words(world, f"grouped{groups}", world / "backbone.safetensors", path)


def test_superclasses_reach_the_head_and_are_part_of_the_run(repository: Path, world: Path) -> None:
    table = world / "superclasses.csv"
    digests = []
    for groups in ([0, 1, 0], [1, 0, 1]):
        pd.DataFrame({"class_id": range(3), "superclass": groups}).to_csv(table, index=False)
        call(repository / PROGRAM, [*grouped(world), f"--superclasses={table}"])
        state, header = read_weights(world / "grouped2" / MODEL)
        assert state["head.superclass"].tolist() == groups
        digests.append(header["run_digest"])
    assert digests[0] != digests[1]
    detector, _ = load_detector(world / "grouped2" / MODEL)
    assert cast(Rfcn3000Head, detector.head).superclass.tolist() == [1, 0, 1]


def test_superclasses_are_given_exactly_where_the_recipe_groups(
    repository: Path, world: Path
) -> None:
    table = world / "other.csv"

    def refused(arguments: list[str], message: str) -> None:
        with pytest.raises(InputError, match=message):
            call(repository / PROGRAM, arguments)

    refused(grouped(world), r"head\.superclasses is 2; give --superclasses, the CSV that")
    pd.DataFrame({"class_id": range(3), "superclass": [0, 1, 0]}).to_csv(table, index=False)
    refused([*grouped(world, 1), f"--superclasses={table}"], "groups no classes, so --superclass")
    given = [*grouped(world), f"--superclasses={table}"]
    pd.DataFrame({"class_id": range(2), "superclass": [0, 1]}).to_csv(table, index=False)
    refused(given, "3 numbers from 0 to 1 are needed, one a class")
    pd.DataFrame({"class_id": [1, 0, 2], "superclass": [0, 1, 0]}).to_csv(table, index=False)
    refused(given, "class ids are not 0, 1, 2, ... in order; cluster them again")
    table.write_text("a\n1\n")
    refused(given, "not a readable table of super-classes")


def test_objects_that_fit_no_chip_are_told_before_training(repository: Path, world: Path) -> None:
    recipe = detection_recipe(chips={"scales": [{"factor": 6, "valid_range": [0, None]}]})
    path = write_recipe(world / "ranges.yaml", recipe)
    arguments = training_words(world, "refused", world / "backbone.safetensors", path)
    for program in (PROGRAM, "scripts/train_labels.py"):
        with pytest.raises(InputError, match=r"no chip in 8 images has .*\(valid_range 0 to inf,"):
            call(repository / program, arguments)
    assert not (world / "refused").exists()


def test_a_scale_of_inference_that_memory_does_not_hold_is_refused_before_training(
    repository: Path, world: Path, tmp_path: Path
) -> None:
    sound = repository / "config/recipes/demo/evaluate_voc_detection.yaml"
    assert "factor: 2.0" in sound.read_text()
    recipe = tmp_path / "evaluate.yaml"
    recipe.write_text(sound.read_text().replace("factor: 2.0", "factor: 4000"))
    with pytest.raises(InputError, match=r"at scales\[0\], more than 8000; give that scale as a"):
        call(repository / PROGRAM, [*words(world, "refused"), "--inference", str(recipe)])
    assert not (world / "refused").exists()
