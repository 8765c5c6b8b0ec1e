"""Barnes-Hut t-SNE of a feature space (the paper's Figure 7)."""

from __future__ import annotations

import importlib
import logging
from typing import Any

import numpy as np

from detransfer.features.recipe import EmbeddingRecipe

log = logging.getLogger(__name__)
FASTER, PLAIN = "sklearnex.manifold", "sklearn.manifold"


def hindrance(features: np.ndarray, recipe: EmbeddingRecipe) -> str | None:
    """Return why features (n, d) have no place in the plane; None where they can be embedded."""
    least = int(3 * recipe.perplexity) + 2  # t-SNE looks at so many neighbours of an image
    if len(features) < least:
        return (
            f"t-SNE of perplexity {recipe.perplexity:g} needs {least} images, and there are "
            f"{len(features)}; lower embedding.perplexity in the recipe of the analysis"
        )
    return "all images have the same features" if all_alike(features) else None


def all_alike(features: np.ndarray) -> bool:
    """Return whether all rows of features (n, d) are the same: none is nearer than others."""
    return bool((features == features[0]).all())


def embed(features: np.ndarray, recipe: EmbeddingRecipe) -> tuple[np.ndarray, str]:
    """Return the images' places in the plane (n, 2) float32, and the library that found them.

    For features without a :func:`hindrance`.
    """
    features = np.asarray(features, np.float32)
    library, name = _library()
    log.info("t-SNE of %d images by %s", len(features), name)
    tsne = library.TSNE(
        perplexity=recipe.perplexity,
        angle=recipe.theta,
        random_state=recipe.seed,
        init="pca",
        method="barnes_hut",
    )
    return tsne.fit_transform(features).astype(np.float32), name


def _library() -> tuple[Any, str]:
    """Return the fastest library that is installed, and its name.

    scikit-learn-intelex (Linux on x86) computes what scikit-learn does, in a fraction of the time.
    """
    try:
        faster = importlib.import_module(FASTER)
        logging.getLogger("sklearnex").setLevel(logging.WARNING)  # it tells of every call
        return faster, "scikit-learn-intelex"
    except ImportError:
        return importlib.import_module(PLAIN), "scikit-learn"
