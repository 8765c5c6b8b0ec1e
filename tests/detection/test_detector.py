from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import box_iou, nms

from detransfer.backbone import build, mean_colour, normalise
from detransfer.detection.detector import (
    IGNORED,
    Detector,
    OneBoxPredictor,
    ScaleAwareHead,
    ScaleAwareRpn,
    in_range,
)
from detransfer.detection.roi_blob import RoiBlob
from detransfer.recipes import HeadRecipe, RpnRecipe
from detransfer.training import Example, Run, train
from tests.detection.rectangles import TINY, detection_recipe, inference_recipe

ANY = (0.0, math.inf)


def rpn(**changes: Any) -> ScaleAwareRpn:
    values = {"channels": 8, "anchor_sizes": (16, 32), "border": 1e9, "batch_per_chip": 64}
    torch.manual_seed(0)
    return ScaleAwareRpn(8, 16, RpnRecipe(**{**values, **changes}))


def head(classes: int = 3, **changes: Any) -> ScaleAwareHead:
    values = {"conv_proj": 4, "roi_size": 2, "hidden": 8, "rois_per_chip": 1000}
    torch.manual_seed(0)
    return ScaleAwareHead(classes, 16, HeadRecipe(**{**values, **changes}))


def target(
    boxes: list[Any] | Tensor,
    labels: list[int] | None = None,
    valid: list[bool] | None = None,
    valid_range: tuple[float, float] = ANY,
    size: tuple[int, int] = (64, 64),
) -> dict[str, Tensor]:
    corners = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return {
        "boxes": corners,
        "labels": torch.tensor(labels if labels is not None else [1] * len(corners)).long(),
        "valid": torch.tensor(valid if valid is not None else [True] * len(corners)).bool(),
        "valid_range": torch.tensor(valid_range),
        "size": torch.tensor(size),
    }


def random_boxes(count: int, seed: int, extent: float = 64.0, beyond: float = 0.0) -> Tensor:
    draw = torch.rand(count, 4, generator=torch.Generator().manual_seed(seed))
    corner = draw[:, :2] * extent * 0.8 - beyond
    return torch.cat([corner, corner + 4 + draw[:, 2:] * (extent * 0.5 + 2 * beyond)], 1)


def iou(a: Tensor, b: Tensor) -> float:
    sides = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0)
    both = float(sides.prod())
    return both / (float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()) - both)


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
    height, width = chip["size"].tolist()
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


def test_the_network_passes_its_targets_on_and_inference_keeps_every_size() -> None:
    recipe = detection_recipe(rpn={"train_proposals": 300, "anchor_sizes": [10, 40]})
    torch.manual_seed(0)
    detector = Detector(build(TINY, 0, 16), 3, recipe)
    seen: list[Tensor] = []
    detector.rpn.register_forward_hook(lambda _, __, result: seen.extend(result[0]))
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    detector.train()
    detector(images, [target([[4, 4, 14, 14]], valid_range=(0, 20))])
    detector.prepare_inference(inference_recipe())
    with torch.inference_mode():
        detector(images, sizes=[(64, 64)])
        detector(images, [target([[4, 4, 14, 14]], valid_range=(0, 20))])  # their size alone counts
    training, inference, with_targets = seen
    assert torch.equal(inference, with_targets)
    assert len(training) > 10 and in_range(training, torch.tensor([0.0, 20.0])).all()
    assert in_range(inference, torch.tensor([0.0, 20.0])).any()
    assert in_range(inference, torch.tensor([30.0, math.inf])).any()


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(10, 20, [0, 1, 1, 0]), (0, 10, [1, 0, 0, 0])]
)
def test_a_range_holds_its_lower_end_and_not_its_upper(
    low: float, high: float, expected: list[int]
) -> None:
    boxes = torch.tensor([[0, 0, 9, 9], [0, 0, 5, 20], [0, 0, 40, 9], [5, 5, 25, 25.0]])
    assert in_range(boxes, torch.tensor([low, high])).tolist() == [bool(v) for v in expected]


# The head's sample


