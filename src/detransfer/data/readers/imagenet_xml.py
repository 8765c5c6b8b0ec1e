"""The XML files that ImageNet gives boxes in: one an image, in the form of PASCAL VOC.

Coordinates count from 0 and are inclusive (0 and width - 1 occur; the authors' loader reads them as
they are). An edge at ``width`` is taken as the image's border, as the authors do.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

CORNERS = ("xmin", "ymin", "xmax", "ymax")
FLAGS = ("difficult", "truncated", "occluded")
Note = Callable[[str, str, int], None]  # kind of fault, message, number of objects


class Box(NamedTuple):
    """One object: its synset, its box in pixels (0-based, half-open) and its flags."""

    name: str
    x1: float
    y1: float
    x2: float
    y2: float
    difficult: bool
    truncated: bool
    occluded: bool


@dataclass(frozen=True)
class BoxRules:
    """Which boxes are right: the synsets that may occur and two limits in the XML's own pixels."""

    known: Collection[str]
    least_extent: float  # of xmax - xmin and ymax - ymin; 0 admits boxes of one pixel
    largest: float = math.inf  # coordinate


def read_boxes(
    content: bytes, where: str, size: tuple[int, int], rules: BoxRules, note: Note
) -> list[Box]:
    """Return the good boxes of one of ImageNet's XML files, in pixels of the image.

    ``where`` names the file in messages and ``size`` is the image's true (width, height). Every
    fault goes to ``note`` with its kind and the number of objects that it costs.
    """
    try:
        tree = ET.fromstring(content)
    except (ET.ParseError, LookupError, ValueError) as error:
        note("damaged annotation", f"{where}: malformed XML ({error})", 1)
        return []
    elements = tree.findall("object")
    if not elements:
        return []
    stated = (_side(tree, "size/width"), _side(tree, "size/height"))
    scale = frame_scale(stated, size)
    if scale is None:
        text = f"{stated[0]:g} x {stated[1]:g} pixels, but the image has {size[0]} x {size[1]}"
        note("size of another shape", f"{where}: says {text}", len(elements))
        return []
    frame = (size[0] / scale[0], size[1] / scale[1])
    boxes = []
    for number, element in enumerate(elements, 1):
        try:
            name, corners, flags = _object(element)
            fault = _fault(name, corners, frame, rules)
        except ValueError as error:
            fault = "malformed object", str(error)
        if fault is None:
            edges = _edges(corners, scale, size)
            if edges[0] < edges[2] and edges[1] < edges[3]:
                boxes.append(Box(name, *edges, *flags))
                continue
            fault = "degenerate box", "is thinner than float32 can tell"
        note(fault[0], f"{where}: object {number} {fault[1]}", 1)
    return boxes


def frame_scale(stated: tuple[float, float], size: tuple[int, int]) -> tuple[float, float] | None:
    """Return the factors (x, y) from the XML's pixels to the image's; None: shapes differ.

    A stated side of 0 (missing) means that the boxes are in pixels of the image. A size of the same
    aspect within one pixel belongs to the image before it was resized.
    """
    if min(stated) <= 0 or stated == size:
        return 1.0, 1.0
    x, y = size[0] / stated[0], size[1] / stated[1]
    same = min(abs(stated[0] * y - size[0]), abs(stated[1] * x - size[1])) <= 1
    return (x, y) if same else None


def _side(tree: ET.Element, tag: str) -> float:
    try:
        value = float(tree.findtext(tag) or 0)
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0


def _object(element: ET.Element) -> tuple[str, list[float], list[bool]]:
    """Return name, corners and flags. Raises ValueError saying what is malformed."""
    corners = []
    for tag in CORNERS:
        text = element.findtext(f"bndbox/{tag}")
        try:
            corners.append(float(text or ""))
        except ValueError:
            corners.append(math.nan)
        if not math.isfinite(corners[-1]):
            raise ValueError(f"has <{tag}> {text!r}, which should be a number")
    flags = []
    for tag in FLAGS:
        text = (element.findtext(tag) or "0").strip()
        if text not in ("0", "1"):
            raise ValueError(f"has <{tag}> {text!r}, which should be 0 or 1")
        flags.append(text == "1")
    return (element.findtext("name") or "").strip().lower(), corners, flags


def _fault(
    name: str, corners: Sequence[float], frame: tuple[float, float], rules: BoxRules
) -> tuple[str, str] | None:
    """Return kind and description of the first fault, in the authors' order."""
    x1, y1, x2, y2 = corners
    text = f"[{x1:g}, {y1:g}, {x2:g}, {y2:g}]"
    if max(corners) > rules.largest:
        return f"coordinate above {rules.largest:g}", f"has box {text}"
    # a tenth of a pixel: the frame of a resized image is not exact
    if min(x1, y1) < 0 or x2 > frame[0] + 0.1 or y2 > frame[1] + 0.1 or not _starts(x1, y1, frame):
        return "outside the image", f"leaves the image: {text} in {frame[0]:g} x {frame[1]:g}"
    if x2 - x1 < rules.least_extent or y2 - y1 < rules.least_extent:
        return "degenerate box", f"has an empty or inverted box {text}"
    if name not in rules.known:
        return "unknown class", f"is of class {name!r}, which is not a known synset"
    return None


def _starts(x1: float, y1: float, frame: tuple[float, float]) -> bool:
    return x1 < frame[0] and y1 < frame[1]


def _edges(
    corners: Sequence[float], scale: tuple[float, float], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Return inclusive corners as half-open edges in the image, rounded to float32."""
    x1, y1, x2, y2 = corners
    x2, y2 = min((x2 + 1) * scale[0], size[0]), min((y2 + 1) * scale[1], size[1])
    edges = np.array([x1 * scale[0], y1 * scale[1], x2, y2], np.float32).tolist()
    return edges[0], edges[1], edges[2], edges[3]
