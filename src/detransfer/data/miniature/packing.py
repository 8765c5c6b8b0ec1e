"""Archives, image files and numbers that say nothing: what the writers of all sets share."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.io import savemat

from detransfer.data.miniature.scenes import Scene
from detransfer.data.miniature.textures import Bytes
from detransfer.data.miniature.world import World

_MOMENT = (2012, 1, 1, 0, 0, 0)  # the time stamp of every member
_SECONDS = 1325376000  # the same in seconds since 1970
_COMMENT = 65533  # the longest text of one JPEG comment
# Files are filled up to this many bytes a pixel of a square image; the longest file of the default
# world has 0.61. An image that does not fit is encoded again at a lower quality.
_BYTES_PER_PIXEL = 0.75


class Stream(IntEnum):
    """What an image is rendered for; part of the key of its random numbers."""

    IMAGENET_TRAIN = 1
    IMAGENET_VAL = 2
    COCO_TRAIN = 3
    COCO_VAL = 4
    VOC_TRAINVAL_2007 = 5
    VOC_TEST_2007 = 6
    VOC_TRAINVAL_2012 = 7
    CALTECH = 8
    NUMBERS = 9
    OPENIMAGES_TRAIN = 10
    OPENIMAGES_VALIDATION = 11
    OPENIMAGES_TEST = 12
    IMAGENET_LOC = 13
    IMAGENET_DET = 14
    SBD = 15
    SUN = 16
    FLOWERS = 17
    NAMES = 18


def encode_jpeg(image: Bytes, quality: int, length: int) -> bytes:
    """Return an (h, w, 3) RGB image as a JPEG file of exactly ``length`` bytes.

    Chroma is not subsampled, so that an 8-pixel block holds nothing of its neighbours. Comments
    fill the file up; the quality is lowered, in steps of 5, until the image fits.
    Raises ValueError when it does not fit at any quality.
    """
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    for lowered in range(quality, 4, -5):
        options = [*sampling, cv2.IMWRITE_JPEG_QUALITY, lowered]
        encoded = cv2.imencode(".jpg", bgr, options)[1].tobytes()
        free = length - len(encoded)
        if free == 0 or free >= 4:
            return encoded[:2] + comments(free) + encoded[2:]
    raise ValueError(f"an image of {image.shape} does not fit into {length} bytes")


def comments(free: int) -> bytes:
    """Return JPEG comment segments of ``free`` bytes in all (0, or at least 4)."""
    segments = []
    while free:
        text = min(free - 4, _COMMENT)
        if 0 < free - 4 - text < 4:  # what is left must hold a segment's head
            text -= 4
        segments.append(b"\xff\xfe" + (text + 2).to_bytes(2, "big") + b" " * text)
        free -= text + 4
    return b"".join(segments)


def jpeg(world: World, scene: Scene) -> bytes:
    """Return the image file of a scene; all files of a world have the same length."""
    length = round(_BYTES_PER_PIXEL * world.recipe.image_size**2) + 1024
    return encode_jpeg(scene.image, world.recipe.jpeg_quality, length)


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Append a file to a tar."""
    member = tarfile.TarInfo(name)
    member.size, member.mtime = len(content), _SECONDS
    archive.addfile(member, io.BytesIO(content))


def open_tar(path: Path) -> tarfile.TarFile:
    """Open a new tar."""
    return tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)


@contextmanager
def open_tgz(path: Path, level: int = 1) -> Iterator[tarfile.TarFile]:
    """Open a new tar.gz whose bytes hold neither its name nor the time.

    ``level``: of the compression; the images in it do not get much smaller at any.
    """
    with (
        path.open("wb") as file,
        gzip.GzipFile("", "wb", level, fileobj=file, mtime=_SECONDS) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        yield archive


def zip_add(archive: zipfile.ZipFile, name: str, content: bytes, squeeze: bool = False) -> None:
    """Append a file to a zip, compressed if ``squeeze``."""
    member = zipfile.ZipInfo(name, _MOMENT)
    member.create_system, member.external_attr = 3, 0o644 << 16
    member.compress_type = zipfile.ZIP_DEFLATED if squeeze else zipfile.ZIP_STORED
    archive.writestr(member, content)


def matlab(variables: dict[str, Any], compress: bool = False) -> bytes:
    """Return a MAT-file of version 5 with the given variables."""
    buffer = io.BytesIO()
    savemat(buffer, variables, do_compression=compress)
    content = buffer.getvalue()
    # The first 116 bytes are a free text that would hold the time of writing.
    return b"MATLAB 5.0 MAT-file, miniature world".ljust(116) + content[116:]


def numbers(world: World, stream: Stream, count: int, largest: int) -> list[int]:
    """Return ``count`` different numbers of 1..largest in random order."""
    rng = np.random.default_rng((world.recipe.seed, Stream.NUMBERS, stream))
    return [int(number) + 1 for number in rng.choice(largest, count, replace=False)]


def labels(world: World, stream: Stream, classes: int, each: int) -> NDArray[np.int64]:
    """Return a shuffled list of labels, ``each`` of every class."""
    rng = np.random.default_rng((world.recipe.seed, Stream.NUMBERS, stream, 1))
    return rng.permutation(np.repeat(np.arange(classes), each))


def words(world: World, stream: Stream, count: int, length: int, letters: str) -> list[str]:
    """Return ``count`` different words of ``length`` random letters."""
    rng = np.random.default_rng((world.recipe.seed, Stream.NAMES, stream))
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(letters[k] for k in rng.integers(len(letters), size=length))] = None
    return list(found)
