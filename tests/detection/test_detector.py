from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from detransfer.backbone import build, mean_colour, normalise
from detransfer.batches import Example
from detransfer.detection.detector import Detector
from detransfer.detection.rpn import in_range
from detransfer.training import Run, train
from tests.detection.rectangles import TINY, detection_recipe, inference_recipe
from tests.detection.targets import target


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
    nn.init.constant_(model.head.box.bias, 20.0)  # boxes grow by far
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
    head: Any = detector().head
    cell = torch.zeros(1, 16, 4, 4)
    cell[0, :, 2, 1] = 1.0
    blob = head.blob(cell, [torch.tensor([[16, 32, 32, 48.0]])])
    aside = head.blob(cell, [torch.tensor([[0, 0, 12, 12.0]])])
    assert blob.mean() > 0.3 and float(aside.abs().max()) == 0
    assert box_iou(torch.tensor([[16, 32, 32, 48.0]]), torch.tensor([[0, 0, 12, 12.0]])) == 0
    assert head.scores.out_features == 4


def test_conv4_and_conv5_are_read_together_where_the_recipe_says_so() -> None:
    model = detector(features="conv4+conv5").eval()
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    both = model.features(images)
    maps = model.backbone.forward_intermediates(normalise(images, model.backbone))[1]
    assert torch.equal(both, torch.cat(maps[-2:], 1))
    assert model.head.conv_proj.in_channels == both.shape[1] == 16 + 32
    with pytest.raises(ValueError, match=r"conv4\+conv5 needs backbone\.output_stride 16 or 8"):
        detection_recipe(features="conv4+conv5", backbone={"output_stride": 32})


def test_deformable_stages_have_offsets_and_learn_them(tmp_path: Path) -> None:
    changes = {"training": {"epochs": 3, "batch_size": 4, "learning_rate": 0.01}}
    recipe = detection_recipe(backbone={"deformable_groups": 2}, **changes)
    torch.manual_seed(0)
    model = Detector(build(TINY, 0, 16, 2), 3, recipe)
    offsets = {name for name in model.state_dict() if ".offset." in name}
    assert len(offsets) == 4
    assert offsets <= moved(*steps(model, tmp_path))


def test_without_a_head_it_proposes_regions_and_learns_that_alone() -> None:
    torch.manual_seed(0)
    model = Detector(build(TINY, 0, 16), None, detection_recipe())
    images = torch.stack([example.image for example in one_example(0)])
    chips = [example.target for example in one_example(0)]
    assert set(model.train()(images, chips)) == {"loss_objectness", "loss_rpn_box_reg"}
    model.prepare_inference(inference_recipe(proposals=9))
    with torch.inference_mode():
        found = model(images, sizes=[(64, 64)] * 4)
    assert [len(one["boxes"]) for one in found] == [len(one["scores"]) for one in found] == [9] * 4
    assert all((one["scores"].diff() <= 0).all() and (one["scores"] <= 1).all() for one in found)
