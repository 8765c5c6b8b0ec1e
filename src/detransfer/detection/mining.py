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
from detransfer.ranks import in_turn, own
from detransfer.recipes.detection import NegativeRecipe, ScaleRecipe

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
    detector has no head. Columns: ``image_id x1 y1 x2 y2 score``. Several processes share the work
    and all get the same table.
    """
    detector = detector.to(device)
    detector.prepare_inference(recipe)

    def in_chunk(rows: range) -> pd.DataFrame:
        found: dict[int, list[Tensor]] = {row: [] for row in rows}
        chosen = views(index, rows, scales)
        for view, result in run_views(detector, index, chosen, BATCH, device, workers):
            found[view.row].append(torch.cat([result["boxes"], result["scores"][:, None]], 1))
        ids = index.images["image_id"]
        tables = [_table(int(ids.iloc[row]), torch.cat(parts)) for row, parts in found.items()]
        return pd.concat(tables, ignore_index=True)

    parts = chunks(index)
    tables = in_turn(map(in_chunk, own(parts)), len(parts))
    return pd.concat(list(tables), ignore_index=True).astype(PROPOSAL_TYPES)


def _table(image_id: int, found: Tensor) -> pd.DataFrame:
    kept = found[nms(found[:, :4], found[:, 4], SAME)].numpy()
    table = pd.DataFrame(kept, columns=[*BOX, "score"])
    table.insert(0, "image_id", np.int32(image_id))
    return table
