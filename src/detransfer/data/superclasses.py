"""Super-classes: classes grouped by the means of their images' features (R-FCN-3000).

R-FCN-3000 detects super-classes and tells the classes inside them apart by a second head. It finds
them by k-means on class-mean features; one super-class is plain objectness, which the authors'
released code uses.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from detransfer.console import InputError

RESTARTS = 10  # of k-means; the best by inertia is kept
BLOCK = 8192  # rows in memory at a time: 64 MiB of 2,048 features


def cluster(
    features: np.ndarray,
    rows: np.ndarray,
    class_ids: np.ndarray,
    names: Sequence[str],
    k: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Group the classes into ``k`` super-classes by k-means on their normalised mean features.

    Features are (n, d) float32, memory-mapped if they are large. The pair ``rows[i]``,
    ``class_ids[i]`` (int) says that an image, a row of the features, shows a class; an image may
    show several. ``names`` are all classes in order of id. Returns the super-class (0 to k - 1) of
    each class and the (k, d) float64 centres. The means are scaled to length 1 (a zero mean stays),
    k-means runs ten times from ``seed`` on one thread, and the super-classes are numbered in order
    of their first class, so that equal input gives equal output. Raises InputError as
    :func:`class_means`, for more super-classes than classes, and for fewer different means than k.
    """
    if not 1 <= k <= len(names):
        raise InputError(f"{k} super-classes of {len(names)} classes: give 1 to {len(names)}")
    means = class_means(features, rows, class_ids, names)
    length = np.linalg.norm(means, axis=1, keepdims=True)
    unit = means / np.where(length > 0, length, 1)
    different = len(np.unique(unit, axis=0))
    if different < k:
        raise InputError(
            f"{k} super-classes, but the classes have only {different} different mean features; "
            "give a smaller number"
        )
    with threadpool_limits(1):  # the order of sums, and so the last bits, depend on the threads
        fitted = KMeans(k, n_init=RESTARTS, random_state=seed).fit(unit)
    order = list(dict.fromkeys(fitted.labels_.tolist()))
    number = np.argsort(order)
    return number[fitted.labels_], fitted.cluster_centers_[order]


def class_means(
    features: np.ndarray,
    rows: np.ndarray,
    class_ids: np.ndarray,
    names: Sequence[str],
    block: int = BLOCK,
) -> np.ndarray:
    """Return the (classes, d) float64 means, reading ``block`` rows of the features at a time.

    Arguments as :func:`cluster`. Raises InputError for pairs that lead nowhere, for classes without
    an image (naming them) and for features that are not finite.
    """
    if len(rows) and not (rows.min() >= 0 and rows.max() < len(features)):
        raise InputError(f"an image is row {rows.max()} of {len(features)} features")
    if len(rows) and not (class_ids.min() >= 0 and class_ids.max() < len(names)):
        raise InputError(f"an image is of class {class_ids.max()}, but there are {len(names)}")
    counts = np.bincount(class_ids, minlength=len(names))
    if empty := [names[number] for number in np.flatnonzero(counts == 0).tolist()]:
        raise InputError(
            f"{len(empty)} classes have no image and so no mean feature: {', '.join(empty[:10])}"
        )
    shows = scipy.sparse.csc_array(
        (np.ones(len(rows)), (class_ids, rows)), shape=(len(names), len(features))
    )
    total = np.zeros((len(names), features.shape[1]))
    for start in range(0, len(features), block):
        part = np.asarray(features[start : start + block], np.float64)
        if not np.isfinite(part).all():
            row = start + int(np.flatnonzero(~np.isfinite(part).all(1))[0])
            raise InputError(f"the features of row {row} are not finite")
        total += shows[:, start : start + block] @ part
    return total / counts[:, None]
