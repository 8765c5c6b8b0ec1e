"""What a region proposal network proposed for a data set: ``proposals.parquet``.

One row a proposal: ``image_id`` int32, the box ``x1 y1 x2 y2`` float32 in pixels of the original
image (0-based, half-open) and its ``score`` float32. Those of an image stand together, the best
first, after suppression over all scales. The header says which images they were made for: the
digest of that (part of an) index.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from detransfer.console import InputError
from detransfer.data.index import BOX
from detransfer.files import atomic
from detransfer.recipes.detection import ChipRecipe

PROPOSAL_TYPES = {"image_id": "int32", **dict.fromkeys([*BOX, "score"], "float32")}
DIGEST = b"index_digest"


@dataclass(frozen=True)
class Proposals:
    """The boxes (m, 4) float32 of each image: ``ids`` (u,) ascending, ``offsets`` (u + 1,)."""

    ids: np.ndarray
    offsets: np.ndarray
    boxes: np.ndarray

    def of(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return offsets (n + 1,) and boxes of the images with these ids (n,), in their order.

        An image that nothing was proposed for has none.
        """
        rows = np.searchsorted(self.ids, ids)
        known = np.append(self.ids, -1)[rows] == ids  # ids are not negative
        starts = self.offsets[rows]
        counts = np.where(known, np.append(self.offsets[1:], 0)[rows] - starts, 0)
        offsets = np.append(0, np.cumsum(counts))
        places = np.repeat(starts - offsets[:-1], counts) + np.arange(offsets[-1])
        return offsets, self.boxes[places]


def write_proposals(path: Path, proposals: pd.DataFrame, index_digest: str) -> None:
    """Check the proposals and write them, by image and falling score.

    ``index_digest``: :meth:`~detransfer.data.index.Index.digest` of the images that they were made
    for, all of them: a training refuses those of another part. Raises InputError where
    :func:`read_proposals` would.
    """
    typed = proposals.loc[:, list(PROPOSAL_TYPES)].astype(PROPOSAL_TYPES)
    typed = typed.sort_values(["image_id", "score"], ascending=[True, False], kind="stable")
    _check(path, typed["image_id"].to_numpy(), typed[[*BOX, "score"]].to_numpy())
    table = pa.Table.from_pandas(typed, preserve_index=False)
    table = table.replace_schema_metadata({DIGEST: index_digest.encode()})
    with atomic(path) as temporary:
        pq.write_table(table, temporary, use_dictionary=["image_id"])


def read_proposals(path: Path, index_digest: str) -> Proposals:
    """Read the proposals for the images with this digest.

    Raises InputError for a file that is not a readable table of proposals, or is one of other
    images.
    """
    try:
        with pq.ParquetFile(path) as file:
            found = (file.schema_arrow.metadata or {}).get(DIGEST, b"").decode()
            table = file.read(columns=["image_id", *BOX])
        ids = table["image_id"].to_numpy()
        boxes = np.stack([table[name].to_numpy() for name in BOX], axis=1)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a readable table of proposals ({error})") from error
    if found != index_digest:
        raise InputError(
            f"{path}: proposals of other images (index {found[:12] or 'unknown'}, this training's "
            f"{index_digest[:12]}); propose anew from the same index and splits"
        )
    _check(path, ids, boxes)
    starts = np.flatnonzero(np.diff(ids, prepend=-1))  # ids are in order and not negative
    return Proposals(ids[starts], np.append(starts, len(ids)), boxes)


def training_proposals(
    path: Path | None, recipe: ChipRecipe, source: Path, index_digest: str
) -> Proposals | None:
    """Read the proposals that a recipe's negative chips need; None where it wants none.

    ``source`` is the recipe's file. Raises InputError where the recipe wants negative chips and
    there are no proposals, or the reverse, and for proposals of other images.
    """
    if (recipe.negatives is None) != (path is None):
        raise InputError(
            f"{source}: chips.negatives and --proposals go together: give a file of proposals "
            "where the recipe asks for negative chips, and none elsewhere"
        )
    return None if path is None else read_proposals(path, index_digest)


def _check(path: Path, ids: np.ndarray, values: np.ndarray) -> None:
    """Raise InputError at the first row (box, and score where it is given) that is no proposal."""
    for wrong, reason in (
        (~np.isfinite(values).all(1), "a number is not finite; did the training diverge?"),
        ((values[:, 2:4] < values[:, :2]).any(1), "the box is inverted; boxes are x1, y1, x2, y2"),
        (np.diff(ids, prepend=0) < 0, "the images are not in order; propose anew"),
    ):
        if wrong.any():
            row = int(np.argmax(wrong))
            shown = ", ".join(f"{value:g}" for value in values[row])
            raise InputError(f"{path}: proposal {row} (image {ids[row]}: {shown}): {reason}")
