"""Backbones: timm models that every task trains, saves and loads under timm's own names.

A backbone file is a ``.safetensors`` with the parameters of the timm model without its classifier,
and one JSON document in the header that says what it is and where it comes from. The same file
loads into the detector, the classifier and the segmentation encoder alike.
"""

from __future__ import annotations

import importlib.util
import json
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file, save
from timm.models import is_model
from torch import Tensor, nn

from detransfer.console import InputError
from detransfer.deformable import OFFSET, deform, without_offsets
from detransfer.files import atomic
from detransfer.recipes.training import BackboneRecipe
from detransfer.strict import suggest
from detransfer.study import BackboneChoice
from detransfer.weights import HEADER, read_header


def build(
    choice: BackboneChoice, classes: int = 0, output_stride: int = 32, deformable_groups: int = 0
) -> nn.Module:
    """Return an untrained timm model; ``classes=0`` leaves the classifier out.

    ``forward_features`` maps (n, 3, h, w) to Conv5 (n, c, h / stride, w / stride); below stride 32
    the last stages are dilated instead of strided, so that the same weights fit every stride. With
    ``deformable_groups`` the last stage's 3x3 convolutions are deformable, their offsets zero.

    Raises InputError for an unknown name, arguments that the model does not take, or a file that
    does not register the model.
    """
    register(choice)
    try:
        model: nn.Module = timm.create_model(
            choice.name, num_classes=classes, output_stride=output_stride, **choice.arguments
        )
    except (TypeError, ValueError, KeyError, AssertionError, RuntimeError) as error:
        raise InputError(
            f"backbone {choice.name!r} with arguments {choice.arguments} and stride "
            f"{output_stride} cannot be built: {error}"
        ) from error
    if deformable_groups:
        deform(model, deformable_groups)
    return model


def register(choice: BackboneChoice) -> None:
    """Make sure timm knows the chosen model, importing the user's file where one is named.

    The file is ordinary Python with functions under ``@timm.models.register_model``. Raises
    InputError for a file that is missing or does not register the model, and for one that comes too
    late, since timm has a model of that name.
    """
    name = choice.name.partition(".")[0]
    if choice.file is not None:
        if not is_model(name):
            _import(choice.file)
        elif not _is_imported(choice.file):
            raise InputError(
                f"backbone.name: timm has a model {name!r} without {choice.file}, which would be "
                "ignored; give the function in that file, and the study's backbone, another name"
            )
    if not is_model(name):
        where = f" and {choice.file} does not register it" if choice.file else ""
        raise InputError(
            f"backbone.name: timm has no model {name!r}{where}{suggest(name, timm.list_models())}"
        )


