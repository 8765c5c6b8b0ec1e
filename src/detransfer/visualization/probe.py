"""A fitted linear probe as its program left it, held against what it is to be asked about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

from detransfer.console import InputError
from detransfer.data.index import Index
from detransfer.files import digest, sha256
from detransfer.recipes.classification import FeatureRecipe
from detransfer.report.metrics import read_metrics


@dataclass(frozen=True)
class FittedProbe:
    """Weight (d, classes) and bias (classes,) on average-pooled Conv5 as it is.

    ``class_ids`` are its classes', and ``recipe`` the digest of the recipe it was fitted by.
    """

    weight: np.ndarray
    bias: np.ndarray
    class_ids: np.ndarray
    recipe: str


def read_probe(folder: Path, weights: Path, index: Index, view: FeatureRecipe) -> FittedProbe:
    """Read a probe's folder.

    Raises InputError where the probe was fitted on features of other weights or of another view,
    and where its classes are not those of the index.
    """
    metrics = read_metrics(folder / "metrics.json")
    seen = view.model_dump(exclude={"task", "batch_size", "checkpoint_seconds"})
    view_digest = digest(f"{name}={value}" for name, value in sorted(seen.items()))
    for what, then, now in (
        ("weights", metrics.provenance.get("model_digest"), sha256(weights)),
        ("views", metrics.comparability.get("view"), view_digest),
    ):
        if then != now:
            raise InputError(f"{folder}: this probe was fitted on other {what}; fit it again")
    classes = pd.read_csv(folder / "classes.csv", keep_default_na=False, dtype={"name": "str"})
    known = dict(zip(index.classes["class_id"], index.classes["name"], strict=True))
    for number, name in zip(classes["class_id"], classes["name"], strict=True):
        if known.get(number) != name:
            raise InputError(
                f"{folder}: class {number} is {name!r} to this probe and "
                f"{known.get(number, 'unknown')!r} to the index; fit it again"
            )
    tensors = load_file(folder / "probe.safetensors")
    class_ids, recipe = classes["class_id"].to_numpy(), str(metrics.comparability["recipe"])
    return FittedProbe(tensors["weight"], tensors["bias"], class_ids, recipe)
