from __future__ import annotations

from pathlib import Path

import pandas as pd

from detransfer.data.image_classes import image_classes
from detransfer.data.index import BOX, FLAGS, Index, empty_objects

CLASSES = pd.DataFrame({"class_id": [0, 1], "name": ["a", "b"], "source_id": "", "superclass": ""})


def images(count: int) -> pd.DataFrame:
    return pd.DataFrame(
        {"image_id": range(10, 10 + count), "path": "x", "width": 9, "height": 9, "split": "train"}
    )


def test_a_class_of_the_image_is_taken_as_it_is() -> None:
    index = Index(images(3).assign(class_id=[1, 0, 1]), empty_objects(), CLASSES, Path())
    assert image_classes(index).tolist() == [1, 0, 1]


def test_objects_give_a_class_where_all_that_count_agree() -> None:
    flags = dict.fromkeys(FLAGS, False)
    objects = pd.DataFrame(
        [
            {"image_id": 13, "class_id": 1},  # not in the order of the images
            {"image_id": 10, "class_id": 1},
            {"image_id": 10, "class_id": 1},
            {"image_id": 11, "class_id": 0},
            {"image_id": 11, "class_id": 1},
            {"image_id": 13, "class_id": 0, "difficult": True},
            {"image_id": 14, "class_id": 0, "crowd": True},
            {"image_id": 15, "class_id": 0, "group_of": True},
            {"image_id": 16, "class_id": 0, "truncated": True},
        ]
    )
    objects = objects.assign(**{k: objects.get(k, False) for k in flags})
    objects[FLAGS] = objects[FLAGS].fillna(False).astype(bool)
    objects = objects.assign(**dict(zip(BOX, (0, 0, 5, 5), strict=True)))
    found = image_classes(Index(images(7), objects, CLASSES, Path()))
    assert found.tolist() == [1, -1, -1, 1, -1, -1, 0]
