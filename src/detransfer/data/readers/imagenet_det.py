"""ILSVRC DET (2013, unchanged in 2014): 200 classes in 20,121 validation images, to evaluate on.

Folders under the root: ``ILSVRC2013_DET_val/*.JPEG``, ``ILSVRC2013_DET_bbox_val/*.xml`` and
``ILSVRC2014_devkit/data`` with ``meta_det.mat``, ``det_lists/val.txt`` and the blacklist. Where
ImageNet's hierarchy (or a matching list) is there too, :func:`class_map` says which of the 200
classes each synset belongs to, so that a detector of other synsets can be evaluated.
"""

from __future__ import annotations

import logging
import re
import xml.etree.ElementTree as ET
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from detransfer.console import InputError
from detransfer.data.images import image_size
from detransfer.data.index import OBJECT_TYPES, Index, empty_objects
from detransfer.data.matfile import read_mat
from detransfer.data.options.imagenet_det import Options
from detransfer.data.readers.faults import Faults
from detransfer.data.readers.imagenet_xml import Box, BoxRules, read_boxes
from detransfer.data.readers.lists import read_lines

log = logging.getLogger(__name__)
THREADS = 8  # files wait for the disk more than for the processor
CLASSES = 200  # meta_det.mat lists them first; higher ids are their ancestors and descendants
Edge = tuple[str, str]  # WNIDs: (parent, child)


def read(root: Path, options: Options) -> Index:
    """Read the images of val.txt into the split ``val``.

    ``class_id`` is the DET id - 1 and ``source_id`` the WNID; ``image_id`` is the number in
    val.txt, by which the official evaluation knows an image. Objects of blacklisted pairs of image
    and class are ``difficult``: neither found nor missed. (The official evaluation drops all
    detections of the class in such an image, also beside the objects.) Raises InputError, naming
    file and object, for what is missing or malformed; under ``on_bad_object: drop`` bad boxes are
    left out and counted, and an image without an annotation has no objects.
    """
    devkit = root / options.devkit
    classes = read_classes(devkit / "meta_det.mat")
    numbers = _image_list(devkit / "det_lists" / "val.txt")
    ambiguous = _blacklist(devkit / options.blacklist, classes) if options.blacklist else set()
    rules = BoxRules(frozenset(classes["source_id"]), least_extent=0)
    faults = Faults(options.on_bad_object)
    paths = [f"{options.images}/{name}.JPEG" for name in numbers]
    with ThreadPoolExecutor(THREADS) as pool:
        sizes = list(pool.map(lambda path: image_size(root / path), paths))
    boxes = []
    for (name, number), size in zip(numbers.items(), sizes, strict=True):
        path = root / options.annotations / f"{name}.xml"
        try:
            content = path.read_bytes()
        except OSError:
            faults.bad("image without annotation", f"{path}: there is no such annotation")
            continue
        boxes += [(number, box) for box in read_boxes(content, str(path), size, rules, faults.bad)]
    faults.report()
    images = pd.DataFrame(
        {
            "image_id": np.array(list(numbers.values()), np.int32),
            "path": paths,
            "width": [width for width, _ in sizes],
            "height": [height for _, height in sizes],
            "split": "val",
        }
    )
    objects = _object_table(boxes, classes, ambiguous)
    mapped = class_map(root, options)
    return Index(images, objects, classes, root, faults.counts, class_map=mapped)


def class_map(root: Path, options: Options) -> pd.DataFrame | None:
    """Return the DET class of every synset that has one, or None without the file to tell.

    The columns are those of :func:`class_mapping`. Raises InputError for a malformed file.
    """
    classes = list(read_classes(root / options.devkit / "meta_det.mat")["source_id"])
    if options.matching is not None:
        return _matching(root / options.matching, classes)
    path = root / options.hierarchy
    if not path.is_file():
        log.info("%s: absent; no class map is made", path)
        return None
    is_a = read_hierarchy(path)
    synsets = sorted({wnid for edge in is_a for wnid in edge} | set(classes))
    return class_mapping(synsets, classes, is_a)


def class_mapping(
    source_classes: Sequence[str], det_classes: Sequence[str], is_a: Iterable[Edge]
) -> pd.DataFrame:
    """Return the DET class of each source class: the synset itself or its nearest ancestor.

    ``is_a`` holds pairs (parent, child). The table has a row for each source class that maps,
    in their order, with ``source_id`` (WNID) and ``class_id`` (place in ``det_classes``); the
    others, such as ancestors of a DET class, have none. A synset may have several parents: of
    two DET ancestors the nearer counts, and of two as near the one with the smaller ``class_id``.
    Cycles do no harm. DET classes that nothing maps to are logged. Raises InputError for a source
    or DET class that is listed twice.
    """
    for kind, classes in (("source", source_classes), ("DET", det_classes)):
        if len(set(classes)) < len(classes):
            raise InputError(f"a {kind} class is listed twice")
    children: dict[str, set[str]] = defaultdict(set)
    for parent, child in is_a:
        children[parent].add(child)
    found = {wnid: number for number, wnid in enumerate(det_classes)}
    # Breadth first from all DET classes at once: a synset is reached first from the nearest, and
    # within one distance in order of class_id, because the queue starts in that order.
    queue = deque(det_classes)
    while queue:
        parent = queue.popleft()
        for child in children[parent] - found.keys():
            found[child] = found[parent]
            queue.append(child)
    kept = [wnid for wnid in source_classes if wnid in found]
    table = pd.DataFrame(
        {"source_id": kept, "class_id": np.array([found[wnid] for wnid in kept], np.int32)}
    )
    log.info("%d of %d classes map to DET classes", len(kept), len(source_classes))
    for wnid in sorted(set(det_classes) - {det_classes[row] for row in table["class_id"]}):
        log.warning("no class maps to the DET class %s: its AP will be 0", wnid)
    return table


