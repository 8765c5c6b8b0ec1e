"""What the programs that record features share: their arguments, and the folder they leave."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from detransfer.data.index import read_index
from detransfer.data.views import CentralViews
from detransfer.device_faults import device_faults
from detransfer.features.extract import record
from detransfer.files import digest, sha256
from detransfer.imports import code_digest, imported_files
from detransfer.locks import sole_writer
from detransfer.ranks import first, largest
from detransfer.recipes.classification import FeatureRecipe
from detransfer.training_log import device_name
from detransfer.training_run import add_architecture, architecture_of, use_machine
from detransfer.untrained import estimate_statistics

REMEDY = "Lower batch_size in the recipe of the features"


def recording_arguments(description: str) -> argparse.ArgumentParser:
    """Return the command line of a program that records features."""
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add("--weights", type=Path, required=True, help="backbone.safetensors or model.safetensors")
    add("--index", type=Path, required=True, help="folder of the data set's index")
    add("--splits", nargs="+", required=True, help="splits to learn from")
    add("--eval-split", help="split to evaluate on, recorded too")
    add("--recipe", type=Path, required=True, help="recipe of the features")
    add("--state", type=Path, required=True, help="folder for unfinished recordings")
    add("--output", type=Path, required=True, help="folder to write")
    add("--threads", type=int, default=1, help="processor cores to use")
    add_architecture(parser)
    return parser


def write_recording(
    arguments: argparse.Namespace,
    program: Path,
    recipe: FeatureRecipe,
    network: nn.Module,
    layers: Sequence[str],
    weights: dict[str, Any],
) -> None:
    """Record the layers of every image of the splits, and put them where they are to lie.

    ``weights`` is the header of the weight file. An untrained network gets the statistics of its
    batch normalisation from images to learn from, without their labels.
    """
    device, workers = use_machine(arguments.threads)
    index = read_index(arguments.index)
    splits = [*arguments.splits, *([arguments.eval_split] if arguments.eval_split else [])]
    part = index.split(*splits)
    architecture = architecture_of(weights, arguments.weights, arguments.architecture)
    code = imported_files(program, Path(__file__).parents[1])
    identity = {
        "index_digest": part.digest(),
        "weights_digest": sha256(arguments.weights),
        "code_digest": code_digest([*code, *([architecture.file] if architecture.file else [])]),
        "splits": splits,
        "recorded": list(layers),
        "view": recipe.model_dump(exclude={"task", "batch_size", "checkpoint_seconds"}),
    }
    state = arguments.state / digest([json.dumps(identity, sort_keys=True)])[:16]
    untrained = weights.get("kind") == "untrained"
    with sole_writer(state) if first() else contextlib.nullcontext():
        largest(0)  # all go on from the same row, also where the first process has waited
        with device_faults(device, f"features of {arguments.weights}", REMEDY):
            if untrained:
                learnt = CentralViews(index.split(*arguments.splits), recipe.size, recipe.resize)
                backbone: Any = network.backbone
                estimate_statistics(backbone, learnt, device, recipe.precision)
            views = CentralViews(part, recipe.size, recipe.resize)
            writer = record(network, views, recipe, state, device, workers)
        if not first():
            return
        header = {
            **identity,
            "pretraining": weights.get("pretraining"),
            "batch_norm": "estimated" if untrained else "stored",
            "device": device_name(device),
        }
        writer.finish(arguments.output, part.images, header)
