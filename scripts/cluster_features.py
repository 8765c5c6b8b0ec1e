"""Cluster the images of a feature space by k-means, for every number of clusters and seed.

Writes the clusters (clusters.parquet: image_id, and a column k<count>_seed<seed> each) and, beside
them, how tight they are (a CSV: clusters, seed, images, inertia, passes). k-means starts from the
same images in every space. A number of clusters above that of the images is left out: its row of
the CSV has no inertia.
"""

from __future__ import annotations

import argparse
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from detransfer.console import run
from detransfer.features.clusters import SpaceClusters, write_clusters
from detransfer.features.kmeans import Clustering, Points, cluster, prepare, starting_images
from detransfer.features.recipe import AnalysisRecipe, ClusterRecipe
from detransfer.features.store import open_features
from detransfer.report.tables import write_table
from detransfer.strict import load_file

log = logging.getLogger("cluster_features")
LAYER = "conv5"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--features", type=Path, required=True, help="folder of recorded features")
    add("--recipe", type=Path, required=True, help="recipe of the analysis")
    add("--threads", type=int, default=1, help="processor cores to use")
    add("--clusters", type=Path, required=True, help="clusters.parquet to write")
    add("--inertia", type=Path, required=True, help="CSV to write")
    return parser.parse_args()


def sweep(points: Points, recipe: ClusterRecipe, threads: int) -> dict[tuple[int, int], Clustering]:
    """Return the clustering of every count and seed that the images suffice for."""
    starts = {seed: starting_images(len(points), seed) for seed in recipe.seeds}
    wanted = [
        (count, seed)
        for count in reversed(recipe.all_counts)  # the longest first, so that threads end together
        if count <= len(points)
        for seed in recipe.seeds
    ]

    def one(key: tuple[int, int]) -> Clustering:
        return cluster(points, key[0], starts[key[1]], recipe.tolerance, recipe.passes)

    # One thread for each clustering: two that share one spend their time waiting.
    with threadpool_limits(1), ThreadPoolExecutor(threads) as pool:
        return dict(zip(wanted, pool.map(one, wanted), strict=True))


def table(
    found: dict[tuple[int, int], Clustering], recipe: ClusterRecipe, images: int
) -> pd.DataFrame:
    rows = []
    for count in recipe.all_counts:
        for seed in recipe.seeds:
            one = found.get((count, seed))
            fit = {"inertia": one.inertia, "passes": one.passes} if one else {}
            rows.append({"clusters": count, "seed": seed, "images": images, **fit})
    columns = ["clusters", "seed", "images", "inertia", "passes"]
    return pd.DataFrame(rows).reindex(columns=columns).astype({"passes": "Int64"})


def main() -> None:
    arguments = parse()
    recipe = load_file(arguments.recipe, AnalysisRecipe).clusters
    features = open_features(arguments.features)
    values = np.array(features.layer(LAYER))
    for count in recipe.all_counts:
        if count > len(values):
            log.warning("%d clusters: there are but %d images; left out", count, len(values))
    with threadpool_limits(arguments.threads):
        points = prepare(values)
    found = sweep(points, recipe, arguments.threads)
    stopped = [key for key, one in found.items() if one.passes >= recipe.passes]
    for count, seed in stopped:
        log.warning("%d clusters, seed %d: ended after %d passes", count, seed, recipe.passes)
    labels = {key: one.labels for key, one in sorted(found.items())}
    write_clusters(
        arguments.clusters, SpaceClusters(features.images["image_id"].to_numpy(), labels)
    )
    write_table(arguments.inertia, table(found, recipe, len(values)))


if __name__ == "__main__":
    run(main)
