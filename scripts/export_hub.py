"""Lay out a backbone as a folder that a model hub takes, and that timm reads where it lies."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from timm.models import save_for_hf

from detransfer.backbone import build, load_backbone, read_weights
from detransfer.console import InputError, run
from detransfer.files import atomic, whole_folder
from detransfer.training_run import add_architecture, architecture_of

DESCRIPTION = """\
Lay out a backbone as a folder ready for upload to a model hub: model.safetensors, config.json and
its card as README.md. timm.create_model("local-dir:FOLDER", pretrained=True) loads it, and after
the upload timm.create_model("hf-hub:OWNER/NAME", pretrained=True) does. A network that a file of
your own registers is loaded by the lines in its card; the file is copied too. Nothing is uploaded.
"""
WEIGHTS = "model.safetensors"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=DESCRIPTION)
    add = parser.add_argument
    add("--backbone", type=Path, required=True, help="backbone.safetensors")
    add("--card", type=Path, required=True, help="README.md of scripts/model_card.py")
    add("--output", type=Path, required=True, help="folder to make; must not exist")
    add_architecture(parser)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    folder: Path = arguments.output
    if folder.exists():
        raise InputError(f"{folder}: is there already; name a new folder, or remove it")
    if not arguments.card.is_file():
        raise InputError(f"{arguments.card}: there is no such card; make it with model_card.py")
    header = read_weights(arguments.backbone)[1]
    choice = architecture_of(header, arguments.backbone, arguments.architecture)
    model = build(choice)
    load_backbone(model, arguments.backbone)
    own = {"tag": header["pretraining"], "license": "other", "origin_url": None}
    text = arguments.card.read_text().replace(arguments.backbone.name, WEIGHTS)
    with whole_folder(folder) as new:
        save_for_hf(
            model,
            str(new),
            model_config={"pretrained_cfg": own},  # not those of timm's weights for the network
            model_args=dict(choice.arguments),
            safe_serialization=True,
        )
        shutil.copyfile(arguments.backbone, new / WEIGHTS)  # the same weights, with their header
        with atomic(new / "README.md") as temporary:
            temporary.write_text(text)
        if choice.file is not None:
            shutil.copy(choice.file, new)


if __name__ == "__main__":
    run(main)
