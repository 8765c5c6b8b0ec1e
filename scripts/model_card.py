"""Write what a backbone file is, for people: its network, origin, data, recipe, quality and use."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open

from detransfer.console import InputError, run
from detransfer.data.catalog import load_catalog
from detransfer.files import atomic
from detransfer.report.metrics import read_metrics
from detransfer.weights import read_header

DESCRIPTION = """\
Write the model card of a backbone file: the network, what it was trained on and by which recipe,
the licences of the data, the metrics of the detector or the training top-1 of the classifier that
it was part of, and its use by timm. Of imported weights the card says what is not known.
"""
COUNTED = ("running_mean", "running_var", "num_batches_tracked")  # statistics, not parameters
FRONT = {"library_name": "timm", "license": "other", "tags": ["timm", "image-feature-extraction"]}
WHAT_IT_GIVES = """\
`model.forward_features(images)` gives Conv5, `model(images)` its average. Images are RGB,
normalised by `model.pretrained_cfg`. With `output_stride=16` the last stage is dilated
instead of strided, as the detectors use it."""
DIGESTS = ("recipe_digest", "data_digest", "start_digest", "code_digest", "weights_digest")
TASKS = {
    "classification": "image classification",
    "detection": "object detection",
    "labels": "classification of chips, by the labels of a detector's boxes",
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=DESCRIPTION)
    add = parser.add_argument
    add("--backbone", type=Path, required=True, help="backbone.safetensors")
    add("--dataset", help="name of the data set that it was trained on here")
    add("--archives", nargs="*", default=[], help="its archives, by catalog name")
    add("--rendered", action="store_true", help="the archives hold rendered images")
    add("--metrics", type=Path, help="metrics.json of the detector that it was part of")
    add("--fit", type=Path, help="fit.json of the classifier that it was part of")
    add("--output", type=Path, required=True, help="README.md to write")
    return parser.parse_args()


def table(rows: Mapping[str, object]) -> str:
    """Return a Markdown table of two columns."""
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {rows[name]} |" for name in rows)])


def network(header: Mapping[str, Any], path: Path) -> str:
    """Return the section about the architecture."""
    given = header["architecture"]
    with safe_open(path, framework="numpy") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    count = sum(math.prod(s) for n, s in shapes.items() if not n.endswith(COUNTED))
    rows = {
        "architecture (timm)": f"`{given['name']}`",
        "arguments": f"`{given['arguments']}`" if given["arguments"] else "none",
        "parameters": f"{count:,}",
        "classifier": "none: Conv5 features",
    }
    if given["file"]:
        rows["registered by"] = f"`{given['file']}`"
    return f"## Network\n\n{table(rows)}"


def use(header: Mapping[str, Any]) -> str:
    """Return the section with the three lines that load the file."""
    given = header["architecture"]
    arguments = "".join(f", {name}={value!r}" for name, value in given["arguments"].items())
    modules = "import timm, safetensors.torch"
    if given["file"]:
        modules += f", {Path(given['file']).stem}  # the last registers the network with timm"
    lines = [
        modules,
        f'model = timm.create_model("{given["name"]}", num_classes=0{arguments})',
        'model.load_state_dict(safetensors.torch.load_file("backbone.safetensors"))',
    ]
    return "\n".join(["## Use", "", "```python", *lines, "```", "", WHAT_IT_GIVES])


def origin(header: Mapping[str, Any], dataset: str | None) -> str:
    """Return the section about how the weights came about."""
    rows: dict[str, object] = {"kind": header["kind"]}
    if header["kind"] == "trained":
        rows["task"] = TASKS[header["task"]]
        rows["data set"] = f"`{dataset}`"
        rows["seed"] = header["seed"]
    rows |= {name: f"`{value}`" for name, value in header["source"].items()}
    rows |= {name: f"`{header[name]}`" for name in DIGESTS if name in header}
    return f"## Origin\n\n{table(rows)}"


def data(dataset: str, archives: list[str], rendered: bool) -> str:
    """Return the section about the training data: terms and citations, each once."""
    if rendered:
        return (
            "## Data\n\nImages rendered by detransfer's miniature world in the form of "
            f"`{dataset}`; they fall under the licence of the code (MIT). The numbers say nothing "
            "of the real data set."
        )
    known = load_catalog().archives
    terms = dict.fromkeys(known[name].licence for name in archives if name in known)
    cited = dict.fromkeys(known[name].citation for name in archives if name in known)
    if not terms:
        return f"## Data\n\n`{dataset}`, a data set of the study's own."
    lines = [f"- {text}" for text in (*terms, *cited)]
    return "\n".join([f"## Data\n\n`{dataset}`: terms and what to cite", "", *lines])


def elsewhere(source: Mapping[str, str]) -> str:
    """Return the section about the data of imported weights, which the study does not know."""
    place = next(source[name] for name in ("timm", "url", "file") if name in source)
    rows = dict.fromkeys(("training data", "licence"), f"not stated: imported from `{place}`")
    return f"## Data\n\n{table(rows)}"


def quality(path: Path) -> str:
    """Return the section with the detector's own metrics."""
    result = read_metrics(path)
    rows = {m.name: f"{m.value:.1f} {m.unit} ({m.n:,} images)" for m in result.metrics}
    where = f"`{result.run.dataset}`, {result.comparability['evaluation_split']}"
    return f"## Quality of the detector\n\nOn {where}:\n\n{table(rows)}"


def fitted(path: Path) -> str:
    """Return the section with a classifier's accuracy on what it has learnt from."""
    try:
        score = float(json.loads(path.read_text())["training_score"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not a readable fit.json of a classifier ({error}); train it again"
        ) from error
    rows = {"training top-1": f"{score:.1f} %"}
    return (
        f"## Quality of the classifier\n\nOn images that it was trained on, which is no measure of "
        f"others:\n\n{table(rows)}"
    )


def recipe(header: Mapping[str, Any]) -> str:
    text = yaml.safe_dump(header["recipe"], sort_keys=False, allow_unicode=True)
    return f"## Recipe\n\n```yaml\n{text}```"


def card(arguments: argparse.Namespace, header: Mapping[str, Any]) -> str:
    """Return the whole card in Markdown, with the front matter that model hubs read."""
    name = header["pretraining"]
    front = yaml.safe_dump(FRONT, sort_keys=False)
    title = f"# {name}: a {header['architecture']['name']} backbone"
    parts = [f"---\n{front}---", title, network(header, arguments.backbone), use(header)]
    parts.append(origin(header, arguments.dataset))
    if arguments.dataset:
        parts.append(data(arguments.dataset, arguments.archives, arguments.rendered))
    elif header["kind"] == "imported":
        parts.append(elsewhere(header["source"]))
    if arguments.metrics:
        parts.append(quality(arguments.metrics))
    if arguments.fit:
        parts.append(fitted(arguments.fit))
    if "recipe" in header:
        parts.append(recipe(header))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    arguments = parse()
    header = read_header(arguments.backbone)
    if "architecture" not in header or "kind" not in header:
        raise InputError(
            f"{arguments.backbone}: no backbone of this project (its header names no network); "
            "make one with scripts/import_backbone.py"
        )
    if header["kind"] == "trained" and not arguments.dataset:
        raise InputError(f"{arguments.backbone}: was trained here; say on what with --dataset")
    with atomic(arguments.output) as temporary:
        temporary.write_text(card(arguments, header))


if __name__ == "__main__":
    run(main)
