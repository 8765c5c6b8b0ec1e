"""The few directions along which features vary most: a cheap first look at distances."""

from __future__ import annotations

import numpy as np

SHARE, LEAST = 8, 64  # one of so many dimensions, and so many axes at least
SAMPLE = 4096  # images that they are found from
ROUNDS = 3  # of subspace iteration


def leading_axes(values: np.ndarray, share: int = SHARE) -> np.ndarray:
    """Return orthonormal axes (d, r) float32 near to the leading principal ones of values (n, d).

    One axis for each ``share`` dimensions, and LEAST at least, where there are so many dimensions.
    By subspace iteration (Halko, Martinsson and Tropp 2011) on some of the images, which takes a
    fraction of a decomposition. They need not be the best: who uses them makes up for the rest.
    """
    sample = values[:: max(len(values) // SAMPLE, 1)][:SAMPLE].astype(np.float32)
    count = min(max(values.shape[1] // share, LEAST), values.shape[1])
    axes = np.random.default_rng(0).standard_normal((values.shape[1], count), np.float32)
    for _ in range(ROUNDS):
        axes, _ = np.linalg.qr(sample.T @ (sample @ axes))
    return axes
