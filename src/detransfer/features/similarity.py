"""How alike two feature spaces are, and how well a space finds images of one class."""

from __future__ import annotations

import numpy as np

from detransfer.features.neighbours import correlation_units

BLOCK = 512  # queries at once
DIGITS = 5  # of a correlation that float32 holds: images that are equal to these are equal


def linear_cka(one: np.ndarray, other: np.ndarray) -> float:
    """Return the linear centred kernel alignment of features (n, d) and (n, e) of the same images.

    |Y'X|^2 / (|X'X| |Y'Y|) with Frobenius norms of centred features (Kornblith et al., Similarity
    of Neural Network Representations Revisited, 2019): 1 where the spaces agree up to a turn and a
    scale. NaN where a space is constant.
    """
    x, y = _centred(one), _centred(other)
    norms = _squared(x.T @ x), _squared(y.T @ y)
    if 0 in norms:
        return np.nan
    return _squared(y.T @ x) / float(np.sqrt(norms[0]) * np.sqrt(norms[1]))


def _centred(features: np.ndarray) -> np.ndarray:
    """Return centred features of mean square 1, which float32 products can hold; or zeros."""
    values = np.asarray(features, np.float32)
    values = values - values.mean(0, dtype=np.float64).astype(np.float32)
    scale = float(np.sqrt(np.einsum("ij,ij->", values, values, dtype=np.float64) / values.size))
    # What rounding the mean leaves of a constant is no variance.
    constant = scale <= 1e-6 * float(np.abs(features).max(initial=0))
    return np.zeros_like(values) if constant else values / np.float32(scale)


def _squared(product: np.ndarray) -> float:
    return float(np.einsum("ij,ij->", product, product, dtype=np.float64))


def retrieval_precision(features: np.ndarray, class_ids: np.ndarray) -> np.ndarray:
    """Return each image's average precision (n,) as a query for images of its class.

    All other images are ranked by correlation with it; images of equal correlation are found
    together (as in scikit-learn's average_precision_score). NaN for the only image of a class.
    """
    units, _ = correlation_units(features)
    order = np.argsort(class_ids, kind="stable")
    begins = np.searchsorted(class_ids[order], class_ids, side="left")
    ends = np.searchsorted(class_ids[order], class_ids, side="right")
    precision = np.full(len(units), np.nan)
    for start in range(0, len(units), BLOCK):
        block = (units[start : start + BLOCK] @ units.T).round(DIGITS)
        for row, scores in enumerate(block, start):
            same = order[begins[row] : ends[row]]
            relevant = np.sort(scores[same[same != row]])[::-1]
            scores[row] = np.inf  # itself, which is taken off again below
            if len(relevant):
                ranked = np.sort(scores)
                above = len(ranked) - np.searchsorted(ranked, relevant, side="left") - 1
                hits = np.searchsorted(-relevant, -relevant, side="right")
                precision[row] = (hits / above).mean()
    return precision
