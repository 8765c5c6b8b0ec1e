"""The layers of a detector as frozen features: the whole image is the one RoI (Table 7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from detransfer.backbone import stage_channels
from detransfer.console import InputError
from detransfer.detection.detector import Detector


class DetectorLayers(nn.Module):
    """Maps uint8 images (n, 3, h, w) to the named layers of a detector, each (n, dimension).

    ``conv5`` is average-pooled; the others are the head's own, as its recipe calls them. Raises
    InputError for a layer that the head does not have.
    """

    def __init__(self, detector: Detector, names: Sequence[str], precision: str) -> None:
        super().__init__()
        head = detector.recipe.head
        known = ("conv5", *head.layers)
        for name in names:
            if name not in known:
                raise InputError(
                    f"the detector's head ({head.kind}) has no layer {name!r}; its layers are "
                    f"{', '.join(known)}"
                )
        self.detector, self.names, self.precision = detector, tuple(names), precision

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.detector.features(images, self.precision)
        channels = stage_channels(self.detector.backbone)[1]  # Conv5's stand last
        found = {"conv5": maps[:, -channels:].mean((2, 3))}
        if self.names != ("conv5",):
            height, width = images.shape[2:]
            whole = [maps.new_tensor([[0, 0, width, height]]) for _ in images]
            head: Any = self.detector.head
            found |= head.layers(maps, whole)
        return {name: found[name] for name in self.names}
