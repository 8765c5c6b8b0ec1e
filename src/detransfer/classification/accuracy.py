"""How often a classifier is right, and which training images are held out to choose by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detransfer.console import InputError

HELD_OUT = 5  # one image of so many is held out
PERMUTED = 1_000_003  # keeps the draw of permuted labels apart from all others of a seed
RESAMPLES = 10_000
INTERVAL = (2.5, 97.5)  # percent: a 95 % interval


@dataclass(frozen=True)
class Accuracy:
    """Accuracies in percent, each with that of the best constant answer as its floor."""

    top1: float
    top1_floor: float
    mean_class: float
    mean_class_floor: float


def accuracy(class_ids: np.ndarray, predicted: np.ndarray) -> Accuracy:
    """Return the accuracies of ``predicted`` (n,) against the true ``class_ids`` (n,).

    Top-1 is the share of right answers; the mean over classes weighs each class that occurs in
    ``class_ids`` alike. The floor of top-1 is the share of the largest class, that of the mean one
    over the number of classes.
    """
    present, place, counts = np.unique(class_ids, return_inverse=True, return_counts=True)
    right = predicted == class_ids
    recall = np.bincount(place, weights=right) / counts
    return Accuracy(
        top1=float(100 * right.mean()),
        top1_floor=float(100 * counts.max() / counts.sum()),
        mean_class=float(100 * recall.mean()),
        mean_class_floor=100 / len(present),
    )


def bootstrap_interval(right: np.ndarray, seed: int) -> tuple[float, float]:
    """Return the 95 % interval of the share of ``right`` (n,) in percent, over its images.

    The percentile bootstrap: of n images drawn with replacement, the number that are right is
    binomial.
    """
    n = len(right)
    drawn = np.random.default_rng((seed, n)).binomial(n, right.mean(), RESAMPLES)
    low, high = np.percentile(100 * drawn / n, INTERVAL)
    return float(low), float(high)


def held_out(class_ids: np.ndarray, seed: int) -> np.ndarray:
    """Return which training images (n,) bool are held out to choose by: a fifth of each class.

    The draw depends on the seed and the classes alone. A class of one or two images keeps them
    all. Raises InputError where nothing would be held out.
    """
    order = np.random.default_rng((seed, HELD_OUT)).permutation(len(class_ids))
    place = place_in_class(class_ids, order)
    chosen = place < np.round(np.bincount(class_ids) / HELD_OUT)[class_ids]
    if not chosen.any():
        raise InputError(
            "no class has more than two training images, so that a fifth could be held out to "
            "choose by; add images, or give one penalty, one learning rate and one weight decay"
        )
    return chosen


def permuted(class_ids: np.ndarray, seed: int) -> np.ndarray:
    """Return the classes (n,) dealt out among the images anew: what is learnt then is nothing."""
    return np.random.default_rng((seed, PERMUTED)).permutation(class_ids)


def place_in_class(class_ids: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return the place (n,) of each image among those of its class, counted along ``order``."""
    sorted_rows = order[np.argsort(class_ids[order], kind="stable")]
    counts = np.bincount(class_ids)
    starts = np.cumsum(counts) - counts
    place = np.empty(len(class_ids), np.int64)
    place[sorted_rows] = np.arange(len(class_ids)) - starts[class_ids[sorted_rows]]
    return place
