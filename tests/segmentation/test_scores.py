"""Scores of counts against torchmetrics and by hand, and the table they are kept in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_jaccard_index,
)

from detransfer.segmentation.scores import (
    all_background,
    class_counts,
    iou,
    mean_iou,
    pixel_accuracy,
)

CLASSES = 21


def pixels_of(matrix: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a (predicted, true) pair of pixel lists with this confusion matrix."""
    truth, predicted = np.nonzero(matrix)
    times = matrix[truth, predicted]
    return tuple(torch.from_numpy(np.repeat(each, times)) for each in (predicted, truth))


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_torchmetrics(seed: int) -> None:
    matrix = np.random.default_rng(seed).integers(0, 9, (CLASSES, CLASSES))
    matrix[np.diag_indices(CLASSES)] += 1
    counts = class_counts(matrix)
    predicted, truth = pixels_of(matrix)
    theirs = multiclass_jaccard_index(predicted, truth, CLASSES, average="none").double()
    np.testing.assert_allclose(iou(counts), theirs, rtol=1e-6)
    mean = multiclass_jaccard_index(predicted, truth, CLASSES).double()
    assert mean_iou(counts) == pytest.approx(float(mean), rel=1e-6)
    share = multiclass_accuracy(predicted, truth, CLASSES, average="micro")
    assert pixel_accuracy(counts) == pytest.approx(float(share), rel=1e-6)


def test_scores_by_hand() -> None:
    # Truth 6 and 4 pixels; 5 and 2 right: IoU 5 / (6 + 7 - 5) and 2 / (4 + 3 - 2).
    counts = class_counts(np.array([[5, 1], [2, 2]]))
    assert counts.tolist() == [[5, 6, 7], [2, 4, 3]]
    assert iou(counts).tolist() == [5 / 8, 2 / 5]
    assert mean_iou(counts) == pytest.approx((5 / 8 + 2 / 5) / 2)
    assert pixel_accuracy(counts) == 0.7
    floor = all_background(counts)
    # All background: 6 of 10 right, IoU 6 / 10 and 0.
    assert iou(floor).tolist() == [0.6, 0.0] and pixel_accuracy(floor) == 0.6


def test_an_absent_class_has_no_score_and_does_not_lower_the_mean() -> None:
    matrix = np.zeros((3, 3), int)
    matrix[0] = [4, 0, 2]  # class 2 is predicted and nowhere true, class 1 is neither
    counts = class_counts(matrix)
    assert np.isnan(iou(counts)[1:]).all()
    assert mean_iou(counts) == iou(counts)[0] == 4 / 6
    assert np.isnan(mean_iou(np.zeros((3, 3), int)))
    assert np.isnan(pixel_accuracy(np.zeros((3, 3), int)))


def test_a_perfect_prediction_scores_one() -> None:
    counts = class_counts(np.diag([7, 1, 3]))
    assert mean_iou(counts) == pixel_accuracy(counts) == 1.0


def test_many_counts_are_scored_at_once() -> None:
    matrices = np.random.default_rng(0).integers(0, 5, (2, 4, 3, 3))
    counts = class_counts(matrices)
    assert counts.shape == (2, 4, 3, 3)
    for place in np.ndindex(2, 4):
        single = class_counts(matrices[place])
        np.testing.assert_array_equal(mean_iou(counts)[place], mean_iou(single))
        np.testing.assert_array_equal(all_background(counts)[place], all_background(single))
