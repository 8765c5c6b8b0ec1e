from __future__ import annotations

import argparse
import logging
import re
import runpy
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image

from detransfer.console import InputError
from detransfer.data.index import Index, read_index
from detransfer.detection.proposals import write_proposals
from detransfer.detection.rpn import ScaleAwareRpn
from tests.detection.rectangles import call, detection_recipe, write_recipe, write_rectangles

PROGRAM = "scripts/inspect_chips.py"
RECIPE = detection_recipe(chips={"negatives": {"minimum_proposals": [3, 3]}})


@pytest.fixture(scope="module")
def program(repository: Path) -> dict[str, Any]:
    return runpy.run_path(str(repository / PROGRAM))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rectangles") / "world"
    index = write_rectangles(folder).split("train")
    write_recipe(folder / "recipe.yaml", RECIPE)
    rng = np.random.default_rng(0)
    rows = index.images.loc[np.repeat(np.arange(len(index.images)), 80)].reset_index(drop=True)
    for low, high, extent in (("x1", "x2", "width"), ("y1", "y2", "height")):
        rows[low] = rng.random(len(rows)) * (rows[extent] - 10)
        rows[high] = rows[low] + 10
    write_proposals(folder / "proposals.parquet", rows.assign(score=1.0), index.digest())
    return folder


def words(world: Path, image: str, **more: str) -> list[str]:
    options = {"index": world / "index", "image": image, "recipe": world / "recipe.yaml"}
    options |= {"output": world / f"{image}.png", **more}
    return [f"--{name}={value}" for name, value in options.items()]


def test_one_command_draws_a_picture(repository: Path, world: Path) -> None:
    more = ["--splits", "train", f"--proposals={world / 'proposals.parquet'}", "--mirrored"]
    call(repository / PROGRAM, [*words(world, "0"), *more])
    with Image.open(world / "0.png") as picture:
        assert min(picture.size) > 800 and len(picture.convert("RGB").getcolors(10**7) or []) > 999


def opened(program: dict[str, Any], world: Path, image: str) -> tuple[Any, argparse.Namespace]:
    arguments = argparse.Namespace(
        index=world / "index",
        splits=["train"],
        image=image,
        proposals=world / "proposals.parquet",
        seed=0,
        epoch=0,
        mirrored=False,
        chips=50,
    )
    return program["open_chips"](arguments, RECIPE), arguments


def test_titles_and_boxes_say_what_the_chips_hold(program: dict[str, Any], world: Path) -> None:
    """Image 0 has a difficult rectangle: one that is always ignored."""
    chips, arguments = opened(program, world, "0")
    figure = program["draw"](chips, RECIPE, arguments)
    targets = [chips[n].target for n in range(len(chips)) if not chips.table.mirrored[n]]
    titles = [axis.get_title() for axis in figure.axes if axis.get_title().startswith("chip ")]
    assert len(titles) == len(targets)
    assert sum("negative: 0 of" in title for title in titles) == 2
    said = [re.findall(r"\d+", title.split(":", 1)[1]) for title in titles]
    assert sorted((int(learned), int(of)) for learned, of, *_ in said) == sorted(
        (int(target["valid"].sum()), len(target["valid"])) for target in targets
    )
    for *_, objects, background, left_out in said:
        assert int(objects) + int(background) + int(left_out) == 4 * 4 * 9
    drawn: dict[str, int] = {}
    for axis in figure.axes:
        if axis.get_title().startswith("chip "):
            for patch in axis.patches:
                colour = to_hex(patch.get_edgecolor())
                drawn[colour] = drawn.get(colour, 0) + 1
    ignored = sum(int((target["labels"] == -1).sum()) for target in targets)
    valid = sum(int(target["valid"].sum()) for target in targets)
    every = sum(len(target["valid"]) for target in targets)
    styles = program["STYLES"]
    colours = {kind: to_hex(style["edgecolor"]) for kind, style in styles.items()}
    assert drawn[colours["object always ignored"]] == ignored > 0
    assert drawn[colours["object learned at this scale"]] == valid
    assert drawn.get(colours["object not valid here"], 0) == every - ignored - valid
    assert drawn["#000000"] == every, "each object has its dark edge"
    plt.close(figure)


def test_anchors_are_labelled_as_in_training(program: dict[str, Any], world: Path) -> None:
    chips, _ = opened(program, world, "1")
    target = chips[0].target
    rpn = ScaleAwareRpn(RECIPE.rpn.channels, RECIPE.rpn)
    anchors, labels = program["anchor_labels"](rpn, 16, target, 64)
    seen: list[np.ndarray] = []

    def watch(given: list, targets: list) -> Any:
        found = ScaleAwareRpn.assign_targets_to_anchors(rpn, given, targets)
        seen.extend([given[0].numpy(), found[0][0].numpy()])
        return found

    rpn.assign_targets_to_anchors = watch  # type: ignore[method-assign]
    padded = program["ImageList"](torch.zeros(1, 3, 64, 64), [target["size"]])
    rpn.train()(padded, {"conv5": torch.zeros(1, RECIPE.rpn.channels, 4, 4)}, [target])
    assert np.array_equal(seen[0], anchors) and np.array_equal(seen[1], labels)
    assert (labels == 1).any()


