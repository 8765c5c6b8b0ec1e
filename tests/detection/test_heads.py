"""The heads: which RoIs they learn from, their losses, and what they detect."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss

from detransfer.backbone import build
from detransfer.console import InputError
from detransfer.detection.detector import Detector
from detransfer.detection.heads import FasterRcnnHead, Rfcn3000Head, Rois, _losses
from detransfer.detection.rpn import IGNORED
from detransfer.recipes.detection import FasterRcnnRecipe, Rfcn3000Recipe
from tests.detection.rectangles import TINY, detection_recipe
from tests.detection.targets import iou, random_boxes, target

SIZES = [(48, 64), (64, 40), (64, 64)]


def faster_rcnn(**changes: Any) -> FasterRcnnRecipe:
    values = {"conv_proj": 4, "roi_size": 2, "hidden": 8, "rois_per_chip": 1000}
    return FasterRcnnRecipe(kind="faster_rcnn", **{**values, **changes})


def rfcn3000(**changes: Any) -> Rfcn3000Recipe:
    values = {"superclasses": 3, "projection": 6, "roi_size": 3, "hidden": 8, "rois_per_chip": 1000}
    return Rfcn3000Recipe(kind="rfcn3000", **{**values, **changes})


def rois(**changes: Any) -> Rois:
    torch.manual_seed(0)
    return Rois(faster_rcnn(**changes))


def decoupled(classes: int = 5, **changes: Any) -> Rfcn3000Head:
    torch.manual_seed(0)
    head = Rfcn3000Head(4, 4, classes, 16, rfcn3000(**changes))
    head.group([0, 2, 1, 0, 2])
    for layer in (head.superclass_maps, head.box_maps, head.classifier):
        nn.init.normal_(layer.weight, std=0.5)
    return head


# The head's sample


@pytest.mark.parametrize("seed", range(4))
def test_rois_get_the_label_of_the_best_object(seed: int) -> None:
    boxes = torch.cat([random_boxes(6, seed), torch.tensor([[0, 0, 6, 6.0], [0, 0, 64, 64]])])
    labels = [1, IGNORED, 2, IGNORED, 3, 1, 2, IGNORED]
    chip = target(boxes, labels, valid=[False] * 8, valid_range=(8, 50))
    noise = torch.rand(10, 8, 4, generator=torch.Generator().manual_seed(seed)) * 12 - 6
    proposals = (boxes + noise).reshape(-1, 4).clamp(0, 64)
    proposals = proposals[((proposals[:, 2:] - proposals[:, :2]) > 1).all(1)]
    sample = rois().sample([proposals], [chip])
    given, deltas = sample.labels, sample.regression
    sides = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()
    objects = boxes[(sides >= 8) & (sides < 50)]
    expected = []
    for roi in torch.cat([proposals, objects]):
        overlaps = [iou(roi, box) for box in boxes]
        best = max(range(len(boxes)), key=overlaps.__getitem__)
        label = labels[best] if overlaps[best] >= 0.5 else 0
        if label != IGNORED:
            expected.append((tuple(roi.tolist()), label))
    found = [tuple(roi) for roi in sample.rois[0].tolist()]
    assert list(zip(found, given[0].tolist(), strict=True)) == expected
    assert {0, 1} < set(given[0].tolist()) and len(expected) < len(proposals) + len(objects)
    assert deltas[0].shape == (len(expected), 4)


def test_objects_join_the_rois_by_their_size_alone() -> None:
    small, large, other = [0, 0, 8, 8], [0, 0, 60, 60], [30, 30, 46, 46]
    chip = target([small, large, other], [1, 2, 3], [True, True, False], valid_range=(0, 20))
    nothing = torch.zeros(0, 4)
    sample = rois().sample([nothing], [chip])
    assert sample.rois[0].tolist() == [small, other]
    assert sample.labels[0].tolist() == [1, 3]


def test_ignored_objects_are_neither_background_nor_learnt() -> None:
    crowd, cat = [0, 0, 20, 20], [40, 40, 60, 60]
    near = [[0, 0, 20, 10], [0, 0, 20, 9], [40, 40, 60, 50], [40, 40, 60, 49]]  # IoU .5 and .45
    chip = target([crowd, cat], [IGNORED, 2], [False, True])
    sample = rois().sample([torch.tensor(near).float()], [chip])
    assert sample.rois[0].tolist() == [near[1], near[2], near[3], cat]
    assert sample.labels[0].tolist() == [0, 2, 0, 2]


def test_the_sample_is_as_large_and_as_positive_as_the_recipe_says() -> None:
    proposals = torch.tensor([[0, 0, 20, 20]] * 30 + [[40, 40, 60, 60]] * 30).float()
    chip = target([[0, 0, 20, 20]])
    few = rois(rois_per_chip=16, positive_share=0.25)
    labels = few.sample([proposals], [chip]).labels
    assert sorted(labels[0].tolist()) == [0] * 12 + [1] * 4


def test_a_chip_without_rois_gets_itself_as_one() -> None:
    """A trained RPN may propose nothing of the chip's size; that must not stop the training."""
    chip = target([[0, 0, 6, 6]], [2], valid_range=(30, 60), size=(40, 48))
    full = target([[4, 4, 44, 44]], [1])
    proposals = [torch.zeros(0, 4), torch.zeros(0, 4)]
    sample = rois().sample(proposals, [chip, full])
    assert sample.rois[0].tolist() == [[0, 0, 48, 40]] and sample.labels[0].tolist() == [0]
    assert sample.rois[1].tolist() == [[4, 4, 44, 44]] and sample.labels[1].tolist() == [1]