@pytest.mark.parametrize("seed", range(4))
def test_rois_get_the_label_of_the_best_object(seed: int) -> None:
    boxes = torch.cat([random_boxes(6, seed), torch.tensor([[0, 0, 6, 6.0], [0, 0, 64, 64]])])
    labels = [1, IGNORED, 2, IGNORED, 3, 1, 2, IGNORED]
    chip = target(boxes, labels, valid=[False] * 8, valid_range=(8, 50))
    noise = torch.rand(10, 8, 4, generator=torch.Generator().manual_seed(seed)) * 12 - 6
    proposals = (boxes + noise).reshape(-1, 4).clamp(0, 64)
    proposals = proposals[((proposals[:, 2:] - proposals[:, :2]) > 1).all(1)]
    rois, _, given, deltas = head().select_training_samples([proposals], [chip])
    sides = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()
    objects = boxes[(sides >= 8) & (sides < 50)]
    expected = []
    for roi in torch.cat([proposals, objects]):
        overlaps = [iou(roi, box) for box in boxes]
        best = max(range(len(boxes)), key=overlaps.__getitem__)
        label = labels[best] if overlaps[best] >= 0.5 else 0
        if label != IGNORED:
            expected.append((tuple(roi.tolist()), label))
    found = [tuple(roi) for roi in rois[0].tolist()]
    assert list(zip(found, given[0].tolist(), strict=True)) == expected
    assert {0, 1} < set(given[0].tolist()) and len(expected) < len(proposals) + len(objects)
    assert deltas[0].shape == (len(expected), 4)


def test_objects_join_the_rois_by_their_size_alone() -> None:
    small, large, other = [0, 0, 8, 8], [0, 0, 60, 60], [30, 30, 46, 46]
    chip = target([small, large, other], [1, 2, 3], [True, True, False], valid_range=(0, 20))
    nothing = torch.zeros(0, 4)
    rois, _, labels, _ = head().select_training_samples([nothing], [chip])
    assert rois[0].tolist() == [small, other]
    assert labels[0].tolist() == [1, 3]


def test_ignored_objects_are_neither_background_nor_learnt() -> None:
    crowd, cat = [0, 0, 20, 20], [40, 40, 60, 60]
    near = [[0, 0, 20, 10], [0, 0, 20, 9], [40, 40, 60, 50], [40, 40, 60, 49]]  # IoU .5 and .45
    chip = target([crowd, cat], [IGNORED, 2], [False, True])
    rois, _, labels, _ = head().select_training_samples([torch.tensor(near).float()], [chip])
    assert rois[0].tolist() == [near[1], near[2], near[3], cat]
    assert labels[0].tolist() == [0, 2, 0, 2]


def test_the_sample_is_as_large_and_as_positive_as_the_recipe_says() -> None:
    proposals = torch.tensor([[0, 0, 20, 20]] * 30 + [[40, 40, 60, 60]] * 30).float()
    chip = target([[0, 0, 20, 20]])
    few = head(rois_per_chip=16, positive_share=0.25)
    _, _, labels, _ = few.select_training_samples([proposals], [chip])
    assert sorted(labels[0].tolist()) == [0] * 12 + [1] * 4


def test_a_chip_without_rois_gets_itself_as_one() -> None:
    """A trained RPN may propose nothing of the chip's size; that must not stop the training."""
    chip = target([[0, 0, 6, 6]], [2], valid_range=(30, 60), size=(40, 48))
    full = target([[4, 4, 44, 44]], [1])
    proposals = [torch.zeros(0, 4), torch.zeros(0, 4)]
    rois, _, labels, _ = head().select_training_samples(proposals, [chip, full])
    assert rois[0].tolist() == [[0, 0, 48, 40]] and labels[0].tolist() == [0]
    assert rois[1].tolist() == [[4, 4, 44, 44]] and labels[1].tolist() == [1]


# One box regression


def test_the_regression_is_one_for_all_classes() -> None:
    torch.manual_seed(0)
    predictor = OneBoxPredictor(8, 3)
    hidden = torch.randn(5, 8)
    scores, boxes = predictor(hidden)
    assert scores.shape == (5, 4) and boxes.shape == (5, 16)
    assert predictor.box.out_features == 4
    for repeated in boxes.split(4, 1):
        assert torch.equal(repeated, predictor.box(hidden))


