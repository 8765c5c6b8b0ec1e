"""The reader of ILSVRC DET val, and the way from other synsets to its classes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detransfer.console import InputError
from detransfer.data.index import BOX, read_index, write_index
from detransfer.data.readers import read_dataset
from detransfer.data.readers.imagenet_det import (
    Options,
    class_map,
    class_mapping,
    read_hierarchy,
)

DOG, CAR, ANIMAL, POODLE = "n02084071", "n02958343", "n00015388", "n02113335"
SYNSETS = [(1, CAR, "car"), (2, DOG, "dog"), (201, ANIMAL, "animal"), (202, POODLE, "poodle")]
DEVKIT = "ILSVRC2014_devkit/data"
SIZE = (50, 40)


def box_xml(name: str, box: tuple[object, ...]) -> str:
    tags = ("xmin", "xmax", "ymin", "ymax")  # in the order of the official files
    values = (box[0], box[2], box[1], box[3])
    corners = "".join(f"<{t}>{v}</{t}>" for t, v in zip(tags, values, strict=True))
    return f"<object><name>{name}</name><bndbox>{corners}</bndbox></object>"


def add(root: Path, name: str, objects: str, mode: str = "RGB") -> Path:
    """Write an image and its annotation; returns the path of the annotation."""
    image = root / "ILSVRC2013_DET_val" / f"{name}.JPEG"
    path = root / "ILSVRC2013_DET_bbox_val" / f"{name}.xml"
    for file in (image, path):
        file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, SIZE).save(image, "JPEG")
    size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height></size>"
    path.write_text(f"<annotation>{size}{objects}</annotation>")
    return path


def write_meta(root: Path, synsets: list[tuple] = SYNSETS) -> None:
    kinds = [("ILSVRC2013_DET_ID", object), ("WNID", object), ("name", object)]
    path = root / DEVKIT / "meta_det.mat"
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"synsets": np.array(synsets, dtype=kinds).reshape(1, -1)})


def write_text(root: Path, name: str, text: str) -> None:
    path = root / DEVKIT / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


BLACKLIST = "ILSVRC2014_det_validation_blacklist.txt"
VAL = "det_lists/val.txt"
LIST = "ILSVRC2012_val_00000009 1\r\nILSVRC2013_val_00000001 2\r\nILSVRC2013_val_00000002 3\r\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three listed images, one of them without objects, and one image that is not listed."""
    root = tmp_path / "imagenet_det"
    add(root, "ILSVRC2012_val_00000009", box_xml(DOG, (0, 0, 49, 39)) + box_xml(CAR, (5, 6, 5, 9)))
    add(root, "ILSVRC2013_val_00000001", "", "CMYK")
    add(root, "ILSVRC2013_val_00000002", box_xml(DOG, (1, 2, 50, 40)), "L")
    add(root, "ILSVRC2013_val_00000003", box_xml("cat", (1, 2, 50, 40)))
    write_meta(root)
    write_text(root, VAL, LIST)
    write_text(root, BLACKLIST, f"3 {CAR}\n1 {DOG}\n")
    return root


def test_everything_arrives_in_the_index(root: Path, tmp_path: Path) -> None:
    write_index(tmp_path / "index", read_dataset("imagenet_det", root, {}))
    index = read_index(tmp_path / "index")
    assert index.images["image_id"].tolist() == [1, 2, 3]
    assert index.images["path"].tolist() == [
        "ILSVRC2013_DET_val/ILSVRC2012_val_00000009.JPEG",
        "ILSVRC2013_DET_val/ILSVRC2013_val_00000001.JPEG",
        "ILSVRC2013_DET_val/ILSVRC2013_val_00000002.JPEG",
    ]
    assert set(index.images["split"]) == {"val"}
    assert index.classes[["name", "source_id"]].to_numpy().tolist() == [["car", CAR], ["dog", DOG]]
    assert index.objects["image_id"].tolist() == [1, 1, 3]
    assert index.objects["class_id"].tolist() == [1, 0, 1]
    # boxes of one pixel count here; an edge at the width is the border
    expected = [[0, 0, 50, 40], [5, 6, 6, 10], [1, 2, 50, 40]]
    np.testing.assert_array_equal(index.objects[BOX], expected)
    # the pair (image 1, dog) is on the blacklist, the car beside it and the other dog are not
    assert index.objects["difficult"].tolist() == [True, False, False]
    free = read_dataset("imagenet_det", root, {"blacklist": None})
    assert not free.objects["difficult"].any()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (VAL, "a 1\nb\n", "val.txt: line 2: expected '<image> <number>', got 'b'"),
        (VAL, "a 1\nb -2\n", "val.txt: line 2: expected '<image> <number>', got 'b -2'"),
        (VAL, "a 1\na 2\n", "val.txt: line 2: image a is listed twice"),
        (VAL, "a 1\nb 1\n", "val.txt: lists no image, or one number twice"),
        (VAL, "\n", "val.txt: lists no image"),
        (VAL, "a 1\n", "DET_val/a.JPEG: there is no such image"),
        (BLACKLIST, f"1 {DOG}\n1 {ANIMAL}", "blacklist.txt: line 2: expected '<number of an image"),
        (BLACKLIST, f"x {DOG}", "got 'x n02084071'"),
        ("meta_det.mat", "MATLAB 5.0 MAT-file", "meta_det.mat: not a readable MAT-file"),
    ],
)
def test_bad_lists_are_named(root: Path, name: str, text: str, message: str) -> None:
    write_text(root, name, text)
    with pytest.raises(InputError) as caught:
        read_dataset("imagenet_det", root, {})
    assert message in str(caught.value)