def read_hierarchy(path: Path) -> list[Edge]:
    """Return the pairs (parent, child) of ``wordnet.is_a.txt`` or ``structure_released.xml``.

    Raises InputError for a file that is missing or of another form.
    """
    if path.suffix == ".xml":
        return _structure(path)
    return _pairs(path, "hierarchy")


def _pairs(path: Path, kind: str) -> list[Edge]:
    edges = []
    for number, line in read_lines(path, kind):
        words = line.split()
        if len(words) != 2:
            raise InputError(f"{path}: line {number}: expected two WNIDs, got {line!r}")
        edges.append((words[0], words[1]))
    if not edges:
        raise InputError(f"{path}: the {kind} is empty")
    return edges


def _structure(path: Path) -> list[Edge]:
    try:
        tree = ET.parse(path).getroot()
    except (ET.ParseError, OSError, LookupError, ValueError) as error:
        raise InputError(f"{path}: not a readable XML file ({error})") from None
    edges = []
    for parent in tree.iter("synset"):
        for child in parent.findall("synset"):
            edges.append((parent.get("wnid", ""), child.get("wnid", "")))
    if not edges or any(not all(edge) for edge in edges):
        raise InputError(f"{path}: has no <synset> inside another, or one without a wnid")
    return edges


def _matching(path: Path, classes: Sequence[str]) -> pd.DataFrame:
    number = {wnid: row for row, wnid in enumerate(classes)}
    found: dict[str, int] = {}
    for source, target in _pairs(path, "matching list"):
        if target not in number:
            raise InputError(f"{path}: {source} is matched to {target}, which is no DET class")
        if found.setdefault(source, number[target]) != number[target]:
            raise InputError(f"{path}: {source} is matched to two DET classes")
    ids = np.array(list(found.values()), np.int32)
    return pd.DataFrame({"source_id": list(found), "class_id": ids})


def read_classes(path: Path) -> pd.DataFrame:
    """Return the class table: synsets of meta_det.mat with ids 1 to 200, in order of id.

    The field of the ids is called by the year of the kit (``ILSVRC2013_DET_ID``). Raises InputError
    for a file that is missing or not that table.
    """
    synsets = read_mat(path, "synsets")
    try:
        (field,) = (name for name in synsets[0] if name.endswith("_DET_ID"))
        rows = {int(row[field].item()): (str(row["WNID"]), str(row["name"])) for row in synsets}
    except (
        LookupError,
        StopIteration,
        TypeError,
        ValueError,
        AttributeError,
        OverflowError,
    ) as error:
        raise InputError(f"{path}: not the synset table of ILSVRC DET ({error!r})") from error
    count = len(synsets)
    chosen = [rows[number] for number in sorted(rows) if number <= CLASSES]
    wnids = [wnid for wnid, _ in chosen]
    ids = [number for number in sorted(rows) if number <= CLASSES]
    if len(rows) < count or ids != list(range(1, len(ids) + 1)) or not ids:
        raise InputError(f"{path}: its ids are not 1, 2, 3, ..., each once")
    if len(set(wnids)) < len(wnids):
        raise InputError(f"{path}: two of its classes have one WNID")
    return pd.DataFrame(
        {
            "class_id": range(len(chosen)),
            "name": [name for _, name in chosen],
            "source_id": wnids,
            "superclass": "",
        }
    )


def _image_list(path: Path) -> dict[str, int]:
    """Return the number of each image of val.txt, in the file's order."""
    numbers: dict[str, int] = {}
    for row, line in read_lines(path, "list of images"):
        words = line.split()
        if len(words) != 2 or not _is_number(words[1]):
            raise InputError(f"{path}: line {row}: expected '<image> <number>', got {line!r}")
        if words[0] in numbers:
            raise InputError(f"{path}: line {row}: image {words[0]} is listed twice")
        numbers[words[0]] = int(words[1])
    if not numbers or len(set(numbers.values())) < len(numbers):
        raise InputError(f"{path}: lists no image, or one number twice")
    return numbers


def _is_number(word: str) -> bool:
    """Tell whether a word is a number that fits into an int32 (in the plain form)."""
    return re.fullmatch(r"[0-9]{1,9}", word) is not None


def _blacklist(path: Path, classes: pd.DataFrame) -> set[tuple[int, str]]:
    """Return the (number of the image, WNID) pairs of the official blacklist."""
    known = set(classes["source_id"])
    pairs = set()
    for row, line in read_lines(path, "blacklist"):
        words = line.split()
        if len(words) != 2 or not _is_number(words[0]) or words[1] not in known:
            raise InputError(
                f"{path}: line {row}: expected '<number of an image> <WNID of a DET class>', "
                f"got {line!r}"
            )
        pairs.add((int(words[0]), words[1]))
    return pairs


def _object_table(
    boxes: list[tuple[int, Box]], classes: pd.DataFrame, ambiguous: set[tuple[int, str]]
) -> pd.DataFrame:
    if not boxes:
        return empty_objects()
    number = dict(zip(classes["source_id"], classes["class_id"], strict=True))
    table = pd.DataFrame([box for _, box in boxes])
    table["image_id"] = [image for image, _ in boxes]
    table["difficult"] |= np.array([(image, box.name) in ambiguous for image, box in boxes])
    table["class_id"] = table["name"].map(number)
    table = table.assign(crowd=False, group_of=False)
    return table[list(OBJECT_TYPES)].astype(OBJECT_TYPES)