def test_the_box_loss_is_smooth_l1_on_the_four_numbers() -> None:
    torch.manual_seed(0)
    predictor = OneBoxPredictor(8, 3)
    nn.init.normal_(predictor.box.weight)
    hidden, wanted = torch.randn(6, 8), torch.randn(6, 4)
    labels = torch.tensor([0, 1, 2, 3, 0, 2])
    _, loss = fastrcnn_loss(*predictor(hidden), [labels], [wanted])
    total, beta = 0.0, 1 / 9
    for row in (1, 2, 3, 5):
        for value in (predictor.box(hidden)[row] - wanted[row]).abs().tolist():
            total += value - beta / 2 if value >= beta else value**2 / (2 * beta)
    assert float(loss.detach()) == pytest.approx(total / 6, rel=1e-5)


def test_detections_are_torchvisions_without_suppression() -> None:
    classes, shapes, counts = 3, [(48, 64), (64, 40), (64, 64)], [40, 0, 25]
    own = head(classes)
    own.score_thresh = 0.2
    torch.manual_seed(1)
    logits, one_box = torch.randn(65, classes + 1), torch.randn(65, 4) * 3
    proposals = [random_boxes(n, n) for n in counts]
    predictor = OneBoxPredictor(8, classes)
    oracle = RoIHeads(
        RoiBlob(2, 16), TwoMLPHead(16, 8), predictor, 0.5, 0.5, 10, 0.5, None, 0.2, 1.0, 10**6
    )
    repeated = one_box.repeat(1, classes + 1)
    given = own.postprocess_detections(logits, repeated, proposals, shapes)
    wanted = oracle.postprocess_detections(logits, repeated, proposals, shapes)

    def rows(boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        table = torch.cat([boxes, scores[:, None], labels[:, None].float()], 1)
        return torch.tensor(sorted(table.tolist())).reshape(-1, 6)

    for place, count in enumerate(counts):
        boxes, scores, labels = (part[place] for part in given)
        assert torch.allclose(
            rows(boxes, scores, labels + 1), rows(*(part[place] for part in wanted)), atol=1e-5
        )
        assert bool(count) == bool(len(boxes))
        assert len(labels) == 0 or set(labels.tolist()) == {0, 1, 2}


def test_no_proposals_at_all_give_no_detections() -> None:
    own = head().eval()
    found, _ = own({"conv_proj": torch.rand(2, 4, 4, 4)}, [torch.zeros(0, 4)] * 2, [(64, 64)] * 2)
    assert [{name: len(v) for name, v in one.items()} for one in found] == [
        {"boxes": 0, "labels": 0, "scores": 0}
    ] * 2


# The whole detector


def detector(**changes: dict[str, Any]) -> Detector:
    torch.manual_seed(0)
    return Detector(build(TINY, 0, 16), 3, detection_recipe(**changes))


def one_example(_: int) -> list[Example]:
    pixels = torch.randint(0, 256, (3, 64, 64), generator=torch.Generator().manual_seed(0))
    chip = target([[8, 8, 30, 30], [40, 40, 60, 60]], [1, 2])
    return [Example(pixels.to(torch.uint8), chip, "noise")] * 4


def steps(model: Detector, folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run = Run(folder / "state", 0, torch.device("cpu"))
    train(model, one_example, model.recipe.training, run)  # type: ignore[arg-type]
    return before, model.state_dict()


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_a_frozen_prefix_stays_and_the_rest_moves(tmp_path: Path) -> None:
    frozen = ("conv1", "bn1", "layer1")
    changes = {"training": {"epochs": 3, "batch_size": 4, "learning_rate": 0.01}}
    model = detector(backbone={"freeze": frozen}, **changes)
    changed = moved(*steps(model, tmp_path))
    fixed = {n for n in model.state_dict() if n.startswith(tuple(f"backbone.{f}" for f in frozen))}
    assert len(fixed) > 20 and not changed & fixed
    assert changed == set(model.state_dict()) - fixed


def test_frozen_batch_normalisation_keeps_everything_of_it(tmp_path: Path) -> None:
    changes = {"training": {"epochs": 3, "batch_size": 4, "learning_rate": 0.01}}
    model = detector(backbone={"batch_norm": "frozen"}, **changes)
    norms = [n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    for name in norms:  # timm lets the last of a block begin at zero: nothing before it would move
        nn.init.ones_(model.get_parameter(f"{name}.weight"))
    fixed = {n for n in model.state_dict() if n.rpartition(".")[0] in norms}
    changed = moved(*steps(model, tmp_path))
    assert len(fixed) > 40 and changed == set(model.state_dict()) - fixed


def test_half_precision_runs_and_is_close() -> None:
    images = torch.stack([example.image for example in one_example(0)])
    chips = [example.target for example in one_example(0)]
    losses = []
    for precision in ("fp32", "bf16"):
        model = detector(training={"precision": precision}).train()
        torch.manual_seed(0)
        result = model(images, chips)
        assert set(result) == {
            "loss_objectness",
            "loss_rpn_box_reg",
            "loss_classifier",
            "loss_box_reg",
        }
        torch.stack(list(result.values())).sum().backward()
        assert all(
            p.grad is not None and p.grad.dtype == torch.float32 and p.grad.isfinite().all()
            for p in model.parameters()
        )
        losses.append(torch.stack(list(result.values())).detach())
    assert torch.allclose(losses[0], losses[1], rtol=0.05, atol=0.01)
    assert not torch.equal(losses[0], losses[1])


def test_padding_is_about_zero_for_the_network() -> None:
    model = build(TINY)
    padding = mean_colour(model).view(1, 3, 1, 1)
    assert normalise(padding, model).abs().max() < 0.5 / 255 / 0.22


def test_detections_lie_within_each_image_and_not_in_its_padding() -> None:
    model = detector()
    nn.init.constant_(model.head.box_predictor.box.bias, 20.0)  # boxes grow by far
    model.prepare_inference(inference_recipe(score_threshold=0.0))
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    with torch.inference_mode():
        found = model(images, sizes=[(40, 90), (96, 33)])
    for result, (height, width) in zip(found, [(40, 90), (96, 33)], strict=True):
        boxes = result["boxes"]
        assert len(boxes) > 20 and (boxes >= 0).all()
        assert boxes[:, [0, 2]].max() <= width and boxes[:, [1, 3]].max() <= height
        assert ((boxes[:, 2:] - boxes[:, :2]) > 0).all()
        assert (boxes[:, 2] == width).any() and (boxes[:, 3] == height).any()


def test_inference_keeps_what_its_recipe_asks_for() -> None:
    model, images = detector(), torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    seen: list[int] = []
    model.rpn.register_forward_hook(lambda _, __, result: seen.append(len(result[0][0])))
    with torch.inference_mode():
        for before, kept, threshold in ((100, 7, 0.0), (5, 50, 0.0), (100, 7, 0.99)):
            model.prepare_inference(
                inference_recipe(proposals_before=before, proposals=kept, score_threshold=threshold)
            )
            found = model(images, sizes=[(64, 64)])[0]
            assert len(found["scores"]) == (3 * seen[-1] if threshold == 0 else 0)
    assert seen[0] == seen[2] == 7 and 0 < seen[1] <= 5
    assert not model.training


def test_regions_see_stride_and_classes_of_the_recipe() -> None:
    """ConvProj is what the head reads: its channels, and 16 image pixels for a cell."""
    model = detector()
    cell = torch.zeros(1, 16, 4, 4)
    cell[0, :, 2, 1] = 1.0
    blob = model.head.box_roi_pool({"conv_proj": cell}, [torch.tensor([[16, 32, 32, 48.0]])], None)
    aside = model.head.box_roi_pool({"conv_proj": cell}, [torch.tensor([[0, 0, 12, 12.0]])], None)
    assert blob.mean() > 0.3 and float(aside.abs().max()) == 0
    assert box_iou(torch.tensor([[16, 32, 32, 48.0]]), torch.tensor([[0, 0, 12, 12.0]])) == 0
    assert model.head.box_predictor.scores.out_features == 4