def _import(file: Path) -> None:
    if not file.is_file():
        raise InputError(f"backbone.file: {file} does not exist")
    spec = importlib.util.spec_from_file_location(_module_name(file), file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # register_model looks its module up there
    spec.loader.exec_module(module)


def _is_imported(file: Path) -> bool:
    found = getattr(sys.modules.get(_module_name(file)), "__file__", None)
    return found is not None and Path(found).resolve() == file.resolve()


def _module_name(file: Path) -> str:
    return f"backbone_{file.stem}"


def normalise(images: Tensor, model: nn.Module) -> Tensor:
    """Turn uint8 RGB images (n, 3, h, w) into the float input that the timm model expects."""
    config: Any = model.pretrained_cfg
    mean = torch.tensor(config["mean"], device=images.device).view(1, 3, 1, 1) * 255
    std = torch.tensor(config["std"], device=images.device).view(1, 3, 1, 1) * 255
    return (images.float() - mean) / std


def mean_colour(model: nn.Module) -> Tensor:
    """Return the uint8 colour (3,) that normalises to about zero: what images are padded with."""
    config: Any = model.pretrained_cfg
    return torch.tensor([round(255 * value) for value in config["mean"]], dtype=torch.uint8)


def conv5(model: nn.Module, images: Tensor, precision: str = "fp32") -> Tensor:
    """Return the float32 Conv5 map (n, c, h / stride, w / stride) of uint8 images (n, 3, h, w)."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
        network: Any = model
        features: Tensor = network.forward_features(normalise(images, model))
    return features.float()


def conv4_and_conv5(model: nn.Module, images: Tensor, precision: str = "fp32") -> Tensor:
    """Return Conv4 and Conv5 of uint8 images as one float32 map, Conv4's channels first.

    Both have the same height and width at stride 16 and below.
    """
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
        network: Any = model
        maps = network.forward_intermediates(
            normalise(images, model), indices=2, intermediates_only=True
        )
    return torch.cat([each.float() for each in maps], 1)


def stage_channels(model: nn.Module) -> tuple[int, int]:
    """Return the numbers of channels of Conv4 and of Conv5."""
    network: Any = model
    conv4, last = (int(stage["num_chs"]) for stage in network.feature_info[-2:])
    return conv4, last


def hold_still(model: nn.Module, recipe: BackboneRecipe) -> None:
    """Fix what the recipe freezes; call it after every ``train()``, which would undo it.

    A frozen prefix fixes parameters and batch statistics below it; ``batch_norm: frozen`` fixes
    every batch normalisation of the model. Raises InputError for a prefix that fits nothing.
    """
    for prefix in recipe.freeze:
        if not any(_below(name, prefix) for name, _ in model.named_parameters()):
            raise InputError(f"backbone.freeze: no parameter of the model begins with {prefix!r}")
    for name, parameter in model.named_parameters():
        if any(_below(name, prefix) for prefix in recipe.freeze):
            parameter.requires_grad_(False)
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (
            recipe.batch_norm == "frozen" or any(_below(name, prefix) for prefix in recipe.freeze)
        ):
            module.eval()
            module.requires_grad_(False)


def save_backbone(path: Path, state: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write parameters under timm's names with ``header`` as JSON, by atomic rename.

    Equal parameters and header give equal bytes.
    """
    tensors = {name: state[name].detach().cpu().contiguous() for name in sorted(state)}
    content = save(tensors, metadata={HEADER: json.dumps(header, sort_keys=True)})
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a weight file into (parameters, header) without ever running code from it.

    ``.safetensors`` files carry a header; other files must be plain PyTorch state dicts and have
    an empty one. Raises InputError for a missing, damaged or unsafe file.
    """
    if path.suffix == ".safetensors":
        header = read_header(path)  # its messages tell a missing file from a damaged one
        return load_file(path), header
    if not path.is_file():
        raise InputError(f"{path}: there is no such weight file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: is damaged, or holds more than tensors and is not opened, because loading "
            "it could run code; convert it to .safetensors where you trust it"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable PyTorch file ({error})") from error
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(f"{path}: expected parameters by name, found something else")
    return content, {}


def load_backbone(model: nn.Module, path: Path) -> dict[str, Any]:
    """Load a backbone file into a timm model, strictly; return the header.

    Only the classifier may be absent from the file; offsets of deformable convolutions are never
    taken from it and stay zero, as in the authors' code. Raises InputError that names the first
    parameters which are missing, too many, or of another shape.
    """
    state, header = read_weights(path)
    fit_backbone(model, state, str(path))
    return header


def fit_backbone(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy the backbone's part of ``state`` into the model; see :func:`load_backbone`."""
    own = transferable(model, model.state_dict())
    given = transferable(model, state)
    missing, surplus = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    reshaped = sorted(n for n in own.keys() & given.keys() if own[n].shape != given[n].shape)
    if missing or surplus or reshaped:
        faults = [
            f"{len(names)} {what} (first: {names[0]})"
            for what, names in (
                ("missing", missing),
                ("not in the model", surplus),
                ("of another shape", reshaped),
            )
            if names
        ]
        raise InputError(
            f"{source}: these weights are of another architecture than the study's backbone: "
            f"parameters {'; '.join(faults)}"
        )
    model.load_state_dict(given, strict=False)


def keep_offsets(model: nn.Module, path: Path) -> None:
    """Take the offsets of deformable convolutions over from the model file of a detector.

    Raises InputError where that has none of the model's offsets, or others.
    """
    given, _ = read_weights(path)
    own = model.state_dict()
    for name, value in own.items():
        if OFFSET in name:
            kept = given.get(f"backbone.{name}")
            if kept is None or kept.shape != value.shape:
                found = "none" if kept is None else f"shape {list(kept.shape)}"
                raise InputError(
                    f"{path}: its offsets are not those of this network: {name} has shape "
                    f"{list(value.shape)} here and {found} there; make "
                    "backbone.deformable_groups of both recipes equal, or give offsets: zero"
                )
            value.copy_(kept)


def transferable(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what of ``state`` other tasks start from: no classifier, and no offsets."""
    config: Any = model.pretrained_cfg
    classifier = config["classifier"] or ()
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    kept = without_offsets(state)
    return {k: v for k, v in kept.items() if not any(_below(k, name) for name in names)}


def _below(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")
