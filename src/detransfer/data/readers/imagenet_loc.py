"""ImageNet with boxes (fall 2011 release): the data of R-FCN-3000, one class a synset.

Folders under the root: ``images/<WNID>/<WNID>_<number>.JPEG`` (``fall11_whole.tar``) and, below
``annotations``, one ``<WNID>.tar.gz`` a synset (``bboxes_annotations.tar.gz`` as it is unpacked) or
one folder ``<WNID>`` of XML files (unpacked further). An archive is read as it is: a few thousand
files instead of a million. Coordinates: see :mod:`detransfer.data.readers.imagenet_xml`.
"""

from __future__ import annotations

import logging
import re
import tarfile
import zlib
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from tqdm import tqdm

from detransfer.console import InputError
from detransfer.data.images import image_size
from detransfer.data.index import OBJECT_TYPES, Index
from detransfer.data.options.imagenet_loc import Options
from detransfer.data.readers.faults import Faults
from detransfer.data.readers.imagenet_xml import Box, BoxRules, read_boxes
from detransfer.data.readers.lists import read_lines, read_names

log = logging.getLogger(__name__)
THREADS = 8  # files wait for the disk more than for the processor
WNID = re.compile(r"n[0-9]{8}")
ANNOTATION = re.compile(r"n[0-9]{8}_[0-9]+\.xml")
LARGEST = 4000.0  # pixels; SNIPER (cvpr3k) lib/dataset/imagenet.py drops boxes beyond it


@dataclass
class Synset:
    """What one synset's annotations hold; ``boxes`` name their image by its place in ``images``."""

    images: list[tuple[str, int, int]] = field(default_factory=list)  # path, width, height
    boxes: list[tuple[int, Box]] = field(default_factory=list)
    faults: dict[str, tuple[str, int]] = field(default_factory=dict)  # kind: first message, objects

    def note(self, kind: str, message: str, count: int = 1) -> None:
        """Count a fault; the first message of its kind is kept."""
        first, before = self.faults.get(kind, (message, 0))
        self.faults[kind] = first, before + count


def read(root: Path, options: Options) -> Index:
    """Read all annotated images into the split ``train``.

    Classes are those of the option ``classes`` in its order, or else the synsets of the archive
    with enough images, in order of WNID; ``source_id`` is the WNID and ``superclass`` is empty (see
    :mod:`detransfer.data.superclasses`). ``image_id`` counts the images in order of path. Left out
    are images without an annotation or without a box that is kept. Left out and counted in the
    index are, after SNIPER (cvpr3k) lib/dataset/imagenet.py, boxes outside the image, degenerate
    boxes, coordinates above 4000, unknown synsets, and besides: boxes of images whose stated size
    is of another shape than the image, damaged XML files and images, annotations without image.
    Stated sizes of 0 are ignored, and boxes of a resized image are scaled (:func:`frame_scale`).
    Raises InputError for missing or damaged archives and lists, and under ``on_bad_object: fail``
    for the first of these faults, naming file and object.
    """
    names = read_words(root / options.words)
    sources = annotation_sources(root / options.annotations)
    wanted = _class_file(root / options.classes, sources) if options.classes else None
    rules = BoxRules(frozenset(sources), least_extent=1, largest=LARGEST)
    images, objects, faults = _collect(root, options, sources, rules)
    classes = wanted if wanted is not None else _frequent(objects, options.min_images)
    if not classes:
        raise InputError(
            f"{root / options.annotations}: no class has {options.min_images} images with a box; "
            "lower the option 'min_images'"
        )
    log.info("%d classes", len(classes))
    images, objects = _select(images, objects, classes)
    if images.empty:
        raise InputError(f"{root}: no image has a box of the {len(classes)} classes")
    faults.report()
    table = pd.DataFrame(
        {
            "class_id": range(len(classes)),
            "name": [names.get(wnid, wnid) for wnid in classes],
            "source_id": classes,
            "superclass": "",
        }
    )
    return Index(images, objects, table, root, dropped=faults.counts)


def read_words(path: Path) -> dict[str, str]:
    """Return the words of each synset in ImageNet's ``words.txt``; nothing where it is absent.

    Raises InputError for a file that is empty, not UTF-8 or has a line of another form.
    """
    if not path.is_file():
        log.info("%s: absent; classes are named by their WNIDs", path)
        return {}
    words: dict[str, str] = {}
    for number, line in read_lines(path, "list of words"):
        wnid, _, text = line.partition("\t")
        if not (WNID.fullmatch(wnid) and text.strip()):
            raise InputError(f"{path}: line {number}: expected '<WNID> tab <words>', got {line!r}")
        if words.setdefault(wnid, text.strip()) != text.strip():
            raise InputError(f"{path}: line {number}: {wnid} has two names")
    if not words:
        raise InputError(f"{path}: the list of words is empty")
    return words


