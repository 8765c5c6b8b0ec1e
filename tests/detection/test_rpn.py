from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import nms

from detransfer.detection.rpn import IGNORED, ScaleAwareRpn, in_range
from detransfer.detection.sampling import KeyedSampler
from detransfer.recipes.detection import RpnRecipe
from tests.detection.targets import iou, random_boxes, target


def rpn(**changes: Any) -> ScaleAwareRpn:
    values = {"channels": 8, "anchor_sizes": (16, 32), "border": 1e9, "batch_per_chip": 64}
    torch.manual_seed(0)
    return ScaleAwareRpn(8, RpnRecipe(**{**values, **changes}))


# Labels of anchors


def plain_rpn() -> RegionProposalNetwork:
    anchors = AnchorGenerator(((16, 32),), ((0.5, 1.0, 2.0),))
    top = {"training": 100, "testing": 100}
    return RegionProposalNetwork(anchors, RPNHead(8, 6), 0.5, 0.4, 64, 0.5, top, top, 0.7)


@pytest.mark.parametrize("seed", range(4))
def test_without_invalid_objects_anchors_are_labelled_as_by_torchvision(seed: int) -> None:
    anchors = [random_boxes(300, seed), random_boxes(300, seed + 50)]
    targets = [target(random_boxes(4, seed + 10)), target([])]
    labels, matched = rpn().assign_targets_to_anchors(anchors, targets)
    expected, expected_boxes = plain_rpn().assign_targets_to_anchors(anchors, targets)
    assert all(torch.equal(a, b) for a, b in zip(labels, expected, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(matched, expected_boxes, strict=True))
    assert set(labels[0].tolist()) == {-1.0, 0.0, 1.0}
    assert not labels[1].any()


@pytest.mark.parametrize("seed", range(4))
def test_anchors_near_invalid_objects_or_far_outside_are_left_out(seed: int) -> None:
    anchors = random_boxes(300, seed, beyond=20)
    boxes = random_boxes(6, seed + 10)
    valid = [True, False, True, False, True, False]
    chip = target(boxes, valid=valid, size=(40, 60))
    (labels,), _ = rpn(ignore_iou=0.2, border=10).assign_targets_to_anchors([anchors], [chip])
    (own,), _ = plain_rpn().assign_targets_to_anchors([anchors], [{"boxes": boxes[::2]}])
    near, outside = 0, 0
    for label, anchor, without in zip(labels.tolist(), anchors, own.tolist(), strict=True):
        x1, y1, x2, y2 = anchor.tolist()
        leaves = x1 < -10 or y1 < -10 or x2 > 70 or y2 > 50
        meets = any(iou(anchor, box) > 0.2 for box in boxes[1::2])
        outside, near = outside + leaves, near + meets
        assert label == (-1.0 if leaves or meets else without)
    assert 10 < near < 250 and 10 < outside < 250


def test_an_invalid_object_overrides_a_valid_one_beyond_the_overlap_only() -> None:
    anchors = torch.tensor([[0, 0, 20, 20], [40, 40, 60, 60], [0, 0, 20, 40.0]])
    # IoU of the invalid object with the anchors: 0.5, 0 and 0.25.
    chip = target([[0, 0, 20, 20], [40, 40, 60, 60], [0, 0, 20, 10]], valid=[True, True, False])
    (at,), _ = rpn(ignore_iou=0.5).assign_targets_to_anchors([anchors], [chip])
    (above,), _ = rpn(ignore_iou=0.49).assign_targets_to_anchors([anchors], [chip])
    assert at.tolist() == [1, 1, 1]
    assert above.tolist() == [-1, 1, 1]


def test_without_valid_objects_all_is_background_but_what_is_ignored() -> None:
    anchors = torch.tensor([[0, 0, 20, 20], [2, 2, 20, 20], [30, 30, 50, 50], [0, 0, 9, 9.0]])
    chip = target([[0, 0, 20, 20]], labels=[IGNORED], valid=[False])
    (labels,), _ = rpn().assign_targets_to_anchors([anchors], [chip])
    assert labels.tolist() == [-1, -1, 0, 0]


def test_the_border_is_counted_from_the_image_without_padding() -> None:
    inside = [[-8, 0, 4, 4], [0, -8, 4, 4], [36, 0, 40, 4], [0, 52, 4, 56]]
    beyond = [[-9, 0, 4, 4], [0, -9, 4, 4], [36, 0, 41, 4], [0, 52, 4, 57]]
    anchors = torch.tensor(inside + beyond, dtype=torch.float32)
    chip = target([], size=(48, 32))
    (labels,), _ = rpn(border=8).assign_targets_to_anchors([anchors], [chip])
    assert labels.tolist() == [0] * 4 + [-1] * 4


# Proposals


def slow_proposals(boxes: Tensor, scores: Tensor, chip: dict[str, Tensor], count: int) -> Tensor:
    height, width = chip["size"]
    low, high = chip["valid_range"].tolist()
    limits = torch.tensor([width, height, width, height], dtype=torch.float32)
    boxes = torch.minimum(boxes.clamp(min=0), limits)
    sides = boxes[:, 2:] - boxes[:, :2]
    size = sides.prod(1).sqrt()
    kept = (sides > 1e-3).all(1) & (size >= low) & (size < high)
    boxes, scores = boxes[kept], scores[kept]
    return boxes[nms(boxes, scores, 0.7)][:count]


@pytest.mark.parametrize("seed", range(3))
def test_proposals_out_of_range_are_absent_in_training(seed: int) -> None:
    boxes = torch.stack([random_boxes(300, seed, beyond=10), random_boxes(300, seed + 9)])
    scores = torch.randn(2, 300, generator=torch.Generator().manual_seed(seed))
    targets = [
        target([], valid_range=(0, 20), size=(40, 64)),
        target([], valid_range=(18, math.inf)),
    ]
    network = rpn(train_before=300, train_proposals=50)
    network._targets = targets
    before = scores.clone()
    shapes = [(40, 64), (64, 64)]
    found, _ = network.filter_proposals(boxes, scores.reshape(-1, 1), shapes, [300])
    for got, own, score, chip in zip(found, boxes, scores, targets, strict=True):
        assert torch.equal(got, slow_proposals(own, score, chip, 50))
        assert 5 < len(got) <= 50
        assert in_range(got, chip["valid_range"]).all()
    assert torch.equal(scores, before)  # the loss reads the same tensor afterwards


def test_proposals_out_of_range_take_no_place_and_suppress_nothing() -> None:
    large, small = [0, 0, 40, 40], [0, 0, 36, 36]  # IoU 0.81
    boxes = torch.tensor([[large, small, [50, 50, 60, 60]]], dtype=torch.float32)
    scores = torch.tensor([5.0, 1.0, 0.0]).reshape(-1, 1)
    network = rpn(train_before=2, train_proposals=2)
    network._targets = [target([], valid_range=(0, 38))]
    (found,), _ = network.filter_proposals(boxes, scores, [(64, 64)], [3])
    assert found.tolist() == [small, [50, 50, 60, 60]]


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(10, 20, [0, 1, 1, 0]), (0, 10, [1, 0, 0, 0])]
)
def test_a_range_holds_its_lower_end_and_not_its_upper(
    low: float, high: float, expected: list[int]
) -> None:
    boxes = torch.tensor([[0, 0, 9, 9], [0, 0, 5, 20], [0, 0, 40, 9], [5, 5, 25, 25.0]])
    assert in_range(boxes, torch.tensor([low, high])).tolist() == [bool(v) for v in expected]


