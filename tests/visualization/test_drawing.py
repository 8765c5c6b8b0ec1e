from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageColor

from detransfer.visualization.drawing import COLOURS, DrawnBox, _readable, class_colour, draw_boxes


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).astype(int)


def test_a_box_is_drawn_where_it_is() -> None:
    drawn = pixels(
        draw_boxes(Image.new("L", (60, 40), 128), [DrawnBox([10, 5, 50, 30], "#D55E00")])
    )
    colour = ImageColor.getrgb("#D55E00")
    touched = (drawn == colour).all(2)
    rows, columns = np.nonzero(touched)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 29, 10, 49)
    assert not touched[10:25, 15:45].any()
    untouched = drawn[~touched]
    assert (untouched == 128).all()


def test_an_enlarged_image_has_its_boxes_enlarged_too() -> None:
    drawn = pixels(
        draw_boxes(Image.new("RGB", (60, 40)), [DrawnBox([10, 5, 50, 30], "#D55E00")], 3)
    )
    rows, columns = np.nonzero(drawn.any(2))
    assert drawn.shape == (120, 180, 3)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (15, 89, 30, 149)


def test_the_first_box_lies_on_top() -> None:
    box = [10.0, 10.0, 30.0, 30.0]
    drawn = draw_boxes(
        Image.new("RGB", (40, 40)), [DrawnBox(box, COLOURS[0]), DrawnBox(box, COLOURS[1])]
    )
    assert drawn.getpixel((10, 10)) == ImageColor.getrgb(COLOURS[0])


@pytest.mark.parametrize("box", [[0, 0, 20, 20], [50, 0, 60, 20], [-5, 30, 4, 40], [0, 0, 1, 1]])
def test_labels_stay_inside_the_image(box: list[float]) -> None:
    image = Image.new("RGB", (60, 40), "grey")
    bare = pixels(draw_boxes(image, [DrawnBox(box, "#009E73")]))
    labelled = pixels(draw_boxes(image, [DrawnBox(box, "#009E73", "ox 1")]))
    written = (labelled != bare).any(2)
    assert written.sum() > 100
    assert labelled[written].max(1).min() < 60  # black letters


def test_letters_are_readable_on_every_colour() -> None:
    """The contrast is at least 4.5 (WCAG 2, level AA)."""

    def luminance(colour: str) -> float:
        shares = [c / 255 for c in ImageColor.getrgb(colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for colour in COLOURS:
        pair = sorted((luminance(colour), luminance(_readable(colour))))
        assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5
    assert class_colour(7) == COLOURS[1]
