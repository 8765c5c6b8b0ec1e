from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from detransfer.classification import neighbours
from detransfer.classification.neighbours import neighbour_votes


@pytest.mark.parametrize("block", [7, 1024])
def test_votes_are_scikit_learns_where_no_tie_can_be(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(neighbours, "BLOCK", block)
    rng = np.random.default_rng(0)
    class_ids = rng.integers(0, 2, 90)
    known = np.float32(rng.normal(size=(90, 6)) + class_ids[:, None])
    queries = np.float32(rng.normal(size=(50, 6)) + 0.5)
    found = neighbour_votes(known, class_ids, [queries[:20], queries[20:]], (1, 5, 9, 91), 2)
    assert list(found) == [1, 5, 9]  # there are no 91 images
    for count, answers in found.items():
        model = KNeighborsClassifier(count, metric="cosine").fit(known, class_ids)
        assert answers.tolist() == model.predict(queries).tolist()


def test_of_equal_votes_the_nearer_win_but_never_over_more_votes() -> None:
    angles = np.radians([10, -12, 30, 80, 81, 82])
    known = np.float32(np.stack([np.cos(angles), np.sin(angles)], 1))
    class_ids = np.array([2, 1, 1, 0, 0, 0])
    query = [np.float32([[5, 0]])]
    found = neighbour_votes(known, class_ids, query, (1, 2, 3, 6), 3)
    assert {count: int(answer[0]) for count, answer in found.items()} == {1: 2, 2: 2, 3: 1, 6: 0}
