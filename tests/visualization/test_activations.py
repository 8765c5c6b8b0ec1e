from __future__ import annotations

import numpy as np
import pytest
import torch

from detransfer.data.masks import VOID
from detransfer.data.views import central_view
from detransfer.visualization.activations import activation_maps, central_mask, enlarge
from detransfer.visualization.coverage import area_share, best_iou, inside_share


def test_maps_are_the_mean_over_channels_from_0_to_255() -> None:
    conv5 = torch.tensor([[[[0.0, 4.0], [2.0, 6.0]], [[2.0, 0.0], [2.0, 4.0]]]])
    expected = 255 * (np.array([[1, 2], [2, 5]]) - 1) / 4
    np.testing.assert_allclose(activation_maps(conv5)[0].numpy(), expected)
    flat = activation_maps(torch.full((1, 3, 2, 2), 0.7))
    assert (flat == 255).all()


def test_every_image_is_scaled_by_itself() -> None:
    conv5 = torch.rand(3, 4, 5, 5) * torch.tensor([1.0, 10.0, 100.0]).view(3, 1, 1, 1)
    maps = activation_maps(conv5)
    assert (maps.amin((1, 2)) == 0).all() and maps.amax((1, 2)).allclose(torch.tensor(255.0))


def slow_iou(activation: np.ndarray, labels: np.ndarray) -> float:
    found = []
    known = labels != VOID
    for threshold in np.unique(activation):
        chosen, truth = (activation >= threshold) & known, (labels > 0) & known
        found.append((chosen & truth).sum() / (chosen | truth).sum())
    return float(max(found))


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_the_best_threshold_is_that_of_trying_them_all(levels: int) -> None:
    rng = np.random.default_rng(levels)
    for _ in range(20):
        activation = rng.integers(0, levels, (9, 12)) / levels
        labels = rng.choice([0, 0, 0, 1, 7, VOID], (9, 12)).astype(np.uint8)
        activation += 0.5 * (labels == 7)
        activation[labels == VOID] = 2
        assert best_iou(activation, labels) == pytest.approx(slow_iou(activation, labels))


def test_a_planted_map_scores_what_was_planted() -> None:
    labels = np.zeros((20, 20), np.uint8)
    labels[4:14, 4:14] = 3
    labels[3, 3:15] = VOID
    whole = np.where(labels == 3, 200.0, 0)
    assert inside_share(whole, labels) == best_iou(whole, labels) == 1
    part = np.zeros((20, 20))
    part[4:9, 4:9] = 10  # a quarter of the object, and nothing else
    assert inside_share(part, labels) == 1
    # Either only the part, or everything that is labelled: 388 pixels.
    assert best_iou(part, labels) == pytest.approx(max(25 / 100, 100 / 388))
    half = whole + 100 * (labels == 0)  # 288 pixels of background with half the mass
    assert inside_share(half, labels) == pytest.approx(20000 / (20000 + 28800))
    assert best_iou(half, labels) == 1
    assert best_iou(-whole, labels) == pytest.approx(100 / 388)


def test_a_flat_map_scores_the_objects_area_in_both() -> None:
    labels = np.array([[0, 1, 1, VOID], [0, 0, 0, VOID]], np.uint8)
    flat = np.full(labels.shape, 255.0)
    assert inside_share(flat, labels) == best_iou(flat, labels) == area_share(labels) == 2 / 6


def test_without_an_object_there_is_no_number() -> None:
    labels = np.array([[0, 0, VOID]], np.uint8)
    assert np.isnan(
        [inside_share(np.ones((1, 3)), labels), best_iou(np.ones((1, 3)), labels)]
    ).all()


def test_maps_are_enlarged_between_the_middles_of_their_cells() -> None:
    small = np.array([[[0.0, 8.0]]])
    assert enlarge(small, 8)[0, 3].tolist() == [0, 0, 0.0 + 1, 3, 5, 7, 8, 8]


@pytest.mark.parametrize(("height", "width"), [(60, 90), (90, 60), (31, 77), (128, 128)])
def test_masks_are_seen_as_their_images_are(height: int, width: int) -> None:
    """A mask drawn as an image comes out where the mask does."""
    rows, columns = np.mgrid[:height, :width]
    mask = ((rows * 3 // height + columns * 4 // width) % 2).astype(np.uint8)
    image = torch.from_numpy(np.repeat(mask[None] * 255, 3, 0))
    seen = central_view(image, 48, 56)[0].numpy()
    labels = central_mask(mask, 48, 56)
    sure = (seen < 30) | (seen > 225)  # not between two blocks
    assert sure.mean() > 0.6
    np.testing.assert_array_equal(labels[sure], seen[sure] > 127)
