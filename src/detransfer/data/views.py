"""How an image is seen at test time, by a classifier and by what records its features."""

from __future__ import annotations

from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as transforms

from detransfer.data.decoding import decode
from detransfer.data.index import Index


def central_view(image: Tensor, size: int, resize: int) -> Tensor:
    """Return the centre (3, size, size) of a uint8 image whose shorter side is made ``resize``."""
    resized = transforms.resize(image, [resize], antialias=True)
    return transforms.center_crop(resized, [size, size])


class CentralViews(Dataset[Tensor]):
    """The central view of every image of an index: uint8 (3, size, size)."""

    def __init__(self, index: Index, size: int, resize: int) -> None:
        self.root, self.paths = index.root, index.images["path"].tolist()
        self.size, self.resize = size, resize

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> Tensor:
        return central_view(decode(self.root / self.paths[row]), self.size, self.resize)
