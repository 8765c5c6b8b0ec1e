"""The images of a segmentation set as the network sees them: resized whole, without crops.

The paper's section 4.2: the shorter side becomes 360 pixels, the longer one at most 600. Masks
follow by nearest neighbour, and the resized mask is what is learnt, as in the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as transforms

from detransfer.batches import Example
from detransfer.data.decoding import decode
from detransfer.data.index import Index
from detransfer.data.masks import mask_paths, read_mask, resize_labels
from detransfer.recipes.segmentation import ResizeRecipe


@dataclass(frozen=True, eq=False)
class MaskedImages(Dataset[Example]):
    """Images as uint8 (3, h, w) with their masks as uint8 (h, w), both at the network's size.

    With ``mirrored`` the list is doubled: its second half is the first one mirrored, as in the
    authors' code. Nothing is random.
    """

    paths: list[Path]
    masks: list[Path]
    sizes: np.ndarray  # (n, 2): height and width at the network
    classes: int
    mirrored: bool

    def __len__(self) -> int:
        return len(self.paths) * (2 if self.mirrored else 1)

    def __getitem__(self, number: int) -> Example:
        row = number % len(self.paths)
        height, width = (int(side) for side in self.sizes[row])
        image = transforms.resize(decode(self.paths[row]), [height, width], antialias=True)
        labels = resize_labels(read_mask(self.masks[row], self.classes - 1), height, width)
        mask = torch.from_numpy(labels)
        if number >= len(self.paths):
            image, mask = image.flip(2), mask.flip(1)
        return Example(image, mask, str(self.paths[row]))


def masked_images(index: Index, recipe: ResizeRecipe, mirrored: bool = False) -> MaskedImages:
    """Return the images of an index with their masks, in its order.

    Raises InputError when the index has no masks.
    """
    images = index.images
    sizes = [
        recipe.size(height, width)
        for height, width in images[["height", "width"]].itertuples(index=False, name=None)
    ]
    return MaskedImages(
        paths=[index.root / path for path in images["path"]],
        masks=mask_paths(index),
        sizes=np.array(sizes),
        classes=len(index.classes),
        mirrored=mirrored,
    )
