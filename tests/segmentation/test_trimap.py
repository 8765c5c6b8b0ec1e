"""Trimaps against dilations by a disc, and confusion matrices against torchmetrics."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.ndimage import distance_transform_edt
from torchmetrics.functional.classification import multiclass_confusion_matrix

from detransfer.data.masks import VOID
from detransfer.segmentation.by_distance import FAR, WIDTHS, anti_trimap, trimap
from detransfer.segmentation.confusion import confusion
from detransfer.segmentation.scores import class_counts
from detransfer.segmentation.trimap import confusion_by_distance, narrowest_trimap

CLASSES = 5


def disc(radius: int) -> np.ndarray:
    """Return the exact disc: all pixels whose centre is at most ``radius`` from the middle one."""
    away = np.arange(-radius, radius + 1) ** 2
    return (away[:, None] + away[None, :] <= radius**2).astype(np.uint8)


def dilated(truth: np.ndarray, width: int) -> np.ndarray:
    """Return the trimap as the paper makes it: the void dilated by a disc, without the void."""
    void = (truth == VOID).astype(np.uint8)
    return (cv2.dilate(void, disc(width), borderValue=0) > 0) & (truth != VOID)


def random_mask(seed: int, share: float, shape: tuple[int, int] = (90, 120)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, CLASSES, shape).astype(np.uint8)
    mask[rng.random(shape) < share] = VOID
    return mask


@pytest.mark.parametrize("share", [0.0002, 0.002, 0.02, 0.3])
def test_every_width_is_the_dilation_by_a_disc_to_the_pixel(share: float) -> None:
    for seed in range(3):
        truth = random_mask(seed, share)
        widths = narrowest_trimap(truth)
        assert widths.dtype == np.uint8 and widths.shape == truth.shape
        for width in range(1, WIDTHS + 1):
            np.testing.assert_array_equal((widths > 0) & (widths <= width), dilated(truth, width))
        np.testing.assert_array_equal(widths == 0, truth == VOID)
        assert widths.max() <= FAR


def test_a_square_would_be_another_band() -> None:
    truth = random_mask(0, 0.001)
    square = cv2.dilate((truth == VOID).astype(np.uint8), np.ones((21, 21), np.uint8)) > 0
    assert (square & (truth != VOID)).sum() > 1.1 * dilated(truth, 10).sum()


def test_distances_in_a_large_image_are_scipys() -> None:
    """Rounding must not move a pixel whose distance is whole, such as 5 = |(3, 4)|, to 6."""
    truth = random_mask(1, 0.001, (700, 900))
    exact = distance_transform_edt(truth != VOID)
    whole = np.ceil(np.sqrt(np.rint(exact**2)) - 1e-9).clip(max=FAR)
    np.testing.assert_array_equal(narrowest_trimap(truth), whole)


def test_without_void_all_pixels_are_far() -> None:
    truth = np.zeros((4, 6), np.uint8)
    assert (narrowest_trimap(truth) == FAR).all()
    counts = class_counts(confusion_by_distance(truth, truth, CLASSES))
    assert trimap(counts).sum() == 0
    assert (anti_trimap(counts)[:, 0] == 24).all()


def test_void_alone_has_no_pixel() -> None:
    truth = np.full((4, 6), VOID, np.uint8)
    assert confusion_by_distance(truth, np.zeros_like(truth), CLASSES).sum() == 0


VALUES = st.sampled_from([*range(CLASSES), VOID])
SIDES = arrays.array_shapes(min_dims=2, max_dims=2, max_side=60)


@settings(max_examples=60, deadline=None)
@given(st.data(), SIDES)
def test_trimap_and_anti_trimap_share_the_pixels_out(
    data: st.DataObject, shape: tuple[int, int]
) -> None:
    truth = data.draw(arrays.arrays(np.uint8, shape, elements=VALUES))
    predicted = data.draw(arrays.arrays(np.uint8, shape, elements=st.integers(0, CLASSES - 1)))
    counts = confusion_by_distance(truth, predicted, CLASSES)
    whole = confusion(truth, predicted, CLASSES)
    np.testing.assert_array_equal(counts.sum(0), whole)
    inside, outside = trimap(class_counts(counts)), anti_trimap(class_counts(counts))
    assert inside.shape == outside.shape == (WIDTHS, CLASSES, 3)
    np.testing.assert_array_equal(inside + outside, np.tile(class_counts(whole), (WIDTHS, 1, 1)))
    for width in (1, 2, 7, WIDTHS):
        band = dilated(truth, width)
        for part, counted in ((band, inside), (~band, outside)):
            kept = np.where(part, truth, VOID)
            np.testing.assert_array_equal(
                counted[width - 1], class_counts(confusion(kept, predicted, CLASSES))
            )


def test_confusion_is_that_of_torchmetrics() -> None:
    truth = random_mask(3, 0.1)
    predicted = np.random.default_rng(4).integers(0, CLASSES, truth.shape).astype(np.uint8)
    theirs = multiclass_confusion_matrix(
        torch.from_numpy(predicted).long(),
        torch.from_numpy(truth).long(),
        CLASSES,
        ignore_index=VOID,
    )
    np.testing.assert_array_equal(confusion(truth, predicted, CLASSES), theirs.numpy())