# What is sampled, and the losses


def labelled(chips: int, seed: int) -> list[Tensor]:
    """Return labels of 60 anchors a chip: -1 (left out), 0 or 1; the last has few to choose of."""
    generator = torch.Generator().manual_seed(seed)
    labels = [torch.randint(-1, 2, (60,), generator=generator).float() for _ in range(chips)]
    labels[-1][:50] = -1
    return labels


def test_a_chips_sample_depends_on_its_key_alone() -> None:
    labels = labelled(4, 0)
    sampler = KeyedSampler(16, 0.25, stream=0)
    sampler.keys = [7, 8, 9, 10]
    together = sampler(labels)
    for order in ([2], [3, 0], [1, 2, 0]):
        sampler.keys = [7 + number for number in order]
        alone = sampler([labels[number] for number in order])
        for kind in (0, 1):
            for place, number in enumerate(order):
                assert torch.equal(alone[kind][place], together[kind][number])
    sampler.keys = [17, 18, 19, 20]
    assert not torch.equal(sampler(labels)[1][0], together[1][0])
    other = KeyedSampler(16, 0.25, stream=1)
    other.keys = [7, 8, 9, 10]
    assert not torch.equal(other(labels)[1][0], together[1][0])


def test_as_many_are_sampled_as_torchvision_does() -> None:
    labels = labelled(5, 1)
    sampler = KeyedSampler(16, 0.25, stream=0)
    sampler.keys = range(5)
    for own, expected in zip(
        sampler(labels), BalancedPositiveNegativeSampler(16, 0.25)(labels), strict=True
    ):
        assert [int(mask.sum()) for mask in own] == [int(mask.sum()) for mask in expected]
    for objects, background, label in zip(*sampler(labels), labels, strict=True):
        assert (label[objects.bool()] == 1).all() and (label[background.bool()] == 0).all()


def test_all_anchors_are_equally_likely() -> None:
    label, sampler = torch.zeros(20), KeyedSampler(5, 0.5, stream=0)
    counts = torch.zeros(20)
    for number in range(2000):
        sampler.keys = [number]
        counts += sampler([label])[1][0]
    assert (counts - 500).abs().max() < 5 * (2000 * 0.25 * 0.75) ** 0.5


def test_the_losses_are_torchvisions() -> None:
    labels, generator = labelled(3, 2), torch.Generator().manual_seed(3)
    objectness = torch.randn(180, 1, generator=generator)
    deltas, wanted = (torch.randn(180, 4, generator=generator) for _ in range(2))
    rpn = ScaleAwareRpn(8, RpnRecipe(anchor_sizes=(16,), batch_per_chip=16))
    rpn.fg_bg_sampler.keys = [1, 2, 3]
    arguments = (objectness, deltas, labels, list(wanted.split(60)))
    expected = RegionProposalNetwork.compute_loss(rpn, *arguments)
    for own, other in zip(rpn.compute_loss(*arguments), expected, strict=True):
        assert torch.allclose(own, other) and float(own) > 0.1
