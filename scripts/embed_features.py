"""Put the images of a feature space into the plane by Barnes-Hut t-SNE.

Writes a table with a row an image: image_id, class_id, its place x and y, the share of its nearest
neighbours that are of its class, in the space (agreement_space) and in the plane (agreement_plane),
the library that embedded it, and the problem where nothing could: then there are no places, and
where all features are the same no neighbours either.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from detransfer.console import run
from detransfer.features.embedding import all_alike, embed, hindrance
from detransfer.features.neighbours import class_agreement, nearest_neighbours
from detransfer.features.recipe import AnalysisRecipe
from detransfer.features.store import open_features
from detransfer.files import atomic
from detransfer.strict import load_file

log = logging.getLogger("embed_features")
LAYER = "conv5"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--features", type=Path, required=True, help="folder of recorded features")
    add("--recipe", type=Path, required=True, help="recipe of the analysis")
    add("--threads", type=int, default=1, help="processor cores to use")
    add("--output", type=Path, required=True, help="table to write")
    return parser.parse_args()


def agreement(points: np.ndarray, class_ids: np.ndarray, neighbours: int) -> np.ndarray:
    """Return the share (n,) of each point's neighbours that are of its class; NaN without any."""
    if np.isnan(points).any() or all_alike(points):
        return np.full(len(points), np.nan)
    return class_agreement(nearest_neighbours(points, neighbours), class_ids)


def main() -> None:
    arguments = parse()
    recipe = load_file(arguments.recipe, AnalysisRecipe).embedding
    features = open_features(arguments.features)
    values = np.array(features.layer(LAYER))
    class_ids = features.images["class_id"].to_numpy()
    plane, library = np.full((len(values), 2), np.nan, np.float32), ""
    with threadpool_limits(arguments.threads):
        if problem := hindrance(values, recipe):
            log.warning("%s: %s; no plane", arguments.features, problem)
        else:
            plane, library = embed(values, recipe)
        in_space, in_plane = (
            agreement(points, class_ids, recipe.neighbours) for points in (values, plane)
        )
    table = features.images[["image_id", "class_id"]].assign(
        x=plane[:, 0],
        y=plane[:, 1],
        agreement_space=in_space,
        agreement_plane=in_plane,
        library=library,
        problem=problem or "",
    )
    with atomic(arguments.output) as temporary:
        table.to_parquet(temporary, index=False)


if __name__ == "__main__":
    run(main)
