"""What tells one image file from another: a number that changes with its bytes.

An index holds rows, and equal rows can speak of other pixels: an archive that was replaced, a world
rendered anew at another contrast. The fingerprint of every image carries its bytes into the
index, and so into the digest that says which results may be compared.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from detransfer.console import InputError
from detransfer.data.index import Index

END = 4096  # bytes read at either end of a file; the whole of two million files takes too long
THREADS = 8  # files wait for the disk, not for the processor
BATCH = 1024  # images a task


def with_fingerprints(index: Index) -> Index:
    """Return the index with the column ``fingerprint`` (int64): of each image and its mask.

    Raises InputError for a file that cannot be read.
    """
    columns = [index.images[name].tolist() for name in ("path", "mask") if name in index.images]
    files = list(zip(*columns, strict=True))
    found = np.empty(len(files), np.int64)
    starts = range(0, len(files), BATCH)
    progress = tqdm(total=len(files), desc="fingerprints", unit=" images", disable=None)
    with progress, ThreadPoolExecutor(THREADS) as pool:
        batches = pool.map(lambda start: _batch(index.root, files[start : start + BATCH]), starts)
        for start, batch in zip(starts, batches, strict=True):
            found[start : start + BATCH] = batch
            progress.update(len(batch))
    return replace(index, images=index.images.assign(fingerprint=found))


def _batch(root: Path, rows: Sequence[Sequence[str]]) -> list[int]:
    return [fingerprint([f"{root}/{path}" for path in row]) for row in rows]


def fingerprint(paths: Sequence[str]) -> int:
    """Return a 64-bit number for some files, from the length and both ends of each.

    Bytes in the middle of a file longer than 8 KiB that change alone are not noticed; an image
    encoded anew changes in length or at its end. Raises InputError for a file that cannot be read.
    """
    total = hashlib.blake2b(digest_size=8)
    for path in paths:
        try:
            file = os.open(path, os.O_RDONLY)
            try:
                size = os.fstat(file).st_size
                total.update(size.to_bytes(8, "little"))
                total.update(os.pread(file, END, 0))
                if size > END:
                    total.update(os.pread(file, END, max(END, size - END)))
            finally:
                os.close(file)
        except OSError as error:
            raise InputError(f"{path}: not readable ({error.strerror})") from error
    return int.from_bytes(total.digest(), "little", signed=True)
