"""Fine-tuning of a whole network on labelled images (section 4.3; Table 5).

In training an image is seen through a random crop (Szegedy et al., 2015: its area and aspect ratio
are random) and a mirror; at test time through a central crop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as transforms

from detransfer.backbone import build, conv5, hold_still, read_weights
from detransfer.batches import Example
from detransfer.console import InputError
from detransfer.data.decoding import decode
from detransfer.data.index import Index
from detransfer.data.views import central_view
from detransfer.recipes.classification import ClassificationRecipe, ImageRecipe
from detransfer.strict import validate
from detransfer.training_run import architecture_of

RATIO = (3 / 4, 4 / 3)  # width over height of a random crop, relative to a square
ATTEMPTS = 10  # random crops tried before a central one (torchvision's RandomResizedCrop)


@dataclass(frozen=True, eq=False)
class LabelledImages(Dataset[Example]):
    """The images of an index with their class, as uint8 (3, size, size) and a scalar int64.

    With ``randomness`` (seed, epoch) item i is augmented by random numbers keyed by (seed, epoch,
    i) alone; without, it is seen as at test time.
    """

    paths: list[Path]
    class_ids: np.ndarray
    recipe: ImageRecipe
    randomness: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        image = decode(self.paths[index])
        if self.randomness is None:
            image = central_view(image, self.recipe.size, self.recipe.resize)
        else:
            rng = np.random.default_rng((*self.randomness, index))
            image = random_view(image, self.recipe, rng)
        return Example(image, torch.tensor(self.class_ids[index]), str(self.paths[index]))


def labelled_images(
    index: Index, recipe: ImageRecipe, randomness: tuple[int, int] | None = None
) -> LabelledImages:
    """Return the images of an index with their class, in its order.

    Raises InputError when an image has no class of the index.
    """
    images = index.images
    if "class_id" not in images:
        raise InputError(f"{index.root}: its images have no class; it is no classification data")
    known = images["class_id"].between(0, len(index.classes) - 1)
    if not known.all():
        row = images[~known].iloc[0]
        raise InputError(
            f"{index.root}: {row['path']}: class_id {row['class_id']} is none of the "
            f"{len(index.classes)} classes"
        )
    paths = [index.root / path for path in images["path"]]
    return LabelledImages(paths, images["class_id"].to_numpy(np.int64), recipe, randomness)


def random_crop(
    height: int, width: int, minimum_area: float, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of a random crop, in pixels.

    Its area is uniform in [minimum_area, 1] of the image's, its aspect ratio log-uniform in
    ``RATIO``, its place uniform. Where no such crop fits, the largest central one with an allowed
    ratio is taken, as in torchvision's RandomResizedCrop.
    """
    for _ in range(ATTEMPTS):
        area = height * width * rng.uniform(minimum_area, 1.0)
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return (
                int(rng.integers(height - h, endpoint=True)),
                int(rng.integers(width - w, endpoint=True)),
                h,
                w,
            )
    w = min(width, max(1, round(height * RATIO[1])))
    h = min(height, max(1, round(width / RATIO[0])))
    return (height - h) // 2, (width - w) // 2, h, w


def random_view(image: Tensor, recipe: ImageRecipe, rng: np.random.Generator) -> Tensor:
    """Return a random crop of a uint8 image (3, h, w), resized to (3, size, size), maybe mirrored.

    Cropping comes before resizing, which then has fewer pixels to read.
    """
    top, left, height, width = random_crop(image.shape[1], image.shape[2], recipe.minimum_area, rng)
    size = [recipe.size, recipe.size]
    view = transforms.resized_crop(image, top, left, height, width, size, antialias=True)
    mirrored = recipe.flip and rng.random() < 0.5
    return transforms.horizontal_flip(view) if mirrored else view


class Classifier(nn.Module):
    """A timm model with its classifier: losses in training mode, logits in evaluation mode."""

    def __init__(self, backbone: nn.Module, recipe: ClassificationRecipe) -> None:
        super().__init__()
        self.backbone = backbone
        self.recipe = recipe

    def train(self, mode: bool = True) -> Classifier:
        """Switch the mode; what the recipe freezes stays frozen."""
        super().train(mode)
        hold_still(self.backbone, self.recipe.backbone)
        return self

    def forward(
        self, images: Tensor, targets: list[Tensor] | None = None
    ) -> Tensor | dict[str, Tensor]:
        """Map uint8 images (n, 3, h, w) to logits (n, classes), or with targets to losses.

        Scores are computed in float32 whatever the precision of the training.
        """
        precision = self.recipe.training.precision if self.training else "fp32"
        network: Any = self.backbone
        logits: Tensor = network.forward_head(conv5(self.backbone, images, precision))
        if not self.training:
            return logits
        assert targets is not None
        smoothing = self.recipe.label_smoothing
        return {
            "loss_class": F.cross_entropy(logits, torch.stack(targets), label_smoothing=smoothing)
        }


def load_classifier(
    path: Path, architecture: Path | None = None
) -> tuple[Classifier, dict[str, Any]]:
    """Rebuild a trained classifier from its model file; return it with the file's header.

    ``architecture`` is the file that defines its backbone, where timm does not. Raises InputError
    for a file that holds no classifier, or not the one its header describes.
    """
    state, header = read_weights(path)
    if header.get("task") != "classification":
        raise InputError(
            f"{path}: holds no classifier (task: {header.get('task', 'not given')}); give the "
            "model.safetensors that scripts/train_classifier.py wrote"
        )
    recipe = validate(ClassificationRecipe, header["recipe"], str(path))
    network, choice = recipe.backbone, architecture_of(header, path, architecture)
    classes = len(header["classes"])
    backbone = build(choice, classes, network.output_stride, network.deformable_groups)
    model = Classifier(backbone, recipe)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(
            f"{path}: its parameters are not those of its header, so it is damaged or of another "
            f"version; train it again ({error})"
        ) from error
    return model.eval(), header
