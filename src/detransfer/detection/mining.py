"""Where negative chips come from: what a briefly trained proposal network takes for objects.

SNIPER's ``train_neg_props_and_sniper.sh``: a region proposal network is trained alone for two
epochs, proposes on every training image at all scales, and background that it proposed becomes
chips of the main training.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torchvision.ops import nms

from detransfer.data.index import BOX, Index
from detransfer.detection.detector import Detector
from detransfer.detection.predict import chunks, run_views, views
from detransfer.detection.proposals import PROPOSAL_TYPES
from detransfer.recipes import NegativeRecipe, ScaleRecipe

SAME = 0.7  # overlap at which proposals of different scales are one (lib/dataset/imdb.py)
BATCH = 4  # images of one shape at once; the result does not depend on it


def propose(
    detector: Detector,
    index: Index,
    scales: tuple[ScaleRecipe, ...],
    recipe: NegativeRecipe,
    device: torch.device,
    workers: int,
) -> pd.DataFrame:
    """Return the proposals for every image, by image and falling score, in original pixels.

    ``recipe.proposals`` a scale, whatever their size, put together and suppressed once more. The
    detector has no head. Columns: ``image_id x1 y1 x2 y2 score``.
    """
    detector = detector.to(device)
    detector.prepare_inference(recipe)
    parts = []
    for rows in chunks(index):
        found: dict[int, list[Tensor]] = {row: [] for row in rows}
        chosen = views(index, rows, scales)
        for view, result in run_views(detector, index, chosen, BATCH, device, workers):
            found[view.row].append(torch.cat([result["boxes"], result["scores"][:, None]], 1))
        for row, of_scales in found.items():
            parts.append(_table(int(index.images["image_id"].iloc[row]), torch.cat(of_scales)))
    return pd.concat(parts, ignore_index=True).astype(PROPOSAL_TYPES)


def _table(image_id: int, found: Tensor) -> pd.DataFrame:
    kept = found[nms(found[:, :4], found[:, 4], SAME)].numpy()
    table = pd.DataFrame(kept, columns=[*BOX, "score"])
    table.insert(0, "image_id", np.int32(image_id))
    return table
