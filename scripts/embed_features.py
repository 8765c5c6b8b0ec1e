"""Put the images of a feature space into the plane by Barnes-Hut t-SNE.

Writes a table with a row an image: image_id, class_id, its place x and y, the share of its nearest
neighbours that are of its class, in the space (agreement_space) and in the plane (agreement_plane),
and the library that embedded it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from detransfer.console import InputError, run
from detransfer.features.embedding import embed
from detransfer.features.neighbours import class_agreement, nearest_neighbours
from detransfer.features.recipe import AnalysisRecipe
from detransfer.features.store import open_features
from detransfer.files import atomic
from detransfer.strict import load_file

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


def main() -> None:
    arguments = parse()
    recipe = load_file(arguments.recipe, AnalysisRecipe).embedding
    features = open_features(arguments.features)
    values = np.array(features.layer(LAYER))
    class_ids = features.images["class_id"].to_numpy()
    with threadpool_limits(arguments.threads):
        try:
            plane, library = embed(values, recipe)
        except InputError as error:
            raise InputError(f"{arguments.features}: {error}") from error
        near = [nearest_neighbours(points, recipe.neighbours) for points in (values, plane)]
    table = features.images[["image_id", "class_id"]].assign(
        x=plane[:, 0],
        y=plane[:, 1],
        agreement_space=class_agreement(near[0], class_ids),
        agreement_plane=class_agreement(near[1], class_ids),
        library=library,
    )
    with atomic(arguments.output) as temporary:
        table.to_parquet(temporary, index=False)


if __name__ == "__main__":
    run(main)
