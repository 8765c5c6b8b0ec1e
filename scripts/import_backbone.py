"""Bring published or random weights into the form in which all else takes a backbone."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import timm
import torch
from timm.models import split_model_name_tag
from torch import Tensor, nn

from detransfer.backbone import build, fit_backbone, read_weights, save_backbone, transferable
from detransfer.console import InputError, run
from detransfer.files import sha256
from detransfer.strict import suggest, validate
from detransfer.study import BackboneChoice

DESCRIPTION = """\
Bring published or random weights into the form in which all else takes a backbone: a .safetensors
file under timm's parameter names, without a classifier, whose header says what it is. Weights that
do not fit the network to the last parameter are refused.
"""
UNCOUNTED = ".num_batches_tracked"
INPUT = ("mean", "std")  # what a network subtracts and divides by, in its timm configuration


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=DESCRIPTION)
    add = parser.add_argument
    add("--name", required=True, metavar="TIMM_NAME", help="network, by its timm name")
    add("--arguments", default="{}", metavar="JSON", help="further arguments of create_model")
    add("--file", type=Path, metavar="PY", help="Python file that registers the network")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--untrained", action="store_true", help="random weights, with --seed")
    source.add_argument("--weights", type=Path, help=".safetensors or weights-only .pth file")
    source.add_argument("--url", help="where to download such a file, with --sha256")
    source.add_argument("--timm", metavar="TAG", help="full timm tag, such as resnet101.tv_in1k")
    add("--seed", type=int, help="seed of the random weights")
    add("--sha256", metavar="HEX", help="checksum of the download, or its first digits")
    add("--prefix", default="", help="take what begins so, without it, and leave all else")
    add("--pretraining", required=True, metavar="NAME", help="name of this pre-training")
    add("--output", type=Path, required=True, help="backbone.safetensors to write")
    arguments = parser.parse_args()
    if arguments.untrained != (arguments.seed is not None):
        parser.error("--untrained and --seed come together")
    if (arguments.url is None) != (arguments.sha256 is None):
        parser.error("--url and --sha256 come together")
    return arguments


def chosen_network(arguments: argparse.Namespace) -> BackboneChoice:
    try:
        options = json.loads(arguments.arguments)
    except json.JSONDecodeError as error:
        raise InputError(f"--arguments: not JSON ({error}): {arguments.arguments}") from error
    choice = {"name": arguments.name, "arguments": options, "file": arguments.file}
    return validate(BackboneChoice, choice, "the command line")


def fill(model: nn.Module, arguments: argparse.Namespace) -> dict[str, Any]:
    """Load the weights that the command line names into the model; return where they are from."""
    if arguments.untrained:
        return {"seed": arguments.seed}
    if arguments.weights is not None:
        given, name = read_weights(arguments.weights)[0], str(arguments.weights)
        fit_backbone(model, below(arguments.prefix, given, model, name), name)
        return {"file": arguments.weights.name, "sha256": sha256(arguments.weights)}
    if arguments.url is not None:
        given, name = downloaded(arguments), arguments.url
        fit_backbone(model, below(arguments.prefix, given, model, name), name)
        return {"url": arguments.url, "sha256": arguments.sha256}
    fit_backbone(model, timm_weights(arguments.timm, model), arguments.timm)
    return {"timm": arguments.timm, "version": timm.__version__}


def below(
    prefix: str, given: dict[str, Tensor], model: nn.Module, source: str
) -> dict[str, Tensor]:
    """Return the parameters that begin with a prefix, without it; all for an empty one.

    Batch normalisations of a frozen kind (torchvision's detectors have it) count no batches: the
    model's own count, which changes no output, is put there.
    """
    if not prefix:
        return given
    chosen = {n.removeprefix(prefix): value for n, value in given.items() if n.startswith(prefix)}
    if not chosen:
        tops = sorted({".".join(name.split(".")[:2]) for name in given})
        raise InputError(
            f"{source}: no parameter begins with {prefix!r}; they begin with {', '.join(tops[:8])}"
        )
    counts = {n: value for n, value in model.state_dict().items() if n.endswith(UNCOUNTED)}
    return counts | chosen


def downloaded(arguments: argparse.Namespace) -> dict[str, Tensor]:
    """Return the parameters at a URL; a broken download is continued when started again."""
    from detransfer.data.download import fetch_url  # not needed, nor its imports, by other sources

    name = PurePosixPath(urlsplit(arguments.url).path).name or "weights"
    path = arguments.output.with_name(f".{name}")  # its ending tells the format
    try:
        fetch_url(arguments.url, arguments.sha256, path)
        return read_weights(path)[0]
    finally:
        path.unlink(missing_ok=True)


def timm_weights(tag: str, model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters behind a timm tag.

    Raises InputError for a bare name, an unknown tag, weights that cannot be had, and weights that
    were trained on another normalisation of the image than the model will apply.
    """
    name = split_model_name_tag(tag)[0]
    tags = timm.list_models(f"{name}.*", pretrained=True)
    if name == tag:
        raise InputError(
            f"--timm {tag}: a bare name stands for whatever recipe timm favours; give one of its "
            f"tags: {', '.join(tags) or 'none is published'}"
        )
    if tag not in tags:
        known = tags or timm.list_models(pretrained=True)
        raise InputError(f"--timm {tag}: timm has no such weights{suggest(tag, known)}")
    try:
        given = timm.create_model(tag, pretrained=True)
    except Exception as error:  # what fails below, from the hub to the socket, shares no base
        raise InputError(
            f"--timm {tag}: the weights could not be downloaded ({type(error).__name__}: {error}); "
            "where there is no network, fetch them elsewhere and give the file with --weights"
        ) from error
    own: Any = model.pretrained_cfg
    other: Any = given.pretrained_cfg
    if any(tuple(own[name]) != tuple(other[name]) for name in INPUT):
        raise InputError(
            f"--timm {tag}: these weights expect images normalised by {[other[k] for k in INPUT]}, "
            f"the network normalises by {[own[k] for k in INPUT]}; name the network {tag!r} itself"
        )
    weights: dict[str, Tensor] = given.state_dict()
    return weights


def weights_digest(state: dict[str, Tensor]) -> str:
    """Return a SHA-256 over names, types, shapes and values, whatever file they came in."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.numpy().tobytes())
    return total.hexdigest()


def main() -> None:
    arguments = parse()
    choice = chosen_network(arguments)
    if arguments.untrained:
        torch.manual_seed(arguments.seed)
    model = build(choice)
    source = fill(model, arguments)
    state = transferable(model, model.state_dict())
    header = {
        "architecture": choice.model_dump(mode="json"),
        "pretraining": arguments.pretraining,
        "kind": "untrained" if arguments.untrained else "imported",
        "source": source,
        "weights_digest": weights_digest(state),
    }
    save_backbone(arguments.output, state, header)


if __name__ == "__main__":
    run(main)
