"""How far objects are hidden: ``occlusion.parquet`` beside an index, one writer and one reader.

One row for each object of one split, in the order of the index: ``image_id``, ``class_id`` int32
and ``level`` int8, an index in ``LEVELS``, or -1 where nobody said. The levels are those of Hoiem,
Chodpathumwan and Dai (ECCV 2012), who labelled VOC2007's test objects of seven classes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from detransfer.console import InputError
from detransfer.files import atomic

LEVELS = ("none", "low", "medium", "high")  # hidden: nothing, 1-10 %, 10-50 %, 50-100 %
KEY = ["image_id", "class_id"]


def write_occlusion(path: Path, objects: pd.DataFrame, level: np.ndarray) -> None:
    """Write the levels (m,) of the objects of one split, given as the index's table."""
    table = objects[KEY].assign(level=level.astype(np.int8))
    with atomic(path) as temporary:
        pq.write_table(pa.Table.from_pandas(table, preserve_index=False), temporary)


def read_occlusion(path: Path, objects: pd.DataFrame) -> np.ndarray:
    """Return the levels (m,) int8 of the objects of one split.

    Raises InputError when the file cannot be read or was made from other objects than these.
    """
    try:
        table = pq.read_table(path, columns=[*KEY, "level"]).to_pandas()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a readable table of occlusion levels ({error})") from error
    if not np.array_equal(table[KEY].to_numpy(), objects[KEY].to_numpy()):
        raise InputError(
            f"{path}: its {len(table)} objects are not the {len(objects)} of the index and split; "
            "make it again with scripts/occlusion_labels.py"
        )
    if not table["level"].between(-1, len(LEVELS) - 1).all():
        raise InputError(f"{path}: a level does not lie in -1 to {len(LEVELS) - 1}; make it again")
    return table["level"].to_numpy(np.int8)
