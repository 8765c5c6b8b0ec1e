"""DeepLab on the study's backbone (section 4.2; Chen et al., TPAMI 2018).

The network of the authors' segmentation code (``deeplab_resnet_v1_101_voc12_segmentation_dcn``):
Conv5 at stride 16, one hidden 1x1 layer (fc6), one 1x1 layer of classes, and a fixed bilinear
enlargement to the input's size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detransfer.backbone import (
    build,
    conv5,
    hold_still,
    mean_colour,
    read_weights,
    stage_channels,
)
from detransfer.console import InputError
from detransfer.data.masks import VOID
from detransfer.recipes.segmentation import AsppRecipe, PlainHeadRecipe, SegmentationRecipe
from detransfer.strict import validate
from detransfer.training_run import architecture_of


class PlainHead(nn.Sequential):
    """fc6, ReLU and one score a class, all 1x1: (n, channels, h, w) to (n, classes, h, w)."""

    def __init__(self, channels: int, classes: int, recipe: PlainHeadRecipe) -> None:
        super().__init__(
            nn.Conv2d(channels, recipe.hidden, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(recipe.hidden, classes, 1),
        )


class AsppHead(nn.Module):
    """Atrous spatial pyramid pooling of DeepLab v2: the sum of branches of unequal dilation."""

    def __init__(self, channels: int, classes: int, recipe: AsppRecipe) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, recipe.hidden, 3, padding=rate, dilation=rate),
                nn.ReLU(inplace=True),
                nn.Conv2d(recipe.hidden, recipe.hidden, 1),
                nn.ReLU(inplace=True),
                nn.Conv2d(recipe.hidden, classes, 1),
            )
            for rate in recipe.rates
        )

    def forward(self, features: Tensor) -> Tensor:
        return torch.stack([branch(features) for branch in self.branches]).sum(0)


class Segmenter(nn.Module):
    """DeepLab around a timm model: losses in training mode, scores in evaluation mode."""

    def __init__(self, backbone: nn.Module, classes: int, recipe: SegmentationRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.backbone = backbone
        channels = stage_channels(backbone)[1]
        self.head: nn.Module
        if isinstance(recipe.head, PlainHeadRecipe):
            self.head = PlainHead(channels, classes, recipe.head)
        else:
            self.head = AsppHead(channels, classes, recipe.head)

    def train(self, mode: bool = True) -> Segmenter:
        """Switch the mode; what the recipe freezes stays frozen."""
        super().train(mode)
        hold_still(self.backbone, self.recipe.backbone)
        return self

    def forward(
        self, images: Tensor, targets: list[Tensor] | None = None
    ) -> Tensor | dict[str, Tensor]:
        """Map uint8 images (n, 3, h, w) to scores (n, classes, h, w), or with targets to losses.

        Each target is the uint8 mask of an image that fills the upper left of its canvas; the rest
        of the canvas becomes the mean colour, and is not learnt.
        """
        if not self.training:
            return self.scores(images, "fp32")
        assert targets is not None
        colour = mean_colour(self.backbone).to(images.device).view(3, 1, 1)
        for image, mask in zip(images, targets, strict=True):
            height, width = mask.shape
            image[:, height:] = colour
            image[:, :, width:] = colour
        scores = self.scores(images, self.recipe.training.precision)
        return {"loss_pixels": pixel_loss(scores, targets)}

    def scores(self, images: Tensor, precision: str) -> Tensor:
        """Return the float32 scores (n, classes, h, w) of uint8 images (n, 3, h, w).

        One step of Conv5 covers ``output_stride`` pixels, and its scores belong to their middle.
        """
        scores: Tensor = self.head(conv5(self.backbone, images, precision))
        height, width = images.shape[2:]
        return enlarge(scores, height, width, self.recipe.backbone.output_stride)


def enlarge(scores: Tensor, height: int, width: int, stride: int) -> Tensor:
    """Interpolate scores (..., h, w) bilinearly to (..., height, width), ``stride`` pixels a cell.

    As torch's ``interpolate`` from the middles of cells to those of pixels, but as two products,
    which take a third of its time on a processor.
    """
    rows, columns = (
        _shares(pixels, cells, stride).to(scores)
        for pixels, cells in zip((height, width), scores.shape[-2:], strict=True)
    )
    return rows @ scores @ columns.T


def _shares(pixels: int, cells: int, stride: int) -> Tensor:
    """Return the share of each cell of a line in each of its pixels, (pixels, cells)."""
    at = ((torch.arange(pixels) + 0.5) / stride - 0.5).clamp(0, cells - 1)
    return (1 - (at[:, None] - torch.arange(cells)).abs()).clamp(min=0)


def pixel_loss(scores: Tensor, masks: list[Tensor]) -> Tensor:
    """Return the cross-entropy over labelled pixels, averaged in each image, then over images.

    Images weigh alike whatever their size, as in the authors' code with its one image a device. An
    image without any labelled pixel counts as zero. ``scores`` (n, classes, h, w) reach as far as
    the largest of the ``masks``, each uint8 of the size of its image.
    """
    losses = []
    for image, mask in zip(scores, masks, strict=True):
        own = image[None, :, : mask.shape[0], : mask.shape[1]]
        total = F.cross_entropy(own, mask[None].long(), ignore_index=VOID, reduction="sum")
        losses.append(total / (mask != VOID).sum().clamp(min=1))
    return torch.stack(losses).mean()


def load_segmenter(
    path: Path, architecture: Path | None = None
) -> tuple[Segmenter, dict[str, Any]]:
    """Rebuild a trained segmenter from its model file; return it with the file's header.

    ``architecture`` is the file that defines its backbone, where timm does not. Raises InputError
    for a file that holds no segmenter, or not the one its header describes.
    """
    state, header = read_weights(path)
    if header.get("task") != "segmentation":
        raise InputError(
            f"{path}: holds no segmenter (task: {header.get('task', 'not given')}); give the "
            "model.safetensors that scripts/train_segmenter.py wrote"
        )
    recipe = validate(SegmentationRecipe, header["recipe"], str(path))
    network, choice = recipe.backbone, architecture_of(header, path, architecture)
    backbone = build(choice, 0, network.output_stride, network.deformable_groups)
    model = Segmenter(backbone, len(header["classes"]), recipe)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(
            f"{path}: its parameters are not those of its header, so it is damaged or of another "
            f"version; train it again ({error})"
        ) from error
    return model.eval(), header
