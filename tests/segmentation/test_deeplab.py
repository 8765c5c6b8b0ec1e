"""The network: the same features as in every other task, the authors' head, and the loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from detransfer.backbone import (
    build,
    conv5,
    keep_offsets,
    load_backbone,
    mean_colour,
    normalise,
    save_backbone,
)
from detransfer.console import InputError
from detransfer.data.masks import VOID
from detransfer.recipes.segmentation import SegmentationRecipe
from detransfer.segmentation.deeplab import Segmenter, load_segmenter, pixel_loss
from tests.segmentation.scenes import TINY

RECIPE: dict[str, Any] = {
    "task": "segmentation",
    "training": {
        "epochs": 1,
        "batch_size": 2,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "weight_decay": 0.0,
        "schedule": "constant",
    },
    "backbone": {"output_stride": 16, "batch_norm": "frozen", "deformable_groups": 1},
    "images": {"short": 48, "long": 96},
    "head": {"kind": "plain", "hidden": 6},
}


def recipe(**changes: Any) -> SegmentationRecipe:
    return SegmentationRecipe.model_validate({**RECIPE, **changes})


def segmenter(given: SegmentationRecipe, classes: int = 4) -> Segmenter:
    torch.manual_seed(0)
    network = given.backbone
    return Segmenter(
        awake(build(TINY, 0, network.output_stride, network.deformable_groups)), classes, given
    )


def awake(model: nn.Module) -> nn.Module:
    """Undo timm's zeros in the last normalisation of a block, which would hide what is before."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
    return model.eval()


