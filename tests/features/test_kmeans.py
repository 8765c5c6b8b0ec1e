"""k-means beside scikit-learn's from the same images, and its own promises."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans

from detransfer.features.kmeans import cluster, prepare, starting_images


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    """Blobs of many sizes in 100 dimensions of falling variance."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(12, 100)) * 2 / np.sqrt(1 + np.arange(100))
    noise = rng.normal(size=(600, 100)) / np.sqrt(1 + np.arange(100))
    return np.float32(centres[rng.integers(0, 12, 600) ** 2 % 12] + noise + 5)


def by_definition(features: np.ndarray, labels: np.ndarray) -> float:
    """The sum of squared distances to the means of the clusters."""
    parts = (features[labels == label].astype(np.float64) for label in np.unique(labels))
    return float(sum(((part - part.mean(0)) ** 2).sum() for part in parts))


@pytest.mark.parametrize("count", [2, 7, 40, 150])
def test_as_tight_as_scikit_learn_from_the_same_images(features: np.ndarray, count: int) -> None:
    points, ours, theirs = prepare(features), 0.0, 0.0
    for seed in range(4):
        starts = starting_images(len(features), seed)
        found = cluster(points, count, starts, 1e-4, 100)
        model = KMeans(count, init=features[starts[:count]], n_init=1, tol=1e-4).fit(features)
        ours, theirs = ours + found.inertia, theirs + model.inertia_
        assert found.labels.dtype == np.int32 and found.labels.max() < count
        assert found.inertia >= by_definition(features, found.labels) * (1 - 1e-4)
        assert found.inertia <= by_definition(features, found.labels) * (1 + 1e-2)
    assert ours <= theirs * 1.005


def test_with_all_axes_it_is_lloyds_algorithm(features: np.ndarray) -> None:
    points = prepare(features[:, :60])  # as many axes as dimensions
    starts = starting_images(len(features), 1)
    found = cluster(points, 6, starts, 1e-9, 300)
    model = KMeans(6, init=features[starts[:6], :60], n_init=1, tol=0, max_iter=300)
    assert (found.labels == model.fit(features[:, :60]).labels_).mean() > 0.99  # or by rounding
    assert found.inertia == pytest.approx(model.inertia_, rel=1e-3)


def test_every_space_starts_from_the_same_images(features: np.ndarray) -> None:
    starts = starting_images(600, 5)
    assert sorted(starts) == list(range(600))
    assert (starts == starting_images(600, 5)).all() and (starts != starting_images(600, 6)).any()
    # With time for one pass the clusters are those of the means of what lies nearest to the first.
    for space in (features[:, :40], np.float32(features[:, 60:] ** 2)):
        centres = space[starts[:9]]
        for _ in range(2):
            distance = ((space[:, None] - centres[None]) ** 2).sum(-1)
            truth = distance.argmin(1)
            centres = np.stack([space[truth == label].mean(0) for label in range(9)])
        found = cluster(prepare(space), 9, starts, 1e-4, 1)
        assert (found.labels == truth).mean() > 0.99  # or by rounding


def test_runs_are_equal(features: np.ndarray) -> None:
    points, starts = prepare(features), starting_images(600, 0)
    one, two = (cluster(points, 20, starts, 1e-4, 100) for _ in range(2))
    assert (one.labels == two.labels).all() and one.inertia == two.inertia


def test_constant_features_are_one_cluster() -> None:
    points = prepare(np.full((30, 5), 3.7, np.float32))
    found = cluster(points, 4, starting_images(30, 0), 1e-4, 50)
    assert len(np.unique(found.labels)) == 1 and found.inertia == pytest.approx(0, abs=1e-6)


def test_as_many_clusters_as_images_but_not_more(features: np.ndarray) -> None:
    points = prepare(features[:20])
    found = cluster(points, 20, starting_images(20, 0), 1e-4, 50)
    assert len(np.unique(found.labels)) == 20 and found.inertia == pytest.approx(0, abs=0.05)
    with pytest.raises(ValueError, match="21 clusters of 20 images"):
        cluster(points, 21, starting_images(20, 0), 1e-4, 50)