def test_an_image_is_found_by_id_or_the_end_of_its_path(
    program: dict[str, Any], world: Path
) -> None:
    index: Index = read_index(world / "index")
    assert program["find_image"](index, "11") == 11
    assert program["find_image"](index, "11.png") == 11
    with pytest.raises(InputError, match=r"--image 1\.pn: 0 images .* in .*images"):
        program["find_image"](index, "1.pn")
    with pytest.raises(InputError, match=r"--image \.png: 13 images .*\(0\.png, 1\.png, 2\.png"):
        program["find_image"](index, ".png")


def test_proposals_of_other_splits_are_refused(repository: Path, world: Path) -> None:
    proposals = f"--proposals={world / 'proposals.parquet'}"
    with pytest.raises(InputError, match="proposals of other images"):
        call(repository / PROGRAM, [*words(world, "0"), proposals])


def test_other_anchors_are_marked_where_they_are(program: dict[str, Any], world: Path) -> None:
    chips, arguments = opened(program, world, "0")
    figure = program["draw"](chips, RECIPE, arguments)
    number = next(n for n in range(len(chips)) if not chips.table.mirrored[n])
    rpn = ScaleAwareRpn(RECIPE.rpn.channels, RECIPE.rpn)
    anchors, labels = program["anchor_labels"](rpn, 16, chips[number].target, 64)
    centres, most = (anchors[:, :2] + anchors[:, 2:]) / 2, program["MARKED"]
    axis = next(axis for axis in figure.axes if axis.get_title().startswith("chip 1, positive"))
    background, left_out = axis.collections
    for marks, label in ((background, 0), (left_out, -1)):
        own = {tuple(centre) for centre in centres[labels == label]}
        assert {tuple(at) for at in marks.get_offsets().astype(np.float32)} <= own
        assert len(marks.get_offsets()) == min((labels == label).sum(), most) > 9
        sizes = marks.get_sizes()
        assert max(sizes) > 1.3 * min(sizes), "marks grow with the anchors"
    (legend,) = figure.legends
    said = [text.get_text() for text in legend.get_texts()]
    assert said[-2:] == ["centre of a background anchor", "centre of a left-out anchor"]
    plt.close(figure)


def test_an_image_without_a_chip_is_drawn_with_its_objects(
    repository: Path, world: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Enlarged sixfold, no object of image 0 fits into a chip, and one is always ignored."""
    caplog.set_level(logging.INFO)
    recipe = write_recipe(world / "none.yaml", detection_recipe(chips={"scales": [{"factor": 6}]}))
    call(repository / PROGRAM, words(world, "0", recipe=str(recipe)))
    assert caplog.messages[-1].startswith("0: objects learned: 0 of 1; the others are in no")
    with Image.open(world / "0.png") as picture:
        assert min(picture.size) > 600
    call(repository / PROGRAM, words(world, "12"))
    assert caplog.messages[-1] == "12: no object to learn"


SOME = [{"factor": 1.9}, {"long": 64, "valid_range": [100, None]}]


def test_objects_that_are_learned_in_no_chip_are_marked(
    program: dict[str, Any], world: Path
) -> None:
    """Enlarged 1.9 times, objects of up to 26 pixels are in a chip, and none of over 29."""
    objects = read_index(world / "index").objects
    longest = (objects["x2"] - objects["x1"]).combine(objects["y2"] - objects["y1"], max)
    by_image = longest[~objects["difficult"]].groupby(objects["image_id"])
    image, sides = next(
        (image, sides)
        for image, sides in by_image
        if (sides < 26).any() and (sides > 29).any() and not sides.between(26, 29).any()
    )
    _, arguments = opened(program, world, str(image))
    recipe, arguments.proposals = detection_recipe(chips={"scales": SOME}), None
    chips = program["open_chips"](arguments, recipe)
    figure = program["draw"](chips, recipe, arguments)
    learned, missed = (sides < 26).sum(), (sides > 29).sum()
    assert f"objects learned: {learned} of {len(sides)}; " in figure.get_suptitle()
    colour = to_hex(program["STYLES"]["object learned in no chip"]["edgecolor"])
    for axis in (axis for axis in figure.axes if axis.get_title().startswith("scale")):
        drawn = [to_hex(patch.get_edgecolor()) for patch in axis.patches]
        assert drawn.count(colour) == missed
    plt.close(figure)
