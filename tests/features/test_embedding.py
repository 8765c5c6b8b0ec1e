from __future__ import annotations

import numpy as np
from sklearn.manifold import trustworthiness

from detransfer.features.embedding import embed, hindrance
from detransfer.features.neighbours import class_agreement, nearest_neighbours
from detransfer.features.recipe import EmbeddingRecipe

RECIPE = EmbeddingRecipe(perplexity=10, theta=0.5, seed=0, neighbours=10, classes=3)


def test_the_plane_keeps_neighbours_and_is_the_same_again() -> None:
    rng = np.random.default_rng(0)
    class_ids = np.arange(150) % 3
    features = np.float32(4 * np.eye(3, 16)[class_ids] + rng.normal(size=(150, 16)))
    plane, library = embed(features, RECIPE)
    assert plane.shape == (150, 2) and plane.dtype == np.float32
    assert library in ("scikit-learn", "scikit-learn-intelex")
    assert trustworthiness(features, plane, n_neighbors=10) > 0.85
    agreement = class_agreement(nearest_neighbours(plane, 10), class_ids).mean()
    assert agreement > 0.9 * class_agreement(nearest_neighbours(features, 10), class_ids).mean()
    assert (embed(features, RECIPE)[0] == plane).all()


def test_what_cannot_be_embedded() -> None:
    features = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    assert hindrance(features, RECIPE) is None
    few = "t-SNE of perplexity 10 needs 32 images, and there are 31; lower embedding.perplexity"
    assert str(hindrance(features[1:], RECIPE)).startswith(few)
    assert hindrance(np.ones((40, 4), np.float32), RECIPE) == "all images have the same features"