def annotation_sources(folder: Path) -> dict[str, Path]:
    """Return the folder or ``.tar.gz`` of each synset's XML files, in order of WNID.

    Looks in the folders below ``folder`` too, such as the archives' own ``Annotation``. Raises
    InputError when there is none, or one synset twice.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; extract the boxes first")
    found: dict[str, Path] = {}
    for wnid, path in _walk(folder):
        if wnid in found:
            raise InputError(f"{path}: synset {wnid} is also in {found[wnid]}; keep one of them")
        found[wnid] = path
    if not found:
        raise InputError(f"{folder}: has no <WNID>.tar.gz and no folder <WNID>")
    return dict(sorted(found.items()))


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.iterdir()):
        wnid = path.name.removesuffix(".tar.gz")
        if WNID.fullmatch(wnid) and (path.name != wnid or (path / "Annotation").is_dir()):
            inner = path / "Annotation" / wnid
            yield wnid, (inner if inner.is_dir() else path)
        elif path.is_dir():
            yield from [(wnid, path)] if WNID.fullmatch(wnid) else _walk(path)
        else:
            log.info("%s: skipped (not boxes of a synset)", path)


def read_synset(root: Path, folder: str, wnid: str, source: Path, rules: BoxRules) -> Synset:
    """Read one synset's annotations and the sizes of its annotated images."""
    found = Synset()
    place = root / folder / wnid
    present = {path.name for path in place.iterdir()} if place.is_dir() else set()
    for name, content in sorted(_annotations(source).items()):
        where = f"{source}: {name}" if source.is_file() else str(source / name)
        image = name.removesuffix(".xml") + ".JPEG"
        if image not in present:
            found.note("annotation without image", f"{where}: there is no {place / image}")
            continue
        try:
            size = image_size(place / image)
        except InputError as error:
            found.note("damaged image", str(error))
            continue
        boxes = read_boxes(content, where, size, rules, found.note)
        found.boxes += [(len(found.images), box) for box in boxes]
        if boxes:
            found.images.append((f"{folder}/{wnid}/{image}", *size))
    return found


def _annotations(source: Path) -> dict[str, bytes]:
    """Return the XML files of one synset by name; other files are left alone."""
    if source.is_dir():
        paths = [path for path in source.iterdir() if ANNOTATION.fullmatch(path.name)]
        return {path.name: path.read_bytes() for path in paths}
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(source, "r|gz") as tar:
            for member in tar:
                name = PurePosixPath(member.name).name
                file = tar.extractfile(member) if ANNOTATION.fullmatch(name) else None
                if file is None:
                    continue
                if name in contents:
                    raise InputError(f"{source}: has {name} twice; fetch the archive again")
                contents[name] = file.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise InputError(
            f"{source}: the archive is truncated or damaged ({error}); fetch it again"
        ) from None
    return contents


def _synsets(
    root: Path, options: Options, sources: dict[str, Path], rules: BoxRules
) -> Iterator[Synset]:
    """Yield the synsets in order; several are read at a time."""
    progress = tqdm(total=len(sources), desc="annotations", unit=" synsets", disable=None)
    with progress, ThreadPoolExecutor(THREADS) as pool:
        tasks = [
            pool.submit(read_synset, root, options.images, wnid, source, rules)
            for wnid, source in sources.items()
        ]
        try:
            for task in tasks:
                yield task.result()
                progress.update()
        finally:
            pool.shutdown(cancel_futures=True)  # after a fault nobody waits for the rest


def _collect(
    root: Path, options: Options, sources: dict[str, Path], rules: BoxRules
) -> tuple[pd.DataFrame, pd.DataFrame, Faults]:
    """Read all synsets side by side; rows of images and objects are in order of path."""
    faults = Faults(options.on_bad_object)
    images: list[tuple[str, int, int]] = []
    objects: list[pd.DataFrame] = []
    for found in _synsets(root, options, sources, rules):
        for kind, (message, count) in found.faults.items():
            faults.bad(kind, message, count)
        if found.boxes:
            table = pd.DataFrame([box for _, box in found.boxes])
            rows = np.array([row for row, _ in found.boxes], np.int32)
            objects.append(table.assign(image_id=rows + len(images)))
        images += found.images
    if not objects:
        raise InputError(
            f"{root}: no image of {options.images}/ has a box in {options.annotations}/; "
            "are images and boxes extracted, and of the same synsets?"
        )
    table = pd.DataFrame(images, columns=["path", "width", "height"]).assign(split="train")
    return table, pd.concat(objects, ignore_index=True), faults


def _class_file(path: Path, sources: Collection[str]) -> list[str]:
    classes = read_names(path, "list of classes")
    for wnid, number in classes.items():
        if wnid not in sources:
            raise InputError(f"{path}: line {number}: there are no boxes of synset {wnid!r}")
    return list(classes)


def _frequent(objects: pd.DataFrame, least: int) -> list[str]:
    """Return the synsets that occur in at least ``least`` images, sorted."""
    counts = objects.drop_duplicates(["image_id", "name"])["name"].value_counts()
    return sorted(counts[counts >= least].index)


def _select(
    images: pd.DataFrame, objects: pd.DataFrame, classes: list[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Keep the objects of the classes and their images, numbered anew."""
    number = pd.Series(range(len(classes)), index=classes)
    kept = objects[objects["name"].isin(number.index)]
    if len(kept) < len(objects):
        log.info("%d objects are of classes that are not chosen", len(objects) - len(kept))
    rows = np.unique(kept["image_id"])
    images = images.iloc[rows].assign(image_id=np.arange(len(rows), dtype=np.int32))
    kept = kept.assign(
        image_id=np.searchsorted(rows, kept["image_id"]),
        class_id=kept["name"].map(number),
        crowd=False,
        group_of=False,
    )
    return (
        images.reset_index(drop=True),
        kept[list(OBJECT_TYPES)].astype(OBJECT_TYPES).reset_index(drop=True),
    )
