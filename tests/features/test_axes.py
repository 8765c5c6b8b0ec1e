from __future__ import annotations

import numpy as np

from detransfer.features.axes import LEAST, SHARE, leading_axes


def test_axes_are_orthonormal_and_hold_what_the_principal_ones_do() -> None:
    rng = np.random.default_rng(0)
    dimension = SHARE * 80
    values = rng.normal(size=(5000, dimension)) / np.sqrt(1 + np.arange(dimension))
    axes = leading_axes(np.float32(values))
    assert axes.shape == (dimension, 80) and axes.dtype == np.float32
    np.testing.assert_allclose(axes.T @ axes, np.eye(80), atol=1e-5)
    assert leading_axes(np.float32(values), 4).shape == (dimension, 160)
    kept = ((values @ axes) ** 2).sum()
    best = np.linalg.svd(values, compute_uv=False)[:80]
    assert kept > 0.98 * (best**2).sum()


def test_few_dimensions_and_constants() -> None:
    axes = leading_axes(np.zeros((30, 12), np.float32))
    np.testing.assert_allclose(axes.T @ axes, np.eye(12), atol=1e-6)
    assert leading_axes(np.ones((9, 100), np.float32)).shape == (100, LEAST)
