"""Super-classes: planted groups are found, means are numpy's, and faults are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from detransfer.console import InputError
from detransfer.data.superclasses import class_means, cluster

CLASSES, GROUPS, PER_CLASS, WIDTH = 24, 4, 30, 16


def planted(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features and classes of images, and the planted group of each class.

    Images scatter far more than classes within a group, and classes differ in length more than
    groups do, so that neither single images nor means of any length would show the groups.
    """
    rng = np.random.default_rng(seed)
    group = rng.permutation(np.arange(CLASSES) % GROUPS)
    directions = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0][:GROUPS]
    centres = directions[group] + rng.normal(scale=0.05, size=(CLASSES, WIDTH))
    centres *= rng.uniform(1, 20, (CLASSES, 1))
    class_ids = rng.permutation(np.repeat(np.arange(CLASSES), PER_CLASS))
    noise = rng.normal(size=(len(class_ids), WIDTH))
    for number in range(CLASSES):  # noise that leaves the means alone
        noise[class_ids == number] -= noise[class_ids == number].mean(0)
    return (centres[class_ids] + noise).astype(np.float32), class_ids, group


def names(count: int = CLASSES) -> list[str]:
    return [f"class {number}" for number in range(count)]


def test_planted_groups_are_recovered() -> None:
    for seed in range(3):
        features, class_ids, group = planted(seed)
        rows = np.arange(len(features))
        labels, centres = cluster(features, rows, class_ids, names(), GROUPS, seed)
        assert adjusted_rand_score(group, labels) == 1
        assert centres.shape == (GROUPS, WIDTH)
        again, _ = cluster(features, rows, class_ids, names(), GROUPS, seed)
        np.testing.assert_array_equal(labels, again)
        # numbered by first class; the centres are those of the labels
        assert list(dict.fromkeys(labels.tolist())) == list(range(GROUPS))
        means = class_means(features, rows, class_ids, names())
        unit = means / np.linalg.norm(means, axis=1, keepdims=True)
        expected = [unit[labels == number].mean(0) for number in range(GROUPS)]
        np.testing.assert_allclose(centres, expected, atol=1e-6)


def test_one_superclass_is_objectness_and_as_many_as_classes_tell_all_apart() -> None:
    features, class_ids, _ = planted(0)
    rows = np.arange(len(features))
    assert cluster(features, rows, class_ids, names(), 1, 0)[0].tolist() == [0] * CLASSES
    labels, _ = cluster(features, rows, class_ids, names(), CLASSES, 0)
    assert labels.tolist() == list(range(CLASSES))


def test_means_are_those_of_numpy_for_any_block_and_from_a_memory_map(tmp_path: Path) -> None:
    features, class_ids, _ = planted(1)
    expected = np.stack([features[class_ids == n].astype(float).mean(0) for n in range(CLASSES)])
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    for block in (1, 7, len(features) - 1, len(features), 10_000):
        means = class_means(mapped, np.arange(len(features)), class_ids, names(), block)
        np.testing.assert_allclose(means, expected, rtol=1e-12, atol=1e-12)


def test_an_image_may_show_several_classes_or_none() -> None:
    features = np.float32([[1, 0], [0, 2], [5, 5]])
    rows, class_ids = np.array([1, 0, 0]), np.array([0, 0, 1])
    means = class_means(features, rows, class_ids, names(2), 2)
    assert means.tolist() == [[0.5, 1], [1, 0]]


def test_faults_are_named() -> None:
    features = np.float32([[1, 0], [0, 1], [2, 0]])
    rows, class_ids = np.arange(3), np.array([0, 1, 2])

    def fails(message: str, k: int = 1, **changes: object) -> None:
        given = {"features": features, "rows": rows, "class_ids": class_ids, "names": names(3)}
        with pytest.raises(InputError, match=message):
            cluster(**{**given, **changes}, k=k, seed=0)

    fails("4 super-classes of 3 classes: give 1 to 3", 4)
    fails("0 super-classes of 3 classes", 0)
    fails("only 2 different mean features", 3)  # classes 0 and 2 have one direction
    fails("2 classes have no image and so no mean feature: class 3, class 4", names=names(5))
    fails("an image is row 3 of 3 features", rows=np.array([0, 1, 3]))
    fails("an image is of class 2, but there are 2", names=names(2))
    spoilt = features.copy()
    spoilt[1, 1] = np.nan
    fails("the features of row 1 are not finite", features=spoilt)