# Losses and detections


def test_the_losses_are_torchvisions_for_a_shared_regression() -> None:
    torch.manual_seed(0)
    scores, box = torch.randn(7, 4), torch.randn(7, 4)
    wanted, labels = torch.randn(7, 4), torch.tensor([0, 1, 2, 3, 0, 2, 1])
    given = _losses(scores, box, labels, wanted)
    classes, boxes = fastrcnn_loss(scores, box.repeat(1, 4), [labels], [wanted])
    torch.testing.assert_close(given["loss_classifier"], classes)
    torch.testing.assert_close(given["loss_box_reg"], boxes)


def test_losses_without_any_object_are_finite() -> None:
    labels = torch.zeros(3, dtype=torch.long)
    given = _losses(torch.randn(3, 4), torch.randn(3, 4), labels, torch.randn(3, 4))
    assert float(given["loss_box_reg"]) == 0 and given["loss_classifier"].isfinite()


def rows(boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
    table = torch.cat([boxes, scores[:, None], labels[:, None].float()], 1)
    return torch.tensor(sorted(table.tolist())).reshape(-1, 6)


def test_detections_are_torchvisions_without_suppression() -> None:
    classes, counts = 3, [40, 0, 25]
    own = rois()
    own.score_thresh = 0.2
    torch.manual_seed(1)
    logits, box = torch.randn(65, classes + 1), torch.randn(65, 4) * 3
    proposals = [random_boxes(n, n) for n in counts]
    oracle = RoIHeads(None, None, None, 0.5, 0.5, 10, 0.5, None, 0.2, 1.0, 10**6)
    given = own.detections(logits.softmax(-1)[:, 1:], box, proposals, SIZES)
    wanted = oracle.postprocess_detections(logits, box.repeat(1, classes + 1), proposals, SIZES)
    for place, count in enumerate(counts):
        boxes, scores, labels = (given[place][name] for name in ("boxes", "scores", "labels"))
        assert torch.allclose(
            rows(boxes, scores, labels + 1), rows(*(part[place] for part in wanted)), atol=1e-5
        )
        assert bool(count) == bool(len(boxes))
        assert len(labels) == 0 or set(labels.tolist()) == {0, 1, 2}


@pytest.mark.parametrize("head", [FasterRcnnHead(4, 3, 16, faster_rcnn()), decoupled()])
def test_no_proposals_at_all_give_no_detections(head: nn.Module) -> None:
    found, losses = head(torch.rand(2, 4, 4, 4), [torch.zeros(0, 4)] * 2, [(64, 64)] * 2, None)
    assert losses == {}
    assert [{name: len(v) for name, v in one.items()} for one in found] == [
        {"boxes": 0, "scores": 0, "labels": 0}
    ] * 2


def test_layers_follow_one_another_as_in_the_paper() -> None:
    """ConvProj -> blob -> FC1 -> FC2 -> scores and box, by a straight computation."""
    torch.manual_seed(0)
    head = FasterRcnnHead(4, 3, 16, faster_rcnn()).eval()
    head.rois.score_thresh = 0.0
    features, boxes = torch.randn(1, 4, 4, 4), random_boxes(6, 3)
    (found,), _ = head(features, [boxes], [(64, 64)], None)
    projected = torch.relu(
        torch.einsum("oc,bchw->bohw", head.conv_proj.weight[:, :, 0, 0], features)
        + head.conv_proj.bias.view(1, -1, 1, 1)
    )
    blob = head.blob(projected, [boxes]).reshape(6, -1)
    hidden = torch.relu(blob @ head.fc1.weight.T + head.fc1.bias)
    hidden = torch.relu(hidden @ head.fc2.weight.T + head.fc2.bias)
    scores = (hidden @ head.scores.weight.T + head.scores.bias).softmax(1)[:, 1:]
    assert head.fc1.in_features == 4 * 2 * 2
    torch.testing.assert_close(found["scores"].sort().values, scores.flatten().sort().values)


# R-FCN-3000


def slow_vote(maps: Tensor, box: list[float], side: int) -> np.ndarray:
    """Position-sensitive RoI pooling from its definition: 2 x 2 bilinear samples a cell, averaged.

    Cell (i, j) of output channel c reads channel (c * side + i) * side + j.
    """
    values = maps.detach().numpy()[0]
    height, width = values.shape[1:]
    x1, y1, x2, y2 = (v / 16 - 0.5 for v in box)
    cell_w, cell_h = (x2 - x1) / side, (y2 - y1) / side
    result = np.zeros(len(values) // side**2)
    for channel in range(len(result)):
        for i in range(side):
            for j in range(side):
                own = values[(channel * side + i) * side + j]
                for a in (0.25, 0.75):
                    for b in (0.25, 0.75):
                        y = min(max(y1 + (i + a) * cell_h, 0), height - 1)
                        x = min(max(x1 + (j + b) * cell_w, 0), width - 1)
                        low_y, low_x = min(int(y), height - 2), min(int(x), width - 2)
                        fy, fx = y - low_y, x - low_x
                        top = own[low_y, low_x] * (1 - fx) + own[low_y, low_x + 1] * fx
                        below = own[low_y + 1, low_x] * (1 - fx) + own[low_y + 1, low_x + 1] * fx
                        result[channel] += (top * (1 - fy) + below * fy) / 4 / side**2
    return result


@torch.no_grad()
def test_decoupled_scores_equal_naive_loops() -> None:
    head = decoupled().eval()
    head.rois.score_thresh = 0.0
    torch.manual_seed(2)
    features = torch.randn(1, 4, 4, 4)
    boxes = torch.tensor([[8, 8, 40, 56], [20, 12, 60, 36.0]])  # inside, so that no rule of edges
    (found,), _ = head(features, [boxes], [(64, 64)], None)
    maps = head.superclass_maps(head.projection(features))
    for box in boxes.tolist():
        votes = slow_vote(maps, box, 3)
        parents = np.exp(votes) / np.exp(votes).sum()
        pooled = head.blob(features, [torch.tensor([box])]).mean((2, 3))
        logits = head.classifier(torch.relu(head.hidden(pooled)))[0].tolist()
        share = np.exp(logits) / np.exp(logits).sum()
        for label, parent in enumerate([0, 2, 1, 0, 2]):
            wanted = parents[1 + parent] * share[label]
            assert np.isclose(found["scores"][found["labels"] == label], wanted, atol=1e-5).any()
    assert len(found["scores"]) == 2 * 5


def test_classes_are_told_apart_on_conv5_alone() -> None:
    """Where Conv4 stands before it, super-classes and boxes read that too."""
    torch.manual_seed(0)
    head, both = decoupled(), Rfcn3000Head(3 + 4, 4, 5, 16, rfcn3000())
    for part in ("hidden", "classifier"):
        both.get_submodule(part).load_state_dict(head.get_submodule(part).state_dict())
    conv4, conv5, boxes = torch.randn(1, 3, 4, 4), torch.randn(1, 4, 4, 4), [random_boxes(6, 3)]
    maps = torch.cat([conv4, conv5], 1).requires_grad_()
    logits = both.classify(maps, boxes)
    assert torch.equal(logits, head.classify(conv5, boxes))
    assert torch.equal(both.layers(maps, boxes)["hidden"], head.layers(conv5, boxes)["hidden"])
    (slope,) = torch.autograd.grad(both.projection(maps).sum(), maps)
    assert slope[:, :3].abs().min() > 0


def test_a_detector_says_which_of_its_channels_are_conv5s() -> None:
    for features, channels in (("conv5", 32), ("conv4+conv5", 16 + 32)):
        recipe = detection_recipe(features).model_copy(update={"head": rfcn3000()})
        head: Any = Detector(build(TINY, 0, 16), 5, recipe).head
        assert (head.projection.in_channels, head.hidden.in_features) == (channels, 32)


def test_the_decoupled_head_learns_parents_boxes_and_classes_apart() -> None:
    head = decoupled().train()
    features = torch.randn(2, 4, 4, 4)
    near = torch.tensor([[0, 0, 30, 30], [30, 30, 62, 62], [0, 34, 20, 60.0]])
    chips = [
        target([[0, 0, 30, 32], [30, 30, 60, 62]], [2, 5]),
        target([[0, 0, 28, 30]], [IGNORED], [False]),
    ]
    _, losses = head(features, [near, near], [(64, 64)] * 2, chips)
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_class"}
    losses["loss_class"].backward(retain_graph=True)
    assert head.classifier.weight.grad is not None and head.projection.weight.grad is None
    sample = head.rois.sample([near, near], chips)
    found = [label[label > 0].tolist() for label in sample.labels]
    assert sorted(found[0]) == [2, 2, 5, 5] and found[1] == []  # two proposals and two objects
    objects = [boxes[label > 0] for boxes, label in zip(sample.rois, sample.labels, strict=True)]
    wanted = nn.functional.cross_entropy(
        head.classify(features, objects), torch.tensor(found[0]) - 1
    )
    torch.testing.assert_close(losses["loss_class"], wanted)


def test_a_chip_without_objects_teaches_the_classifier_nothing() -> None:
    head = decoupled().train()
    proposals = [random_boxes(5, 0)]
    _, losses = head(torch.randn(1, 4, 4, 4), proposals, [(64, 64)], [target([])])
    assert float(losses["loss_class"]) == 0
    torch.stack(list(losses.values())).sum().backward()


def test_the_classifier_learns_from_so_many_objects_a_chip() -> None:
    head = decoupled(class_rois_per_chip=3).train()
    seen: list[int] = []
    head.classifier.register_forward_hook(lambda _, __, result: seen.append(len(result)))
    proposals = [torch.tensor([[0, 0, 30, 30]] * 9).float()] * 2
    chips = [target([[0, 0, 30, 30]], [4]), target([[0, 0, 30, 30]], [1])]
    head(torch.randn(2, 4, 4, 4), proposals, [(64, 64)] * 2, chips)
    assert seen == [6]


@pytest.mark.parametrize("given", [[0, 1], [0, 1, 2, 3, 0], [0, 0, 0, 0, -1]])
def test_superclasses_that_do_not_fit_are_refused(given: list[int]) -> None:
    head = decoupled()
    with pytest.raises(InputError, match=r"super-classes: 5 numbers from 0 to 2 are needed"):
        head.group(given)