def pictures(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = (count, 3, height, width)
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet26t", {"channels": [8, 16, 32, 64], "stem_width": 8}),
        ("resnet26", {"channels": [8, 16, 32, 64]}),  # as resnet101: 7x7 stem, v1 blocks
    ],
)
def test_one_file_gives_every_task_equal_features_at_stride_16(
    name: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    """Segmentation-models' encoder, the segmenter, the detector's backbone and the classifier."""
    choice = TINY.model_copy(update={"name": name, "arguments": arguments})
    torch.manual_seed(0)
    save_backbone(tmp_path / "backbone.safetensors", awake(build(choice)).state_dict(), {})
    images = pictures(2, 64, 96)
    encoder = smp.encoders.get_encoder(
        f"tu-{name}", weights=None, depth=5, output_stride=16, **arguments
    )
    detector = build(choice, 0, 16, deformable_groups=4)
    classifier = build(choice, 10, 16)
    own = build(choice, 0, 16, deformable_groups=1)
    for model in (own, detector, classifier):
        load_backbone(model, tmp_path / "backbone.safetensors")
    encoder.model.load_state_dict(load_file(tmp_path / "backbone.safetensors"))  # strictly
    with torch.inference_mode():
        wanted = encoder.eval()(normalise(images, classifier))[-1]
        assert wanted.shape[2:] == (4, 6) and wanted.std() > 0.05
        for model in (own, detector, classifier):
            torch.testing.assert_close(conv5(model.eval(), images), wanted, rtol=1e-4, atol=1e-5)
        # The whole test would pass on a network whose blocks are the identity.
        stage: Any = own.layer4
        for block in stage:
            nn.init.zeros_(block.bn3.weight)
        assert not torch.allclose(conv5(own, images), wanted, rtol=1e-2, atol=1e-2)


def test_the_plain_head_is_two_layers_of_one_pixel() -> None:
    model = segmenter(recipe()).eval()
    images = pictures(2, 48, 80)
    with torch.inference_mode():
        features = conv5(model.backbone, images)
        first, _, second = model.head
        hidden = torch.einsum("nchw,dc->ndhw", features, first.weight[:, :, 0, 0])
        hidden = (hidden + first.bias[:, None, None]).relu()
        coarse = torch.einsum("ndhw,kd->nkhw", hidden, second.weight[:, :, 0, 0])
        coarse += second.bias[:, None, None]
        scores = model(images)
        assert scores.shape == (2, 4, 48, 80) and coarse.shape == (2, 4, 3, 5)
        torch.testing.assert_close(model.head(features), coarse)
    # The cell (1, 2) belongs to the middle of its 16 pixels, between pixels 7 and 8.
    middle = scores[:, :, 16 + 7 : 16 + 9, 32 + 7 : 32 + 9].mean((2, 3))
    torch.testing.assert_close(middle, coarse[:, :, 1, 2], rtol=0.2, atol=0.02)


def test_scores_are_enlarged_as_by_the_authors_deconvolution() -> None:
    """Kernel 32, stride 16, and a crop that begins at 8, away from the rim that it fades at."""
    coarse = torch.randn(1, 2, 5, 7, generator=torch.Generator().manual_seed(0))
    ramp = 1 - (torch.arange(32) - 15.5).abs() / 16
    kernel = (ramp[:, None] * ramp[None, :]).expand(2, 1, 32, 32)
    theirs = F.conv_transpose2d(coarse, kernel, stride=16, groups=2)[..., 8:88, 8:120]
    model = segmenter(recipe()).eval()
    model.head = nn.Identity()
    images = pictures(1, 75, 105)
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr("detransfer.segmentation.deeplab.conv5", lambda *_: coarse)
        ours = model(images)
    assert ours.shape == (1, 2, 75, 105)  # what exceeds the image is cut off
    torch.testing.assert_close(ours[..., 8:72, 8:97], theirs[..., 8:72, 8:97])


def test_aspp_adds_branches_of_unequal_dilation() -> None:
    model = segmenter(recipe(head={"kind": "aspp", "hidden": 5, "rates": [1, 3]})).eval()
    features = torch.randn(1, 24, 9, 9)
    with torch.inference_mode():
        total = model.head(features)
        wanted = torch.zeros_like(total)
        for rate, (fc6, _, fc7, _, last) in zip((1, 3), model.head.branches, strict=True):
            x = F.conv2d(features, fc6.weight, fc6.bias, padding=rate, dilation=rate).relu()
            wanted += last(fc7(x).relu())
    assert total.shape == (1, 4, 9, 9)
    torch.testing.assert_close(total, wanted)


def test_the_loss_is_the_mean_over_pixels_then_over_images() -> None:
    scores = torch.randn(4, 4, 5, 6)
    masks = torch.randint(0, 4, (3, 5, 6), dtype=torch.uint8)
    masks[0, :2] = VOID
    masks[2] = VOID
    small = [masks[0], masks[1], masks[2], masks[1][:4, :3]]
    first, second = (
        F.cross_entropy(scores[n].flatten(1).T[kept], masks[n].flatten()[kept].long())
        for n, kept in ((0, masks[0].flatten() != VOID), (1, slice(None)))
    )
    third = F.cross_entropy(scores[3:, :, :4, :3], masks[1:2, :4, :3].long())
    torch.testing.assert_close(pixel_loss(scores, small), (first + second + third) / 4)


def test_what_lies_beside_an_image_on_its_canvas_is_never_seen() -> None:
    model = segmenter(recipe()).train()
    canvas = pictures(2, 48, 64)
    masks = [torch.randint(0, 4, size, dtype=torch.uint8) for size in ((48, 50), (33, 64))]
    other = canvas.clone()
    other[0, :, :, 50:] = 255
    other[1, :, 33:] = 7
    loss = model(canvas.clone(), masks)["loss_pixels"]
    torch.testing.assert_close(model(other, masks)["loss_pixels"], loss, rtol=0, atol=0)
    # It is the loss of the image on the mean colour.
    own = mean_colour(model.backbone).view(3, 1, 1).repeat(1, 48, 64)[None]
    own[0, :, :, :50] = canvas[0, :, :, :50]
    alone = pixel_loss(model.scores(own, "fp32"), masks[:1])
    torch.testing.assert_close(model(canvas[:1].clone(), masks[:1])["loss_pixels"], alone)


@pytest.mark.parametrize("batch_norm", ["frozen", "trained"])
def test_the_recipe_decides_what_moves(batch_norm: str) -> None:
    network = {**RECIPE["backbone"], "batch_norm": batch_norm, "freeze": ["conv1"]}
    model = segmenter(recipe(backbone=network)).train()
    norms = [m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    moving = [norm.training for norm in norms]
    assert any(moving) == (batch_norm == "trained")
    model(pictures(2, 48, 48), [torch.zeros(48, 48, dtype=torch.uint8)] * 2)[
        "loss_pixels"
    ].backward()
    learnt = {name for name, p in model.named_parameters() if p.grad is not None}
    assert not any(name.startswith("backbone.conv1") for name in learnt)
    assert ("backbone.layer1.0.bn1.weight" in learnt) == (batch_norm == "trained")
    assert {"head.0.weight", "head.2.bias", "backbone.layer4.0.conv1.offset.weight"} <= learnt


def write_model(path: Path, model: Segmenter, **changes: Any) -> None:
    header = {
        "architecture": TINY.model_dump(mode="json"),
        "task": "segmentation",
        "classes": ["a", "b", "c", "d"],
        "recipe": model.recipe.model_dump(mode="json"),
    }
    save_backbone(path, model.state_dict(), {**header, **changes})


@pytest.mark.parametrize("head", [RECIPE["head"], {"kind": "aspp", "hidden": 5, "rates": [2]}])
def test_a_segmenter_is_rebuilt_from_its_file(head: dict[str, Any], tmp_path: Path) -> None:
    model = segmenter(recipe(head=head)).eval()
    write_model(tmp_path / "model.safetensors", model)
    loaded, header = load_segmenter(tmp_path / "model.safetensors")
    images = pictures(1, 50, 60)
    assert header["classes"] == ["a", "b", "c", "d"] and loaded.recipe == model.recipe
    with torch.inference_mode():
        assert torch.equal(loaded(images), model(images))


def test_a_file_that_is_no_segmenter_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_model(path, segmenter(recipe()), task="detection")
    with pytest.raises(InputError, match=r"holds no segmenter \(task: detection\)"):
        load_segmenter(path)
    write_model(path, segmenter(recipe()), classes=["a", "b"])
    with pytest.raises(InputError, match="not those of its header"):
        load_segmenter(path)


def test_offsets_of_a_detector_are_kept_where_they_fit(tmp_path: Path) -> None:
    detector = build(TINY, 0, 16, deformable_groups=2)
    for name, value in detector.state_dict().items():
        if ".offset." in name:
            nn.init.normal_(value)
    state = {f"backbone.{name}": value for name, value in detector.state_dict().items()}
    path = tmp_path / "model.safetensors"
    save_backbone(path, {**state, "head.offset.weight": torch.ones(1)}, {})
    model = build(TINY, 0, 16, deformable_groups=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    keep_offsets(model, path)
    changed = {
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {name for name in before if ".offset." in name} and len(changed) == 4
    for name in changed:
        assert torch.equal(model.state_dict()[name], detector.state_dict()[name])
    with pytest.raises(InputError, match=r"offset.weight has shape \[18, .* and shape \[36, "):
        keep_offsets(build(TINY, 0, 16, deformable_groups=1), path)
    save_backbone(path, build(TINY).state_dict(), {})
    with pytest.raises(InputError, match=r"and none there; make backbone.deformable_groups"):
        keep_offsets(model, path)
