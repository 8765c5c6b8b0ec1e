from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from detransfer.visualization.gallery import Row, Scale, choose, credit_of, draw, note_of, shown
from tests.scripts.recordings import array, label, tiles

SCALE = Scale("viridis", 255, "what the colours mean")
SIDE = 20


def planted(number: int) -> Row:
    """A row whose view and two maps have values that no other has."""
    view = np.full((SIDE, SIDE, 3), 10 * number, np.uint8)
    maps = [np.full((4, 4), 100 * column + number, np.float32) for column in (1, 2)]
    return Row(view, "largest gain", number + 0.25, f"credit {number}", maps)


def test_every_value_stands_where_it_was_planted() -> None:
    rows = [planted(number) for number in range(3)]
    rows[1] = replace(rows[1], square=(3, 5, 6, 4), gain=-12.04)
    figure = draw(rows, ["one", "two"], SCALE, "of 7 images")
    panels = tiles(figure)
    assert [panel.get_title() for panel in panels[0]] == ["image", "one", "two"]
    for row, drawn in zip(rows, panels, strict=True):
        for panel, truth in zip(drawn, (row.view, *row.maps), strict=True):
            np.testing.assert_array_equal(array(panel), truth)
            # Maps of any size lie on the whole view.
            assert panel.images[0].get_extent() == [-0.5, SIDE - 0.5, SIDE - 0.5, -0.5]
        assert all(panel.images[0].get_clim() == (0, 255) for panel in drawn[1:])
        assert drawn[0].get_xlabel() == row.credit
    assert [drawn[0].get_ylabel().split("\n")[-1] for drawn in panels] == ["+0.2", "-12.0", "+2.2"]
    assert [len(panel.patches) for panel in panels.ravel()] == [0, 0, 0, 2, 0, 0, 0, 0, 0]
    square = panels[1, 0].patches[0]
    assert (*square.get_xy(), square.get_width(), square.get_height()) == (2.5, 4.5, 6, 4)
    assert figure.axes[-1].get_xlabel() == "what the colours mean\nof 7 images"


def test_notes_of_many_images_are_not_cut_off() -> None:
    scale = replace(SCALE, label="probability of the true class, by the place of the square")
    figure = draw([planted(1)], ["imagenet_cls", "coco"], scale, note_of(123_456))
    assert label(figure).endswith("mean of 123,456 images\nbeside an image: its gain, points")


def test_objects_are_outlined_and_no_object_is_not() -> None:
    inside = np.zeros((SIDE, SIDE), np.uint8)
    inside[4:9, 6:15] = 3
    inside[9] = 255  # void
    everywhere, nowhere = np.ones_like(inside), np.zeros_like(inside)
    rows = [replace(planted(1), objects=each) for each in (inside, everywhere, nowhere)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        panels = tiles(draw(rows, ["one", "two"], SCALE, ""))
    for panel in panels[0]:
        for line in panel.collections:
            points = np.concatenate([path.vertices for path in line.get_paths()])
            assert (*points.min(0), *points.max(0)) == pytest.approx((5.5, 3.5, 14.5, 8.5))
        assert len(panel.collections) == 2
    assert not any(panel.collections for panel in panels[1:].ravel())


def test_images_of_one_name_in_two_folders_have_credits_of_their_own() -> None:
    credits = [credit_of(number, f"{number}/{'long' * 9}.jpg") for number in (7, 8)]
    assert credits == [f"7: {'long' * 9}", f"8: {'long' * 9}"]


def test_the_rule_of_choice() -> None:
    gain = [3.0, np.nan, -5.0, 3.0, 0.0, 1.0, 2.0]
    table = pd.DataFrame({"image_id": range(10, 17), "gain": gain})
    chosen = choose(table)
    assert chosen["image_id"].tolist()[:3] == [10, 13, 12]  # of equal gains the first ids
    kinds = ["largest gain"] * 2 + ["largest loss"] + ["random"] * 2
    assert chosen["chosen_as"].tolist() == kinds and (chosen["candidates"] == 6).all()
    assert chosen["image_id"].is_unique and 11 not in chosen["image_id"].tolist()
    assert choose(table).equals(chosen)
    assert len(choose(table.head(3))) == 2  # there are no more


def test_runs_of_the_contrasts_have_a_column_in_the_order_of_the_study() -> None:
    assert shown(["a", "b", "c", "d"], [("d", "a"), ("b", "a")]) == ["a", "b", "d"]
