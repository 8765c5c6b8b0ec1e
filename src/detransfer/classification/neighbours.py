"""Nearest-neighbour classification of frozen features: no training, no choice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

BLOCK = 1024  # queries at once


def neighbour_votes(
    known: np.ndarray,
    class_ids: np.ndarray,
    queries: Iterable[np.ndarray],
    counts: Sequence[int],
    classes: int,
) -> dict[int, np.ndarray]:
    """Return, for each count k, the class that most of the k nearest ``known`` (n, d) vote for.

    ``queries`` yields blocks (m, d). Nearest by cosine; of classes with as many votes the one whose
    neighbours are nearer in sum wins. A k above n is left out.
    """
    usable = [count for count in counts if count <= len(known)]
    unit = _unit(known)
    answers: dict[int, list[np.ndarray]] = {count: [] for count in usable}
    for block in (part for query in queries for part in _parts(query)):
        similarity = _unit(block) @ unit.T
        nearest = _nearest(similarity, max(usable, default=0))
        near = np.take_along_axis(similarity, nearest, 1)
        for count in usable:
            votes = np.zeros((len(block), classes))
            rows = np.repeat(np.arange(len(block)), count)
            # Similarities decide between equal votes and cannot outweigh one.
            weight = 1 + near[:, :count] / (4 * count)
            np.add.at(votes, (rows, class_ids[nearest[:, :count]].ravel()), weight.ravel())
            answers[count].append(votes.argmax(1))
    return {count: np.concatenate(found) for count, found in answers.items()}


def _parts(query: np.ndarray) -> Iterable[np.ndarray]:
    return (query[start : start + BLOCK] for start in range(0, len(query), BLOCK))


def _nearest(similarity: np.ndarray, count: int) -> np.ndarray:
    """Return the columns of the ``count`` largest values of each row, the largest first."""
    columns = np.argpartition(-similarity, count - 1, 1)[:, :count]
    order = np.argsort(-np.take_along_axis(similarity, columns, 1), 1, kind="stable")
    return np.take_along_axis(columns, order, 1)


def _unit(values: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(length > 0, length, 1)
