"""Take the backbone out of a trained classifier or detector."""

from __future__ import annotations

import argparse
from pathlib import Path

from torch import Tensor

from detransfer.backbone import build, fit_backbone, read_weights, save_backbone, transferable
from detransfer.console import InputError, run
from detransfer.files import sha256
from detransfer.training_run import add_architecture, architecture_of

DESCRIPTION = """\
Take the backbone out of a trained classifier or detector, so that other tasks can start from it: a
.safetensors file under timm's parameter names, without a classifier. Its header says which network
it is, what it was trained on, by which recipe, from which start, and the checksum of the model.
"""
PREFIX = "backbone."
OWN = ("classes", "pretraining")  # of the model's header: its outputs, and what it started from


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=DESCRIPTION)
    add = parser.add_argument
    add("--model", type=Path, required=True, help="model.safetensors of a training")
    add("--pretraining", required=True, metavar="NAME", help="name of this pre-training")
    add("--output", type=Path, required=True, help="backbone.safetensors to write")
    add_architecture(parser)
    return parser.parse_args()


def backbone_part(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the parameters below ``backbone.`` under timm's own names."""
    part = {name.removeprefix(PREFIX): v for name, v in state.items() if name.startswith(PREFIX)}
    if not part:
        raise InputError(
            f"{path}: holds no parameter below {PREFIX!r}; give the model.safetensors of a "
            "classifier or detector"
        )
    return part


def main() -> None:
    arguments = parse()
    state, header = read_weights(arguments.model)
    model = build(architecture_of(header, arguments.model, arguments.architecture))
    fit_backbone(model, backbone_part(state, arguments.model), str(arguments.model))
    content = {
        **{name: value for name, value in header.items() if name not in OWN},
        "pretraining": arguments.pretraining,
        "kind": "trained",
        "source": {"start": header.get("pretraining"), "model_digest": sha256(arguments.model)},
    }
    save_backbone(arguments.output, transferable(model, model.state_dict()), content)


if __name__ == "__main__":
    run(main)
