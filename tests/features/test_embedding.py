from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.manifold import trustworthiness

from detransfer.features import embedding
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


def test_tsne_is_asked_for_what_the_recipe_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class Spy:
        def __init__(self, **settings: Any) -> None:
            asked.update(settings)

        def fit_transform(self, features: np.ndarray) -> np.ndarray:
            return features[:, :2]

    monkeypatch.setattr(embedding, "_library", lambda: (SimpleNamespace(TSNE=Spy), "spy"))
    recipe = EmbeddingRecipe(perplexity=7, theta=0.3, seed=11, neighbours=4, classes=3)
    plane, library = embed(np.ones((30, 4)), recipe)
    assert (plane.shape, library) == ((30, 2), "spy")
    assert {key: asked[key] for key in ("perplexity", "angle", "random_state")} == {
        "perplexity": 7, "angle": 0.3, "random_state": 11,
    }  # fmt: skip
    assert asked["method"] == "barnes_hut"


def test_what_cannot_be_embedded() -> None:
    features = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    assert hindrance(features, RECIPE) is None
    few = "t-SNE of perplexity 10 needs 32 images, and there are 31; lower embedding.perplexity"
    assert str(hindrance(features[1:], RECIPE)).startswith(few)
    assert hindrance(np.ones((40, 4), np.float32), RECIPE) == "all images have the same features"
