"""The search of learning rate and weight decay: what it sees, what it chooses, what follows."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from detransfer.backbone import read_weights
from detransfer.classification.accuracy import held_out
from detransfer.console import InputError
from detransfer.data.index import Index, read_index, write_index
from detransfer.training import Diverged
from detransfer.training_run import FINISHED
from tests.scripts.test_train_classifier import RECIPE, Programs

SEARCH = {"learning_rates": [1e-7, 0.01], "weight_decays": [0.0, 0.1], "epochs": 5}


@pytest.fixture
def programs(repository: Path, tmp_path: Path) -> Programs:
    made = Programs(repository, tmp_path)
    made.recipe.write_text(yaml.safe_dump({**RECIPE, "search": SEARCH}))
    return made


def search(programs: Programs, output: str = "search") -> Path:
    programs.call("search_classifier", **programs.training_options(output, 0))
    return programs.folder / output / "search.csv"


def test_every_point_gets_the_same_budget_and_the_best_is_trained(programs: Programs) -> None:
    outcome = search(programs)
    table = pd.read_csv(outcome)
    pairs = table[["learning_rate", "weight_decay"]].to_numpy().tolist()
    assert pairs == [[1e-7, 0.0], [1e-7, 0.1], [0.01, 0.0], [0.01, 0.1]]
    assert (table["images"] == 6).all()  # two of eight of each class, rounded
    best = int(table["top1"].argmax())
    assert table["chosen"].tolist() == [row == best for row in range(4)] and best == 2
    state = next((programs.folder / "state_search").iterdir())
    steps = [pd.read_csv(file)["step"].max() for file in state.glob("rate*/log.csv")]
    assert len(steps) == 4 and len(set(steps)) == 1  # of 18 images, five times, by eight
    assert not list(state.glob("rate*/checkpoint.pt")) and (state / FINISHED).exists()

    options = {**programs.training_options("run", 0), "search": outcome}
    programs.call("train_classifier", **options)
    _, header = read_weights(programs.folder / "run" / "model.safetensors")
    training = header["recipe"]["training"]
    assert (training["learning_rate"], training["weight_decay"]) == (0.01, 0.0)
    assert training["epochs"] == RECIPE["training"]["epochs"] and "inputs_digest" in header
    assert json.loads((programs.folder / "run/fit.json").read_text())["steps"] == 24


def test_a_search_goes_on_where_it_ended(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = programs.scripts / "search_classifier.py"
    loaded = runpy.run_path(str(program))
    train, trained = loaded["train"], []

    def counting(*arguments: Any) -> Any:
        trained.append(arguments)
        if len(trained) == 3:
            raise KeyboardInterrupt
        return train(*arguments)

    options = programs.training_options("search", 0)
    monkeypatch.setitem(loaded["main"].__globals__, "train", counting)
    with pytest.raises(KeyboardInterrupt):
        programs.start_program(loaded, "search_classifier", options)
    programs.start_program(loaded, "search_classifier", options)
    assert len(trained) == 5  # two before, the third twice, the fourth
    again = search(programs, "again")
    first = (programs.folder / "search" / "search.csv").read_bytes()
    assert again.read_bytes() == first


def test_a_point_that_diverges_is_recorded_and_not_chosen(
    programs: Programs, caplog: pytest.LogCaptureFixture
) -> None:
    diverging = {"learning_rates": [1e30, 0.01], "weight_decays": [0.0], "epochs": 5}
    programs.recipe.write_text(yaml.safe_dump({**RECIPE, "search": diverging}))
    table = pd.read_csv(search(programs))
    assert table["learning_rate"].tolist() == [1e30, 0.01]
    assert table["top1"].isna().tolist() == [True, False]
    assert table["chosen"].tolist() == [False, True]
    assert "rate1e+30_decay0: diverged, so it is not chosen (step " in caplog.text
    # Begun again it knows the outcome, and neither trains nor fails.
    state = next((programs.folder / "state_search").iterdir())
    log = (state / "rate1e+30_decay0" / "log.csv").stat().st_mtime_ns
    pd.testing.assert_frame_equal(pd.read_csv(search(programs)), table)
    assert (state / "rate1e+30_decay0" / "log.csv").stat().st_mtime_ns == log
    outcome = programs.folder / "search" / "search.csv"
    programs.call("train_classifier", **programs.training_options("run", 0), search=outcome)
    _, header = read_weights(programs.folder / "run" / "model.safetensors")
    assert header["recipe"]["training"]["learning_rate"] == 0.01


def test_a_checkpoint_from_before_it_diverged_is_dropped(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = runpy.run_path(str(programs.scripts / "search_classifier.py"))
    train, tried = loaded["train"], []

    def diverging(*arguments: Any) -> Any:
        fit = train(*arguments)
        tried.append(arguments)
        if len(tried) == 2:
            raise Diverged("step 3: the loss is not finite")
        return fit

    monkeypatch.setitem(loaded["main"].__globals__, "train", diverging)
    programs.start_program(loaded, "search_classifier", programs.training_options("search", 0))
    table = pd.read_csv(programs.folder / "search" / "search.csv")
    assert len(tried) == 4 and table["top1"].isna().tolist() == [False, True, False, False]
    assert not list((programs.folder / "state_search").rglob("checkpoint*.pt"))


def test_a_search_that_diverges_everywhere_says_what_to_lower(programs: Programs) -> None:
    diverging = {"learning_rates": [1e30], "weight_decays": [0.0, 0.1], "epochs": 5}
    programs.recipe.write_text(yaml.safe_dump({**RECIPE, "search": diverging}))
    for _ in range(2):  # also when it is begun again
        with pytest.raises(
            InputError, match=r"recipe\.yaml: .*all 2 points.*search\.learning_rates"
        ):
            search(programs)
    assert not (programs.folder / "search" / "search.csv").exists()


def test_other_faults_of_a_training_end_the_search(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = runpy.run_path(str(programs.scripts / "search_classifier.py"))

    def failing(*arguments: Any) -> Any:
        raise InputError("the disk is full")

    monkeypatch.setitem(loaded["main"].__globals__, "train", failing)
    with pytest.raises(InputError, match="the disk is full"):
        programs.start_program(loaded, "search_classifier", programs.training_options("search", 0))


def test_a_gpu_without_memory_for_a_score_is_named_with_the_pair(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    loaded = runpy.run_path(str(programs.scripts / "search_classifier.py"))
    monkeypatch.setitem(loaded["main"].__globals__, "predict", full)
    with pytest.raises(InputError, match=r"^scoring .*/rate1e-07_decay0: .*images\.size"):
        programs.start_program(loaded, "search_classifier", programs.training_options("search", 0))
    (state,) = (programs.folder / "state_search").iterdir()
    assert len(list(state.glob("rate*"))) == 4  # as many as scripts/status.py counts
    assert not (state / FINISHED).exists()


def test_no_test_image_chooses_a_hyper_parameter(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images that are learnt from and judged by are the training split's, each in one part."""
    loaded = runpy.run_path(str(programs.scripts / "search_classifier.py"))
    seen: list[tuple[set[str], set[str]]] = []

    def recording(recipe: Any, job: Any, learnt: Any, held: Any) -> float:
        seen.append(({p.name for p in learnt.paths}, {p.name for p in held.paths}))
        return 50.0

    monkeypatch.setitem(loaded["main"].__globals__, "score_point", recording)
    options = programs.training_options("search", 0)
    programs.start_program(loaded, "search_classifier", options)
    images = read_index(programs.index).split("train").images
    learnt, held = seen[0]
    assert seen == [(learnt, held)] * 4
    assert learnt | held == set(images["path"]) and not learnt & held
    assert held == set(images["path"][held_out(images["class_id"].to_numpy(), 0)])
    # Were every test image another, the search would be the same to the last byte.
    index = read_index(programs.index)
    other = index.images.assign(
        class_id=np.where(index.images["split"] == "test", 0, index.images["class_id"])
    )
    write_index(programs.index, Index(other, index.objects, index.classes, index.root))
    seen.clear()
    programs.start_program(loaded, "search_classifier", options)
    assert seen == [(learnt, held)] * 4


def test_a_training_wants_the_outcome_of_its_own_search(programs: Programs) -> None:
    options = programs.training_options("run", 0)
    with pytest.raises(InputError, match="searches its learning rate; give --search, the table"):
        programs.call("train_classifier", **options)
    outcome = programs.folder / "search.csv"
    with pytest.raises(InputError, match=r"search\.csv: there is no such file"):
        programs.call("train_classifier", **options, search=outcome)
    columns = ["learning_rate", "weight_decay", "top1", "images", "chosen"]
    pd.DataFrame([[0.5, 0.0, 9.0, 6, True]], columns=columns).to_csv(outcome, index=False)
    with pytest.raises(InputError, match=r"is the outcome of another search than .*recipe.yaml"):
        programs.call("train_classifier", **options, search=outcome)
    outcome.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="not a readable table of a search"):
        programs.call("train_classifier", **options, search=outcome)
    programs.recipe.write_text(yaml.safe_dump(RECIPE))
    with pytest.raises(InputError, match=r"has no search, so --search .* has no use"):
        programs.call("train_classifier", **options, search=outcome)
    with pytest.raises(InputError, match="has no search, so there is nothing to choose"):
        search(programs)
