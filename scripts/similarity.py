"""How alike the feature spaces of all pre-trainings are, and how well each finds a class.

One row for each data set, metric and pair of spaces. cka: linear centred kernel alignment (1: equal
up to a turn and a scale). retrieval_map: mean average precision, in percent, of every image as a
query for images of its class by correlation (run and other are one space); its interval holds 95 %
of resamples of the queries, floor is what a space that cannot tell images apart reaches.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from detransfer.console import InputError, run
from detransfer.features.similarity import linear_cka, retrieval_precision
from detransfer.features.store import Features, open_features
from detransfer.report.bootstrap import resamples
from detransfer.report.tables import write_table

log = logging.getLogger("similarity")
LAYER = "conv5"
COLUMNS = ["dataset", "metric", "run", "other", "unit", "value", "low", "high", "floor", "images"]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--space",
        nargs=3,
        action="append",
        required=True,
        metavar=("DATASET", "NAME", "FEATURES"),
        help="a pre-training's features on a data set",
    )
    add("--output", type=Path, required=True, help="CSV to write")
    return parser.parse_args()


def alignments(spaces: dict[str, Features]) -> Iterator[dict[str, object]]:
    """Yield the alignment of every two spaces, both ways, and of each with itself."""
    values = {name: np.array(features.layer(LAYER)) for name, features in spaces.items()}
    names = list(spaces)
    found = {}
    for place, one in enumerate(names):
        for other in names[place:]:
            found[one, other] = found[other, one] = linear_cka(values[one], values[other])
    for one in names:
        if np.isnan(found[one, one]):
            log.warning("%s: all images have the same features; no alignment", one)
        for other in names:
            yield {"metric": "cka", "run": one, "other": other, "value": found[one, other]}


def retrieval(name: str, features: Features) -> dict[str, object]:
    """Return the mean average precision of a space, with its interval and floor."""
    class_ids = features.images["class_id"].to_numpy()
    precision = 100 * retrieval_precision(features.layer(LAYER), class_ids)
    asked = ~np.isnan(precision)
    if not asked.any():
        raise InputError(f"{features.folder}: no class has two images; nothing can be retrieved")
    values = precision[asked]
    low, high = np.percentile(resamples(len(values)) @ values / len(values), [2.5, 97.5])
    sizes = np.bincount(class_ids)[class_ids[asked]]
    return {
        "metric": "retrieval_map",
        "run": name,
        "other": name,
        "unit": "%",
        "value": values.mean(),
        "low": low,
        "high": high,
        "floor": 100 * ((sizes - 1) / (len(class_ids) - 1)).mean(),
    }


def main() -> None:
    arguments = parse()
    rows: list[dict[str, object]] = []
    for dataset in dict.fromkeys(dataset for dataset, _, _ in arguments.space):
        own = [(name, folder) for given, name, folder in arguments.space if given == dataset]
        spaces = {name: open_features(Path(folder)) for name, folder in own}
        first = next(iter(spaces.values())).images["image_id"]
        for name, features in spaces.items():
            if not features.images["image_id"].equals(first):
                raise InputError(f"{dataset}: {name} has features of other images than {own[0][0]}")
        found = [*alignments(spaces), *(retrieval(*item) for item in spaces.items())]
        rows += [{"dataset": dataset, "images": len(first), **row} for row in found]
    write_table(arguments.output, pd.DataFrame(rows).reindex(columns=COLUMNS))


if __name__ == "__main__":
    run(main)
