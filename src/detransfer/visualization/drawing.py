"""Boxes with labels on images, in colours that colour-blind readers can tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Okabe and Ito's palette without its yellow, which is lost on bright images.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
INK, PAPER = "#FFFFFF", "#000000"


@dataclass(frozen=True)
class DrawnBox:
    """One box ``x1 y1 x2 y2`` in pixels of the image, its colour, and what is written on it."""

    box: Sequence[float]
    colour: str
    label: str = ""


def draw_boxes(image: Image.Image, boxes: Sequence[DrawnBox], scale: float = 1.0) -> Image.Image:
    """Return the image enlarged by ``scale``, with the boxes on it, the first on top.

    Lines and letters are so thick that they can be seen at the size of the result.
    """
    size = (round(image.width * scale), round(image.height * scale))
    result = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    width = max(2, round(max(size) / 250))
    font = ImageFont.load_default(size=max(10, round(max(size) / 40)))
    pencil = ImageDraw.Draw(result)
    for drawn in reversed(boxes):
        x1, y1, x2, y2 = (float(v) * scale for v in drawn.box)
        corners = (x1, y1, max(x2 - 1, x1), max(y2 - 1, y1))  # the last pixel belongs to the line
        pencil.rectangle(corners, outline=drawn.colour, width=width)
        if drawn.label:
            _write(pencil, (x1, y1), drawn, font, size)
    return result


def class_colour(class_id: int) -> str:
    """Return the colour of a class; classes share colours when there are more than six."""
    return COLOURS[class_id % len(COLOURS)]


def _write(
    pencil: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    drawn: DrawnBox,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    size: tuple[int, int],
) -> None:
    """Write a label on its colour above the box's corner, or wherever the image has room."""
    left, top, right, bottom = pencil.textbbox((0, 0), drawn.label, font=font)
    wide, high = right - left + 4, bottom - top + 4
    x = min(max(corner[0], 0), max(size[0] - wide, 0))
    y = corner[1] - high if corner[1] >= high else min(max(corner[1], 0), max(size[1] - high, 0))
    pencil.rectangle((x, y, x + wide, y + high), fill=drawn.colour)
    pencil.text((x + 2 - left, y + 2 - top), drawn.label, font=font, fill=_readable(drawn.colour))


def _readable(colour: str) -> str:
    """Return white or black, whichever stands out against a colour (WCAG's luminance)."""
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return PAPER if float(linear @ [0.2126, 0.7152, 0.0722]) > 0.179 else INK
