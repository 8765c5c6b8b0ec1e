"""The miniature world in the official archives, equal byte for byte for equal recipes.

Names, layouts and numbering are the official ones, so that the same fetch, extract and index code
reads them. File numbers are shuffled over all classes and every image file has the same length
(a JPEG comment fills it), so that neither says anything about the label.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from detransfer.console import InputError
from detransfer.data.miniature import classification, coco, imagenet, occlusion, openimages, voc
from detransfer.data.miniature.world import World
from detransfer.files import atomic, sha256
from detransfer.strict import suggest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Group:
    """Archives that are written together, because they hold the same scenes."""

    title: str
    archives: tuple[str, ...]
    write: Callable[[World, Path], None]


_GROUPS = (
    _Group("ImageNet classification", imagenet.CLS, imagenet.write_cls),
    _Group("ImageNet boxes by synset", imagenet.LOC, imagenet.write_loc),
    _Group("ImageNet DET validation", imagenet.DET, imagenet.write_det),
    _Group("COCO", coco.ARCHIVES, coco.write_coco),
    _Group("Open Images", openimages.ARCHIVES, openimages.write_openimages),
    _Group("VOC2007 trainval", voc.TRAINVAL_2007, voc.write_trainval_2007),
    _Group("VOC2007 test", voc.TEST_2007, voc.write_test_2007),
    _Group("VOC2007 test: occlusion", occlusion.OCCLUSION, occlusion.write_occlusion),
    _Group("VOC2012 trainval", voc.TRAINVAL_2012, voc.write_trainval_2012),
    _Group("SBD", voc.SBD, voc.write_sbd),
    _Group("Caltech-256", classification.CALTECH, classification.write_caltech),
    _Group("SUN-397", classification.SUN, classification.write_sun),
    _Group("Flowers-102", classification.FLOWERS_102, classification.write_flowers),
)
ARCHIVES = tuple(sorted(name for group in _GROUPS for name in group.archives))


def write_archives(world: World, folder: Path, archives: Collection[str] = ARCHIVES) -> None:
    """Render a world into ``folder``: the given ones of ``ARCHIVES``, and their ``SHA256SUMS``.

    The bytes of an archive do not depend on which others are rendered. Each file appears whole
    under its name or not at all; the checksums come last. Raises InputError for an archive that the
    world does not have.
    """
    for name in archives:
        if name not in ARCHIVES:
            raise InputError(
                f"the miniature world has no archive {name!r}{suggest(name, list(ARCHIVES))}"
            )
    for group in _GROUPS:
        if wanted := [name for name in group.archives if name in archives]:
            log.info("rendering %s", group.title)
            _write_group(world, folder, group, wanted)
    lines = [f"{sha256(folder / name)}  {name}\n" for name in ARCHIVES if name in archives]
    with atomic(folder / "SHA256SUMS") as temporary:
        temporary.write_text("".join(lines))


def _write_group(world: World, folder: Path, group: _Group, wanted: Collection[str]) -> None:
    """Write a group aside, then move what is wanted to its place."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".rendering-", dir=folder) as aside:
        group.write(world, Path(aside))
        for name in wanted:
            made = Path(aside) / name
            with made.open("rb") as file:
                os.fsync(file.fileno())
            made.replace(folder / name)
