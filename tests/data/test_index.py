"""The index: what is written is what is read, and broken tables do not get in."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detransfer.console import InputError
from detransfer.data.index import (
    BOX,
    FLAGS,
    IMAGE_TYPES,
    OBJECT_TYPES,
    Index,
    check_tables,
    empty_objects,
    read_index,
    write_index,
)


def example(root: Path) -> Index:
    images = pd.DataFrame(
        {
            "image_id": [5, 3],
            "path": ["b.jpg", "a.jpg"],
            "width": [10, 20],
            "height": [8, 9],
            "split": ["train", "test"],
        }
    )
    objects = pd.DataFrame([[0, 0, 10, 8], [1.5, 2, 3, 4], [0, 0, 20, 9]], columns=BOX)
    objects = objects.assign(image_id=[5, 3, 3], class_id=[1, 0, 1], **dict.fromkeys(FLAGS, False))
    objects["difficult"] = [True, False, False]
    classes = pd.DataFrame(
        {
            "class_id": [0, 1],
            "name": ["007", "12"],
            "source_id": ["01", "02"],
            "superclass": ["", "x"],
        }
    )
    return Index(images, objects, classes, root)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    index = example(tmp_path / "data")
    write_index(tmp_path / "index/x", index)
    found = read_index(tmp_path / "index/x")
    pd.testing.assert_frame_equal(found.images, index.images, check_dtype=False)
    pd.testing.assert_frame_equal(
        found.objects, index.objects[list(OBJECT_TYPES)], check_dtype=False
    )
    pd.testing.assert_frame_equal(found.classes, index.classes, check_dtype=False)
    assert found.root == tmp_path / "data"
    types = {name: str(kind) for name, kind in found.objects.dtypes.items()}
    assert types == OBJECT_TYPES
    assert {name: str(kind) for name, kind in found.images.dtypes.items()} == IMAGE_TYPES
    assert {path.name for path in (tmp_path / "index/x").iterdir()} == {
        "images.parquet",
        "images.arrow",
        "objects.parquet",
        "objects.arrow",
        "classes.csv",
    }


def test_the_folder_can_move_together_with_its_data(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    write_index(tmp_path / "study/index/x", example(tmp_path / "study/data"))
    (tmp_path / "study").rename(tmp_path / "moved")
    assert read_index(tmp_path / "moved/index/x").root == tmp_path / "moved/data"


def test_what_was_left_out_is_remembered(tmp_path: Path) -> None:
    index = replace(example(tmp_path), dropped={"inverted": 3, "outside the image": 1})
    write_index(tmp_path / "index", index)
    found = read_index(tmp_path / "index")
    assert found.dropped == found.split("test").dropped == index.dropped


def test_verified_negatives_go_with_their_images(tmp_path: Path) -> None:
    absent = pd.DataFrame({"image_id": [5, 3, 5], "class_id": [0, 1, 1]}, dtype="int32")
    index = replace(example(tmp_path), negatives=absent)
    write_index(tmp_path / "index", index)
    found = read_index(tmp_path / "index")
    pd.testing.assert_frame_equal(found.negatives, absent)
    part = found.split("train").negatives
    assert part is not None and part.to_numpy().tolist() == [[5, 0], [5, 1]]
    assert found.digest() != replace(index, negatives=None).digest()
    for column, value in (("image_id", 4), ("class_id", 2)):
        wrong = replace(index, negatives=absent.assign(**{column: value}))
        with pytest.raises(InputError, match=r"a verified negative (belongs to an image|has a cl)"):
            write_index(tmp_path / "index", wrong)
    write_index(tmp_path / "index", replace(index, negatives=None))
    assert read_index(tmp_path / "index").negatives is None
    assert not list((tmp_path / "index").glob("negatives*"))


@st.composite
def tables(draw: st.DrawFn) -> Index:
    """An index of a few images whose ids and objects stand in any order."""
    dense = st.integers(0, 50).flatmap(lambda low: st.permutations(range(low, low + 4)))
    ids = draw(st.one_of(dense, st.lists(st.integers(0, 99), min_size=1, unique=True)))
    owners = draw(st.lists(st.sampled_from(ids), max_size=12))
    if draw(st.booleans()):
        owners.sort(key=ids.index)
    images = pd.DataFrame({"image_id": ids, "width": 99, "height": 9})
    images["path"] = [f"{number}é.jpg" for number in ids]
    images["split"] = [draw(st.sampled_from(["a", "b"])) for _ in ids]
    objects = pd.DataFrame({"image_id": owners}, dtype="int32").assign(
        class_id=0, x1=np.arange(len(owners)), y1=0, x2=99, y2=9, **dict.fromkeys(FLAGS, False)
    )
    classes = pd.DataFrame({"class_id": [0], "name": "x", "source_id": "", "superclass": ""})
    return Index(images, objects, classes, Path("x"))


@settings(max_examples=100, deadline=None)
@given(tables())
def test_the_objects_of_an_image_are_one_slice(index: Index) -> None:
    """Slow version: look for the objects of each image; ``x1`` is the place before sorting."""
    ordered = index.in_order()
    bounds = zip(ordered.offsets[:-1], ordered.offsets[1:], strict=True)
    for image_id, (start, end) in zip(index.images["image_id"], bounds, strict=True):
        own = index.objects.loc[index.objects["image_id"] == image_id, "x1"]
        assert ordered.objects["x1"][start:end].tolist() == own.tolist()
    assert ordered.offsets[-1] == len(index.objects)
    if ordered is not index:
        with pytest.raises(ValueError, match="not in the order of their images"):
            _ = index.offsets


@settings(max_examples=100, deadline=None)
@given(tables(), st.lists(st.sampled_from(["a", "b"]), min_size=1))
def test_a_part_holds_exactly_its_images_and_objects(index: Index, names: list[str]) -> None:
    images = index.images[index.images["split"].isin(names)]
    if any(not (index.images["split"] == name).any() for name in names):
        return
    part = index.split(*names)
    assert part.images["path"].tolist() == images["path"].tolist()
    own = index.objects[index.objects["image_id"].isin(images["image_id"])]
    assert sorted(part.objects["x1"]) == own["x1"].tolist()
    assert len(part.offsets) == len(images) + 1


@settings(max_examples=40, deadline=None)
@given(tables())
def test_writing_does_not_change_the_digest(
    tmp_path_factory: pytest.TempPathFactory, index: Index
) -> None:
    folder = tmp_path_factory.mktemp("index")
    write_index(folder, index)
    found = read_index(folder)
    assert found.digest() == index.digest()
    assert len(found.offsets) == len(index.images) + 1
    texts = index.images["path"].str.replace(".jpg", ".png")  # of the same length
    assert replace(index, images=index.images.assign(path=texts)).digest() != index.digest()


def test_splits_take_their_objects_along(tmp_path: Path) -> None:
    index = example(tmp_path)
    part = index.split("test")
    assert part.images["image_id"].tolist() == [3]
    assert part.objects["image_id"].tolist() == [3, 3]
    assert len(index.split("train", "test").objects) == 3
    with pytest.raises(InputError, match="split 'val' is empty; the index has: test, train"):
        index.split("val")


def test_the_digest_sees_every_change_and_only_changes(tmp_path: Path) -> None:
    write_index(tmp_path / "a", example(tmp_path))
    write_index(tmp_path / "b", example(tmp_path / "elsewhere"))
    index = read_index(tmp_path / "a")
    assert index.digest() == read_index(tmp_path / "b").digest()
    changes = [
        replace(index, images=index.images.assign(split="train")),
        replace(index, objects=index.objects.assign(x1=np.float32(0))),
        replace(index, objects=index.objects.assign(crowd=True)),
        replace(index, classes=index.classes.assign(name=["007", "b"])),
    ]
    assert len({index.digest(), *(change.digest() for change in changes)}) == 5


@pytest.mark.parametrize(
    ("table", "column", "value", "message"),
    [
        ("images", "image_id", 3, "two images share one image_id"),
        ("objects", "image_id", 4, "an image that the index does not have"),
        ("objects", "class_id", 2, "a class that classes.csv does not list"),
        ("objects", "class_id", -1, "a class that classes.csv does not list"),
        ("images", "class_id", 2, r"an image has a class .* not list \(row 0 of its table\)"),
        ("objects", "x2", 10.5, r"b\.jpg: box .* leaves the image \(10 x 8\)"),
        ("objects", "x1", -0.5, "leaves the image"),
        ("objects", "y2", 0, "empty"),
        ("objects", "y1", float("nan"), "empty, inverted or leaves"),
        ("classes", "class_id", 1, "class ids are not 0, 1, 2"),
    ],
)
def test_broken_tables_are_refused(
    tmp_path: Path, table: str, column: str, value: float, message: str
) -> None:
    index = example(tmp_path)
    index = replace(index, images=index.images.assign(class_id=1))
    changed = getattr(index, table).copy()
    changed[column] = [value, *changed[column][1:]]
    with pytest.raises(InputError, match=message):
        write_index(tmp_path / "index", replace(index, **{table: changed}))
    assert not (tmp_path / "index").exists()


@settings(max_examples=100, deadline=None)
@given(
    st.tuples(*[st.integers(-3, 12)] * 4),
    st.integers(1, 9),
    st.integers(1, 9),
)
def test_a_box_is_accepted_exactly_when_it_holds_pixels_of_the_image(
    box: tuple[int, ...], width: int, height: int
) -> None:
    """Slow version: the box is fine when all its pixels, at least one, are pixels of the image."""
    x1, y1, x2, y2 = box
    pixels = {(x, y) for x in range(x1, x2) for y in range(y1, y2)}
    fine = bool(pixels) and pixels <= {(x, y) for x in range(width) for y in range(height)}
    index = example(Path("x"))
    images = index.images.assign(width=[width, 20], height=[height, 9])
    objects = index.objects.iloc[:1].assign(**dict(zip(BOX, box, strict=True)))
    try:
        check_tables(images, objects, index.classes)
        accepted = True
    except InputError:
        accepted = False
    assert accepted == fine


def test_an_empty_or_broken_index_is_refused(tmp_path: Path) -> None:
    index = example(tmp_path)
    with pytest.raises(InputError, match="the index has no image"):
        write_index(tmp_path / "x", replace(index, images=index.images[:0]))
    write_index(tmp_path / "ok", replace(index, objects=empty_objects()))
    assert read_index(tmp_path / "ok").objects.dtypes.astype(str).to_dict() == OBJECT_TYPES
    with pytest.raises(InputError, match="nowhere: not a readable index"):
        read_index(tmp_path / "nowhere")
    (tmp_path / "ok/classes.csv").write_text("")
    with pytest.raises(InputError, match="ok: not a readable index"):
        read_index(tmp_path / "ok")
    write_index(tmp_path / "ok", index)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "ok/images.parquet")
    with pytest.raises(InputError, match="ok: not a readable index"):
        read_index(tmp_path / "ok")


@pytest.fixture
def program(
    repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., None]:
    """scripts/index.py on a tiny Caltech-256, called with more arguments."""
    folder = tmp_path / "data/256_ObjectCategories/001.owl"
    folder.mkdir(parents=True)
    for number in range(5):
        Image.new("RGB", (9, 9)).save(folder / f"{number}.jpg")
    main = runpy.run_path(str(repository / "scripts/index.py"))["main"]

    def call(*arguments: str) -> None:
        places = ["--root", str(tmp_path / "data"), "--output", str(tmp_path / "index")]
        monkeypatch.setattr(sys, "argv", ["index.py", *places, *arguments])
        main()

    return call


def test_the_program_reads_a_data_set_by_its_reader(
    program: Callable[..., None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    program("--reader", "caltech256", "--options", '{"train_per_class": 3}')
    assert "train: 3 images, 0 objects" in caplog.text
    assert "test: by class: owl 2" in caplog.text
    images = read_index(tmp_path / "index").images
    assert len(images) == 5
    # The five files hold the same black pixels.
    assert images["fingerprint"].nunique() == 1 and str(images["fingerprint"].dtype) == "int64"


@pytest.mark.parametrize(
    ("reader", "options", "message"),
    [
        ("caltech", "{}", "unknown reader 'caltech'; did you mean 'caltech256'?"),
        ("caltech256", "{}", "lower the option 'train_per_class'"),
        ("caltech256", "{", "--options: not JSON"),
        ("caltech256", "[]", "--options: expected an object"),
        ("caltech256", '{"sed": 1}', "did you mean 'seed'?"),
    ],
)
def test_the_program_explains_wrong_arguments(
    program: Callable[..., None], reader: str, options: str, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        program("--reader", reader, "--options", options)
    assert message in str(caught.value)
