"""What was recorded of the test images of one data set, by every pre-training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from detransfer.console import InputError
from detransfer.data.index import Index
from detransfer.report.groups import Group, groups
from detransfer.report.metrics import runs_in


@dataclass(frozen=True)
class Recorded:
    """The index of the split, and the folder and table of images of each pre-training."""

    target: str
    index: Index
    folders: dict[str, Path]
    tables: dict[str, pd.DataFrame]

    @property
    def images(self) -> pd.DataFrame:
        """The images in the order of all tables and maps."""
        return next(iter(self.tables.values()))[["image_id", "path"]]

    @property
    def places(self) -> np.ndarray:
        """The row in the index of each image."""
        return pd.Index(self.index.images["image_id"]).get_indexer(self.images["image_id"])

    def maps(self, name: str) -> dict[str, np.ndarray]:
        """Map the activation or maskout maps of each pre-training."""
        return {
            run: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for run, folder in self.folders.items()
        }

    def groups(self) -> list[Group]:
        """Return the groups of these images; their borders are those of the whole split."""
        found = groups(self.index)
        return [replace(group, inside=group.inside[self.places]) for group in found]

    def within(self, pairs: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
        """Return the pairs whose runs are both there."""
        return [(a, b) for a, b in pairs if {a, b} <= set(self.folders)]

    def contrasts(self, pairs: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
        """Return the pairs whose runs are both there; raises InputError where there is none."""
        here = self.within(pairs)
        if not here:
            raise InputError(
                f"{self.target}: no two of its runs ({', '.join(self.folders)}) are contrasted; "
                "name two with --contrast"
            )
        return here


def read_recorded(folders: Sequence[Path], indices: dict[str, Index]) -> list[Recorded]:
    """Read the runs in some folders, by target in the order of the indices of their splits.

    Raises InputError for runs of one target that are not of the same images, and for images that
    the target's index does not have.
    """
    runs, _ = runs_in(folders)
    found = []
    for target, index in indices.items():
        places = {name: next(iter(each.values())) for name, each in runs.get(target, {}).items()}
        tables = {name: pd.read_parquet(each / "images.parquet") for name, each in places.items()}
        for name, table in tables.items():
            if not table["image_id"].isin(index.images["image_id"]).all():
                raise InputError(f"{places[name]}: has images that {index.root} does not")
        found.append(Recorded(target, index, places, tables))
    return found