def test_bad_class_tables_are_named(root: Path) -> None:
    def fails(message: str, synsets: list[tuple]) -> None:
        write_meta(root, synsets)
        with pytest.raises(InputError, match=message):
            read_dataset("imagenet_det", root, {})

    fails(r"meta_det\.mat: its ids are not 1, 2, 3", SYNSETS[1:])
    fails(r"meta_det\.mat: its ids are not 1, 2, 3", [*SYNSETS, SYNSETS[0]])
    fails(r"meta_det\.mat: its ids are not 1, 2, 3", SYNSETS[2:])
    fails(r"two of its classes have one WNID", [SYNSETS[0], (2, CAR, "dog")])
    for name in (BLACKLIST, VAL, "meta_det.mat"):
        write_meta(root)
        (root / DEVKIT / name).unlink()
        with pytest.raises(InputError, match="there is no such"):
            read_dataset("imagenet_det", root, {})
        write_text(root, VAL, LIST)


@pytest.mark.parametrize(
    ("objects", "message", "kind"),
    [
        (box_xml(DOG, (1, 2, 51, 40)), "leaves the image: [1, 2, 51, 40]", "outside the image"),
        (box_xml(DOG, (4, 2, 3, 40)), "has an empty or inverted box", "degenerate box"),
        (box_xml(POODLE, (1, 2, 3, 4)), f"is of class '{POODLE}', which is", "unknown class"),
        ("</object>", "malformed XML", "damaged annotation"),
        (None, "there is no such annotation", "image without annotation"),
    ],
)
def test_bad_objects_stop_or_are_counted(
    root: Path, objects: str | None, message: str, kind: str
) -> None:
    path = add(root, "ILSVRC2013_val_00000001", objects or "")
    if objects is None:
        path.unlink()
    with pytest.raises(InputError) as caught:
        read_dataset("imagenet_det", root, {})
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    index = read_dataset("imagenet_det", root, {"on_bad_object": "drop"})
    assert index.dropped == {kind: 1}
    assert len(index.images) == 3
    assert index.objects["image_id"].tolist() == [1, 1, 3]


def test_an_image_of_another_size_is_named(root: Path) -> None:
    Image.new("RGB", (40, 50)).save(root / "ILSVRC2013_DET_val/ILSVRC2013_val_00000002.JPEG")
    with pytest.raises(InputError, match=r"00002\.xml: says 50 x 40 pixels, but the"):
        read_dataset("imagenet_det", root, {})


def test_synsets_map_to_themselves_and_to_their_ancestors() -> None:
    is_a = [("animal", "dog"), ("dog", "poodle"), ("poodle", "toy"), ("thing", "car")]
    table = class_mapping(["toy", "car", "animal", "dog", "rock"], ["car", "dog"], is_a)
    assert table.to_numpy().tolist() == [["toy", 1], ["car", 0], ["dog", 1]]


def test_of_several_parents_the_nearest_counts_and_cycles_do_no_harm() -> None:
    is_a = [("a", "x"), ("x", "y"), ("b", "y"), ("y", "x"), ("a", "z"), ("b", "z"), ("y", "y")]
    table = class_mapping(["x", "y", "z"], ["b", "a"], is_a)
    assert dict(table.to_numpy().tolist()) == {"x": 1, "y": 0, "z": 0}
    # a DET class below another keeps its own
    assert class_mapping(["x", "y"], ["a", "x"], is_a)["class_id"].tolist() == [1, 1]


