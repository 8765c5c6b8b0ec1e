"""Pictures inside a page: small enough to open fast, large enough to read."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from detransfer.console import InputError

WIDTH = 1600  # pixels at most: twice that of the page's column, for fine screens
HEIGHT = 4000  # pixels at most
COLOURS = 8192  # at most so many make a drawing; a photograph has more
QUALITY = 82  # of lossy WebP


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI, with its size in pixels."""

    uri: str
    width: int
    height: int


def embed(path: Path) -> Picture:
    """Return a picture file as WebP in a data URI, reduced to ``WIDTH`` x ``HEIGHT``.

    Drawings are kept exactly, photographs are compressed. Raises InputError for a file that is no
    picture.
    """
    try:
        with Image.open(path) as image:
            layer = image.convert("RGBA")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable picture ({error})") from error
    picture = Image.new("RGB", layer.size, "white")
    picture.paste(layer, mask=layer.getchannel("A"))
    drawing = picture.getcolors(COLOURS) is not None
    picture.thumbnail((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", lossless=drawing, quality=QUALITY, method=4)
    text = base64.b64encode(buffer.getvalue()).decode()
    return Picture(f"data:image/webp;base64,{text}", *picture.size)
