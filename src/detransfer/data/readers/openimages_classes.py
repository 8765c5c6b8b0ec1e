"""The classes of Open Images: their vocabulary and the hierarchy above them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from detransfer.console import InputError
from detransfer.data.readers.tables import text_lines

BOXABLE = "class-descriptions-boxable.csv"
CHALLENGE = "challenge-2018-class-descriptions-500.csv"
HIERARCHY = "bbox_labels_600_hierarchy.json"


class Vocabulary:
    """The classes of the index, and which of them a label of the annotations stands for.

    Labels are numbered in the order of ``class-descriptions-boxable.csv``.
    """

    def __init__(
        self,
        names: dict[str, str],
        kept: list[str],
        tops: dict[str, str],
        above: dict[str, list[str]],
    ) -> None:
        self._label = {mid: number for number, mid in enumerate(names)}
        number = {mid: class_id for class_id, mid in enumerate(kept)}
        reach = {mid: list(dict.fromkeys([mid, *above.get(mid, [])])) for mid in names}
        self.counts, self._first, self._classes = _flat(
            [[number[m] for m in reach[mid] if m in number] for mid in names]
        )
        below: dict[str, list[str]] = {mid: [] for mid in names}
        for mid, reached in reach.items():
            for ancestor in reached:
                if ancestor in below:
                    below[ancestor].append(mid)
        self._absent = _flat([[number[m] for m in below[mid] if m in number] for mid in names])
        self.classes = pd.DataFrame(
            {
                "class_id": range(len(kept)),
                "name": [names[mid] for mid in kept],
                "source_id": kept,
                "superclass": [names.get(tops.get(mid, ""), "") for mid in kept],
            }
        )

    def labels(self, mids: list[str]) -> np.ndarray:
        """Return the number of each label, -1 where it is unknown."""
        return np.array([self._label.get(mid, -1) for mid in mids], np.int64)

    def expand(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the classes that boxes of these labels count for.

        Two arrays of equal length: places in ``labels``, ascending, and class ids int32.
        """
        return _expand(labels, self.counts, self._first, self._classes)

    def expand_absent(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return, as :meth:`expand`, the classes that are absent where these labels are absent.

        Where the hierarchy counts, an image without vehicles has no cars either.
        """
        return _expand(labels, *self._absent)


def read_vocabulary(folder: Path, size: int, expand: bool) -> Vocabulary:
    """Read the boxable classes, those of the challenge for a size of 500, and the hierarchy.

    With ``expand``, a label stands for the ancestors of its class too. Raises InputError, naming
    the line, for files that are missing or malformed.
    """
    names = _descriptions(folder / BOXABLE)
    kept = list(names)
    if size == 500:
        path = folder / CHALLENGE
        kept = list(_descriptions(path))
        for mid in kept:
            if mid not in names:
                raise InputError(f"{path}: class {mid} is not in {BOXABLE}")
    above, tops = _ancestors(folder / HIERARCHY)
    return Vocabulary(names, kept, tops, above if expand else {})


def _descriptions(path: Path) -> dict[str, str]:
    names: dict[str, str] = {}
    for number, fields in text_lines(path):
        where = f"{path}: line {number}:"
        if len(fields) != 2 or not all(fields):
            raise InputError(f"{where} expected '/m/...,name', got {','.join(fields)!r}")
        if fields[0] in names:
            raise InputError(f"{where} class {fields[0]} stands there twice")
        names[fields[0]] = fields[1]
    if not names:
        raise InputError(f"{path}: the file is empty")
    return names


def _ancestors(path: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return the ancestors of each label, nearest first, without the root, and the topmost one.

    A label may stand at several places of the tree, of which the first decides the topmost. What
    is a ``Part`` of something is no kind of it and inherits nothing.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8-sig"))
        above: dict[str, list[str]] = {}
        tops: dict[str, str] = {}
        for mid, chain in _walk(tree, []):
            known = above.setdefault(mid, [])
            known += [upper for upper in chain if upper not in known]
            tops.setdefault(mid, chain[-1] if chain else "")
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file; extract it first") from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: line {error.lineno}, column {error.colno}: malformed JSON ({error.msg})"
        ) from None
    except (UnicodeDecodeError, AttributeError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{path}: not a hierarchy of Open Images ({error!r})") from None
    return above, tops


def _walk(node: dict[str, Any], chain: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each label below a node with its ancestors, nearest first."""
    for child in node.get("Subcategory", []):
        mid = child["LabelName"]
        yield mid, chain
        yield from _walk(child, [mid, *chain])


def _flat(lists: list[list[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return lists as their lengths, where each begins, and their content end to end."""
    counts = np.array([len(entry) for entry in lists], np.int64)
    content = np.array([value for entry in lists for value in entry], np.int32)
    return counts, np.cumsum(counts) - counts, content


def _expand(
    labels: np.ndarray, counts: np.ndarray, first: np.ndarray, content: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    times = counts[labels]
    places = np.repeat(np.arange(len(labels)), times)
    within = np.arange(len(places)) - np.repeat(np.cumsum(times) - times, times)
    return places, content[first[labels][places] + within]