def test_uncovered_det_classes_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert class_mapping(["rock"], ["dog"], []).empty
    assert "no class maps to the DET class dog" in caplog.text
    with pytest.raises(InputError, match="a source class is listed twice"):
        class_mapping(["rock", "rock"], ["dog"], [])


NODES = [f"s{number}" for number in range(9)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(NODES), st.sampled_from(NODES)), max_size=25),
    st.lists(st.sampled_from(NODES), min_size=1, max_size=4, unique=True),
)
def test_the_mapping_agrees_with_all_shortest_paths(
    is_a: list[tuple[str, str]], det: list[str]
) -> None:
    distance = np.where(np.eye(len(NODES), dtype=bool), 0.0, np.inf)  # Floyd and Warshall
    for parent, child in is_a:
        if parent != child:
            distance[NODES.index(parent), NODES.index(child)] = 1
    for middle in range(len(NODES)):
        distance = np.minimum(distance, distance[:, [middle]] + distance[[middle]])
    found = dict(class_mapping(NODES, det, is_a).to_numpy().tolist())
    for place, node in enumerate(NODES):
        steps = [distance[NODES.index(name), place] for name in det]
        expected = int(np.argmin(steps)) if np.isfinite(steps).any() else None
        assert found.get(node) == expected


def test_the_class_map_lies_beside_the_index(root: Path, tmp_path: Path) -> None:
    assert class_map(root, Options()) is None
    assert read_dataset("imagenet_det", root, {}).class_map is None
    (root / "wordnet.is_a.txt").write_bytes(f"{ANIMAL} {DOG}\r\n{DOG} {POODLE}\r\n".encode())
    write_index(tmp_path / "index", read_dataset("imagenet_det", root, {}))
    table = read_index(tmp_path / "index").class_map
    assert table is not None
    assert table.to_numpy().tolist() == [[DOG, 1], [POODLE, 1], [CAR, 0]]

    (root / "tree.xml").write_text(
        f'<ImageNetStructure><synset wnid="fall11" words="x"><synset wnid="{ANIMAL}" words="é">'
        f'<synset wnid="{DOG}"><synset wnid="{POODLE}"/></synset></synset></synset>'
        "</ImageNetStructure>"
    )
    assert read_hierarchy(root / "tree.xml")[1:] == [(ANIMAL, DOG), (DOG, POODLE)]
    found = class_map(root, Options(hierarchy="tree.xml"))
    assert found is not None
    pd.testing.assert_frame_equal(found, table, check_dtype=False)

    (root / "matching.txt").write_text(f"n1 {DOG}\nn2 {CAR}\n")
    found = class_map(root, Options(matching="matching.txt"))
    assert found is not None
    assert found.to_numpy().tolist() == [["n1", 1], ["n2", 0]]


@pytest.mark.parametrize(
    ("options", "text", "message"),
    [
        ({"hierarchy": "f.txt"}, "a b\na\n", "f.txt: line 2: expected two WNIDs, got 'a'"),
        ({"hierarchy": "f.txt"}, "", "f.txt: the hierarchy is empty"),
        ({"hierarchy": "f.xml"}, "", "f.xml: not a readable XML file"),
        ({"hierarchy": "f.xml"}, "<a/>", "f.xml: has no <synset> inside another"),
        (
            {"hierarchy": "f.xml"},
            "<a><synset><synset wnid='x'/></synset></a>",
            "or one without a wnid",
        ),
        ({"matching": "f.txt"}, f"a {ANIMAL}", f"a is matched to {ANIMAL}, which is no DET class"),
        ({"matching": "f.txt"}, f"a {DOG}\na {CAR}", "a is matched to two DET classes"),
    ],
)
def test_bad_hierarchies_are_named(
    root: Path, options: dict[str, str], text: str, message: str
) -> None:
    (root / next(iter(options.values()))).write_text(text)
    with pytest.raises(InputError) as caught:
        class_map(root, Options(**options))
    assert message in str(caught.value)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([VAL, BLACKLIST, "meta_det.mat", "annotation"]),
    st.one_of(st.binary(max_size=40), st.text(max_size=40).map(str.encode)),
)
def test_any_bytes_give_a_valid_index_or_a_readable_error(name: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        path = add(root, "a", box_xml(DOG, (1, 2, 3, 4)))
        write_meta(root)
        write_text(root, VAL, "a 1")
        write_text(root, BLACKLIST, "")
        (path if name == "annotation" else root / DEVKIT / name).write_bytes(content)
        try:
            write_index(root / "index", read_dataset("imagenet_det", root, {}))
        except InputError as error:
            assert str(root) in str(error)
