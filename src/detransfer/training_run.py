"""What every training program shares: its arguments, its identity, and the files it leaves.

A run is identified by everything that determines its weights: the recipe, the rows of its index,
the starting weights, the seed and the code. The digest of these names the folder of its training
state, so that a changed recipe never resumes from an old checkpoint.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detransfer.backbone import (
    build,
    fit_backbone,
    hold_still,
    read_weights,
    register,
    save_backbone,
)
from detransfer.checkpoints import drop_the_one_before
from detransfer.console import InputError
from detransfer.data.index import Index, read_index
from detransfer.data.views import CentralViews
from detransfer.device_faults import device_faults
from detransfer.files import digest, sha256, write_json
from detransfer.imports import code_digest, imported_files
from detransfer.ranks import first, join, world_size
from detransfer.recipes.training import BackboneRecipe
from detransfer.strict import validate
from detransfer.study import BackboneChoice
from detransfer.takeover import take_over
from detransfer.training import Fit, Run
from detransfer.untrained import BATCH, estimate_statistics, wake
from detransfer.weights import read_header

FINISHED = "finished"  # a file in the folder of a state whose outcome is written


@dataclass(frozen=True)
class TrainingJob:
    """One training as its program sees it: data, start, where it runs, and its identity."""

    index: Index
    architecture: BackboneChoice
    start: Path
    run: Run
    output: Path
    identity: dict[str, Any]

    def backbone(self, classes: int, recipe: BackboneRecipe) -> nn.Module:
        """Return the timm model with the starting weights loaded and the recipe's parts frozen.

        What a recipe freezes of an untrained network first gets the images' statistics.
        """
        model = build(self.architecture, classes, recipe.output_stride, recipe.deformable_groups)
        state, header = read_weights(self.start)
        fit_backbone(model, state, str(self.start))
        if header.get("kind") == "untrained" and (recipe.freeze or recipe.batch_norm == "frozen"):
            config: Any = model.pretrained_cfg
            views = CentralViews(self.index, *[config["input_size"][-1]] * 2)
            if recipe.batch_norm == "frozen":
                wake(model)
            remedy = f"{BATCH} images were on it at once: use a GPU with more memory"
            with device_faults(self.run.device, f"statistics of {self.start}", remedy):
                estimate_statistics(model, views, self.run.device)
        hold_still(model, recipe)
        return model

    def finish(
        self, model: nn.Module, header: dict[str, Any], fit: Fit, score: float | None
    ) -> None:
        """Write model.safetensors and fit.json, and :meth:`settle`.

        ``header`` holds what rebuilds the network around the backbone; ``score`` is the training
        score of the task in percent, or None where a later program measures it. Of several
        processes the first one writes.
        """
        if not first():
            return
        content = {
            "architecture": self.architecture.model_dump(mode="json"),
            "pretraining": read_header(self.start).get("pretraining"),
            **header,
            **self.identity,
        }
        save_backbone(self.output / "model.safetensors", model.state_dict(), content)
        write_json(self.output / "fit.json", {**asdict(fit), "training_score": score})
        self.settle()

    def settle(self) -> None:
        """Mark the state as that of a run whose outcome is written; its last checkpoint stays.

        A workflow that was killed before it has seen the outcome deletes it, and the next job of
        the run then writes it again from there. Of several processes the first one does this.
        """
        if first():
            drop_the_one_before(self.run.state)
            (self.run.state / FINISHED).touch()


def training_arguments(description: str) -> argparse.ArgumentParser:
    """Return the command line of a training program."""
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add("--index", type=Path, required=True, help="folder of the data set's index")
    add("--splits", nargs="+", required=True, help="splits to train on")
    add("--start", type=Path, required=True, help="backbone.safetensors to start from")
    add("--recipe", type=Path, required=True, help="recipe of this training")
    add("--seed", type=int, required=True, help="seed of order, augmentation and new layers")
    add("--state", type=Path, required=True, help="folder for checkpoints and logs of this run")
    add("--output", type=Path, required=True, help="folder for model.safetensors and fit.json")
    add("--threads", type=int, default=1, help="processor cores to use")
    add_architecture(parser)
    return parser


def open_job(
    arguments: argparse.Namespace,
    program: Path,
    inputs: Sequence[Path] = (),
    change: Callable[[Index], Index] | None = None,
) -> TrainingJob:
    """Prepare a training program: threads, device, seed, data and the run's identity.

    ``inputs``: further files that determine the weights, as the index and the start do;
    ``change``: what a control does to the images trained on. Raises InputError when a file is
    missing, and when the start does not say which network it belongs to.
    """
    device, workers = use_machine(arguments.threads)
    torch.manual_seed(arguments.seed)
    index = read_index(arguments.index).split(*arguments.splits)
    if change is not None:
        index = change(index)
    header = read_header(arguments.start)
    architecture = architecture_of(header, arguments.start, arguments.architecture)
    register(architecture)
    code = imported_files(program, Path(__file__).parent)
    if architecture.file:
        code.append(architecture.file)
    identity = {
        "recipe_digest": sha256(arguments.recipe),
        "data_digest": index.digest(),
        "start_digest": sha256(arguments.start),
        "seed": arguments.seed,
        "code_digest": code_digest(code),
    }
    for path in inputs:
        if not path.is_file():
            raise InputError(f"{path}: there is no such file")
    if inputs:
        identity["inputs_digest"] = digest(sha256(path) for path in inputs)
    run_digest = digest(f"{name}={value}" for name, value in sorted(identity.items()))
    state = arguments.state / run_digest[:16]
    if first():
        write_json(state / "run.json", {**identity, "output": str(arguments.output)})
        take_over(state)
        (state / FINISHED).unlink(missing_ok=True)
    return TrainingJob(
        index=index,
        architecture=architecture,
        start=arguments.start,
        run=Run(state, arguments.seed, device, workers),
        output=arguments.output,
        identity={**identity, "run_digest": run_digest},
    )


def add_architecture(parser: argparse.ArgumentParser) -> None:
    """Add the option of every program that builds the network of a weight file."""
    parser.add_argument(
        "--architecture",
        type=Path,
        nargs="?",  # a rule gives its input, which is none where timm has the network
        metavar="FILE",
        help="Python file that defines the network of the weights, where timm does not (backbone."
        "file of the study); it is run, and no other that the weights may name",
    )


def architecture_of(header: dict[str, Any], path: Path, own: Path | None) -> BackboneChoice:
    """Return the network that a weight file's header names, defined by the ``own`` file if needed.

    The header comes with the weights, from anywhere, and what it names would be run: so it only
    says that a file is needed, and the user which. A folder that is trusted as a whole would not
    do, since downloads and unpacked archives lie in the checkout too. Raises InputError for a
    header without a network, and where the file is not given or has another name.
    """
    if "architecture" not in header:
        raise InputError(
            f"{path}: its header does not say which network it is; make it with "
            "scripts/import_backbone.py or scripts/export_backbone.py"
        )
    choice = validate(BackboneChoice, header["architecture"], str(path))
    if choice.file is None:
        return choice
    if own is None or own.name != choice.file.name:
        given = "" if own is None else f", not by {own}"
        raise InputError(
            f"{path}: its network is defined by {choice.file}{given}; that file would be run: read "
            f"it, and give it where you trust it: --architecture {choice.file}"
        )
    return choice.model_copy(update={"file": own})


def use_machine(threads: int) -> tuple[torch.device, int]:
    """Join the program's other processes, if any, and use a share of the processor's threads.

    Returns the process's own GPU, or the processor where there is none, and how many processes
    are to load data: on a GPU the cores do that, on a processor the network itself needs them.
    """
    device = join()
    share = max(1, threads // world_size())
    torch.set_num_threads(share)
    return device, share if device.type == "cuda" else 0
