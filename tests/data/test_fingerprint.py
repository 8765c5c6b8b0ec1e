"""Fingerprints: other bytes, another number; and another number, another digest of the index."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detransfer.console import InputError
from detransfer.data.fingerprint import BATCH, END, fingerprint, with_fingerprints
from detransfer.data.index import Index, empty_objects, read_index, write_index
from detransfer.data.miniature.world import World, WorldRecipe, make_world
from tests.data.miniature_sets import read, render_and_extract


def index_of(root: Path, images: pd.DataFrame) -> Index:
    images = images.assign(image_id=range(len(images)), width=4, height=4, split="train")
    classes = pd.DataFrame({"class_id": [0], "name": "a", "source_id": "", "superclass": ""})
    return Index(images, empty_objects(), classes, root)


def world(contrast: float) -> World:
    recipe = {"contrast": contrast, "caltech": {"classes": 3, "images": 5},
              "voc": {"classes": 3, "trainval2012": 4, "sbd": 4}}  # fmt: skip
    return make_world(WorldRecipe.model_validate(recipe))


@pytest.mark.parametrize(
    ("name", "options"),
    [("caltech256", {"train_per_class": 3}), ("voc_segmentation", {"classes": ("a", "b", "c")})],
)
def test_equal_rows_over_other_pixels_have_another_digest(
    tmp_path: Path, name: str, options: dict[str, object]
) -> None:
    """Two renderings of one world: names, sizes, labels and lengths of the files are equal."""
    found = []
    for place, contrast in (("a", 1.0), ("b", 0.5), ("c", 1.0)):
        render_and_extract(world(contrast), name, tmp_path / place)
        found.append(read(tmp_path / place, name, **options))
    assert found[0].digest() == found[1].digest(), "rows alone do not tell them apart"
    full, pale, again = (with_fingerprints(index) for index in found)
    assert full.digest() == again.digest() != pale.digest()
    for split in full.images["split"].unique():
        assert full.split(split).digest() == again.split(split).digest()
        assert full.split(split).digest() != pale.split(split).digest()
    different = full.images["fingerprint"] != pale.images["fingerprint"]
    assert different.mean() >= 0.75  # the clutter of caltech256 has no object to fade
    write_index(tmp_path / "index", full)
    assert read_index(tmp_path / "index").digest() == full.digest()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3 * END), st.data())
def test_the_length_and_both_ends_count(length: int, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x")
        content = bytearray(np.random.default_rng(length).bytes(length))
        path.write_bytes(content)
        before = fingerprint([str(path)])
        assert before == fingerprint([str(path)]) and -(2**63) <= before < 2**63
        path.write_bytes(content + b"x")
        assert fingerprint([str(path)]) != before
        ends = st.integers(0, min(END, length) - 1) if length else st.nothing()
        if length:
            place = data.draw(ends)
            place = data.draw(st.sampled_from([place, length - 1 - place]))
            content[place] ^= 1
            path.write_bytes(content)
            assert fingerprint([str(path)]) != before


def test_a_mask_counts_with_its_image(tmp_path: Path) -> None:
    for name, colour in (("a.png", 0), ("b.png", 0), ("m.png", 1), ("n.png", 2)):
        Image.new("L", (4, 4), colour).save(tmp_path / name)
    images = pd.DataFrame({"path": ["a.png", "b.png", "a.png", "a.png"],
                           "mask": ["m.png", "m.png", "n.png", "m.png"]})  # fmt: skip
    numbers = with_fingerprints(index_of(tmp_path, images)).images["fingerprint"].tolist()
    assert numbers[0] == numbers[1] == numbers[3] != numbers[2]
    alone = with_fingerprints(index_of(tmp_path, images[["path"]])).images["fingerprint"]
    assert alone.nunique() == 1 and alone[0] != numbers[0]
    assert fingerprint([str(tmp_path / n) for n in ("m.png", "a.png")]) != numbers[0]


def test_every_image_has_its_own_across_batches(tmp_path: Path) -> None:
    for number in range(7):
        (tmp_path / f"{number}").write_bytes(bytes([number]))
    order = np.random.default_rng(0).integers(0, 7, BATCH + 5)
    index = with_fingerprints(index_of(tmp_path, pd.DataFrame({"path": order.astype(str)})))
    expected = [fingerprint([str(tmp_path / str(number))]) for number in order]
    assert index.images["fingerprint"].tolist() == expected
    assert len(set(expected)) == 7


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    index = index_of(tmp_path, pd.DataFrame({"path": ["gone.jpg"]}))
    with pytest.raises(InputError, match=r"gone\.jpg: not readable \(No such file or directory\)"):
        with_fingerprints(index)
    os.mkdir(tmp_path / "gone.jpg")  # noqa: PTH102
    with pytest.raises(InputError, match=r"gone\.jpg: not readable"):
        with_fingerprints(index)


def test_without_the_column_the_digest_is_that_of_the_rows(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    plain = index_of(tmp_path, pd.DataFrame({"path": ["a"]}))
    marked = with_fingerprints(plain)
    assert plain.digest() != marked.digest()
    assert replace(marked, images=marked.images.drop(columns="fingerprint")).digest() == (
        plain.digest()
    )
