"""The Open Images reader on small official files: by hand, against a slow version, and damaged."""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from detransfer.console import InputError
from detransfer.data.index import BOX, Index, read_index, write_index
from detransfer.data.readers import read_dataset
from detransfer.data.readers.openimages_classes import read_vocabulary

HEAD = ("ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,"
        "IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside")  # fmt: skip
# Label, name, in the challenge. The cat's parents are no classes of the challenge, the pet is.
CLASSES = [
    ("/m/01yrx", "Cat", True),
    ("/m/0jbk", "Animal", False),
    ("/m/068hy", "Pet", True),
    ("/m/0k4j", "Car", True),
    ("/m/07yv9", "Vehicle", True),
    ("/m/0h2r6", "Van", False),
    ("/m/083wq", "Wheel", True),
]
CAT, ANIMAL, PET, CAR, VEHICLE, VAN, WHEEL = (mid for mid, _, _ in CLASSES)
TREE = {
    "LabelName": "/m/0bl9f",
    "Subcategory": [
        {"LabelName": ANIMAL, "Subcategory": [{"LabelName": CAT}]},
        {"LabelName": PET, "Subcategory": [{"LabelName": CAT}]},
        {
            "LabelName": VEHICLE,
            "Subcategory": [
                {"LabelName": CAR, "Subcategory": [{"LabelName": VAN}]},
            ],
            "Part": [{"LabelName": WHEEL}],
        },
    ],
}
A, B, C = "000a1f0000000001", "000a1f0000000002", "f00a1f0000000003"
VAL, TEST = "500a1f0000000004", "500a1f0000000005"
SIZES = {A: (40, 20), B: (30, 30), C: (64, 48), VAL: (10, 20), TEST: (9, 9)}
ALL = {"vocabulary": 601}


def box(image: str, mid: str, corners: str, flags: str = "0,0,0,0,0") -> str:
    return f"{image},xclick,{mid},1,{corners},{flags}"


TRAIN = [
    box(A, CAT, "0.25,0.75,0,1", "1,0,0,0,0"),
    box(A, VAN, "0,0.5,0.1,0.9", "0,1,1,0,0"),
    box(B, WHEEL, "0.1,0.2,0.3,0.4", "-1,-1,-1,-1,-1"),
    box(C, VEHICLE, "0.5,1,0.5,1", "0,0,0,1,0"),
    box(C, CAR, "0.5,0.5,0.5,1"),  # no area
]
LABELS = [f"{A},verification,{VEHICLE},0", f"{A},verification,{CAT},1",
          f"{B},crowdsource-verification,{CAT},0", f"{B},verification,{CAT},0"]  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The three splits as the official archives lay them out."""
    folder = tmp_path / "openimages"
    notes = folder / "annotations"
    notes.mkdir(parents=True)
    places = {A: "train_0", B: "train_0", C: "train_f", VAL: "validation", TEST: "test"}
    for name, size in SIZES.items():
        (folder / places[name]).mkdir(exist_ok=True)
        Image.new("RGB", size).save(folder / places[name] / f"{name}.jpg")
    for file, chosen in (
        ("class-descriptions-boxable.csv", CLASSES),
        ("challenge-2018-class-descriptions-500.csv", [c for c in CLASSES if c[2]]),
    ):
        (notes / file).write_text("".join(f"{mid},{name}\n" for mid, name, _ in chosen))
    (notes / "bbox_labels_600_hierarchy.json").write_text(json.dumps(TREE))
    tables = {
        "train": (TRAIN, LABELS),
        "validation": ([box(VAL, CAT, "0,1,0,1")], [f"{VAL},verification,{VAN},0"]),
        "test": ([], [f"{TEST},verification,{ANIMAL},0"]),
    }
    for split, (boxes, labels) in tables.items():
        write(notes / f"{split}-annotations-bbox.csv", HEAD, boxes)
        write(notes / f"{split}-annotations-human-imagelabels-boxable.csv",
              "ImageID,Source,LabelName,Confidence", labels)  # fmt: skip
    return folder


def write(path: Path, head: str, rows: list[str], end: str = "\n") -> Path:
    path.write_bytes("".join(row + end for row in [head, *rows]).encode())
    return path


def read(root: Path, **options: Any) -> Index:
    return read_dataset("openimages", root, options)


def train(root: Path) -> Path:
    return root / "annotations/train-annotations-bbox.csv"


def rows(index: Index) -> list[list[Any]]:
    names = index.classes["name"][index.objects["class_id"]].tolist()
    return [list(row) for row in zip(index.objects["image_id"], names, strict=True)]


def test_everything_arrives_in_the_index(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    write_index(root / "index", read(root, **ALL))
    index = read_index(root / "index")
    assert index.images["path"].tolist() == [
        f"train_0/{A}.jpg", f"train_0/{B}.jpg", f"train_f/{C}.jpg", f"validation/{VAL}.jpg",
        f"test/{TEST}.jpg"]  # fmt: skip
    assert index.images["split"].tolist() == ["train"] * 3 + ["validation", "test"]
    assert index.images[["width", "height"]].to_numpy().tolist() == [
        list(s) for s in SIZES.values()
    ]
    assert index.classes["name"].tolist() == [name for _, name, _ in CLASSES]
    assert index.classes["source_id"].tolist() == [mid for mid, _, _ in CLASSES]
    superclasses = ["Animal", "", "", "Vehicle", "", "Vehicle", ""]
    assert index.classes["superclass"].tolist() == superclasses
    assert rows(index) == [[0, "Cat"], [0, "Van"], [1, "Wheel"], [2, "Vehicle"], [3, "Cat"]]
    expected = [[10, 0, 30, 20], [0, 2, 20, 18], [3, 9, 6, 12], [32, 24, 64, 48], [0, 0, 10, 20]]
    np.testing.assert_allclose(index.objects[BOX], expected, rtol=1e-6)
    flags = index.objects[["occluded", "truncated", "group_of"]].to_numpy().astype(int).tolist()
    assert flags == [[1, 0, 0], [0, 1, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]]  # -1: unknown
    assert not index.objects[["difficult", "crowd"]].to_numpy().any()
    assert "train-annotations-bbox.csv: 5 boxes, left out: 0 outside the vocabulary" in caplog.text
    negatives = [[0, 4], [1, 0], [3, 5], [4, 1]]
    assert index.negatives is not None and index.negatives.to_numpy().tolist() == negatives


def test_the_challenge_has_fewer_classes(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    index = read(root)
    assert index.classes["name"].tolist() == ["Cat", "Pet", "Car", "Vehicle", "Wheel"]
    assert rows(index) == [[0, "Cat"], [1, "Wheel"], [2, "Vehicle"], [3, "Cat"]]
    assert "left out: 1 outside the vocabulary" in caplog.text
    # Van and Animal are verified to be absent, but are no classes of the index.
    assert index.negatives is not None
    assert index.negatives.to_numpy().tolist() == [[0, 3], [1, 0]]
    write_index(root / "index", index)


def test_a_box_counts_for_all_ancestors(root: Path) -> None:
    """By hand. The cat is an animal and a pet, a wheel is a part of a vehicle, not a vehicle."""
    index = read(root, expand_hierarchy=True)
    assert rows(index) == [
        [0, "Cat"], [0, "Pet"],  # Animal is not in the vocabulary
        [0, "Car"], [0, "Vehicle"],  # the van, itself outside the vocabulary
        [1, "Wheel"],
        [2, "Vehicle"],
        [3, "Cat"], [3, "Pet"],
    ]  # fmt: skip
    boxes = index.objects[[*BOX, "truncated", "group_of"]].to_numpy()
    assert (boxes[2] == boxes[3]).all() and boxes[2].tolist()[4:] == [1, 1]
    everything = read(root, expand_hierarchy=True, **ALL)
    assert rows(everything)[:6] == [[0, "Cat"], [0, "Animal"], [0, "Pet"],
                                    [0, "Van"], [0, "Car"], [0, "Vehicle"]]  # fmt: skip


def test_what_is_absent_takes_its_kinds_along(root: Path) -> None:
    """No vehicle: no car either. No animal: no cat. No cat says nothing about pets."""
    index = read(root, expand_hierarchy=True)
    assert index.negatives is not None
    names = index.classes["name"]
    found = [(row, names[k]) for row, k in index.negatives.to_numpy().tolist()]
    assert found == [(0, "Car"), (0, "Vehicle"), (1, "Cat"), (4, "Cat")]


@st.composite
def trees(draw: st.DrawFn) -> dict[str, Any]:
    def node(depth: int) -> dict[str, Any]:
        below = draw(st.lists(st.integers(0, 5), max_size=3, unique=True)) if depth else []
        children = [{**node(depth - 1), "LabelName": f"/m/{k}"} for k in below]
        return {"LabelName": "", **({"Subcategory": children} if children else {})}

    return {**node(3), "LabelName": "/m/root"}


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(trees(), st.lists(st.integers(0, 5), min_size=1, unique=True), st.integers(0, 5))
def test_ancestors_are_the_nodes_above_in_any_place(
    tmp_path: Path, tree: dict[str, Any], kept: list[int], label: int
) -> None:
    """Slow version: collect whatever stands on a path from the root to the label."""

    def above(node: dict[str, Any], chain: tuple[str, ...]) -> Iterator[str]:
        if node["LabelName"] == f"/m/{label}":
            yield from chain
        for child in node.get("Subcategory", []):
            yield from above(child, (*chain, node["LabelName"]))

    for name, numbers in (("class-descriptions-boxable", range(6)),
                          ("challenge-2018-class-descriptions-500", kept)):  # fmt: skip
        (tmp_path / f"{name}.csv").write_text("".join(f"/m/{k},n{k}\n" for k in numbers))
    (tmp_path / "bbox_labels_600_hierarchy.json").write_text(json.dumps(tree))
    vocabulary = read_vocabulary(tmp_path, 500, expand=True)
    _, classes = vocabulary.expand(np.array([label, label]))
    reached = {*above(tree, ()), f"/m/{label}"}
    expected = {row for row, k in enumerate(kept) if f"/m/{k}" in reached}
    assert sorted(classes) == sorted([*expected, *expected])


def test_depictions_and_negatives_can_be_left_out(root: Path) -> None:
    (root / "annotations/train-annotations-human-imagelabels-boxable.csv").unlink()
    index = read(root, drop_depictions=True, negatives=False)
    assert rows(index) == [[0, "Cat"], [1, "Wheel"], [3, "Cat"]]
    assert index.negatives is None


def test_a_part_of_the_archives_is_enough(root: Path) -> None:
    index = read(root, train_archives=["0"], splits=["train"])
    assert index.images["path"].tolist() == [f"train_0/{A}.jpg", f"train_0/{B}.jpg"]
    assert rows(index) == [[0, "Cat"], [1, "Wheel"]]
    assert set(read(root, splits=["validation"]).images["split"]) == {"validation"}


@pytest.mark.parametrize("head", [HEAD, "\ufeff" + HEAD])
def test_line_ends_empty_lines_and_order_do_not_matter(root: Path, head: str) -> None:
    expected = read(root)
    write(train(root), head, [TRAIN[0], "", *TRAIN[1:], ""], end="\r\n")
    assert read(root).digest() == expected.digest()
    write(train(root), HEAD, [*TRAIN[2:], *TRAIN[:2]])
    assert read(root).digest() == expected.digest()


@pytest.mark.parametrize("policy", ["fail", "drop"])
def test_boxes_of_no_area_are_counted_under_either_policy(
    root: Path, policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write(train(root), HEAD, [*TRAIN, box(A, CAT, "0.1,0.1,0.2,0.2"), box(A, CAT, "0,1,0,1")])
    write_index(root / "index", read(root, on_bad_object=policy))
    index = read_index(root / "index")
    assert index.dropped == {"no area": 2} and len(index.objects) == 5
    assert "line 6: box [XMin=0.5, YMin=0.5, XMax=0.5, YMax=1] has no area" in caplog.text


def test_an_image_whose_name_is_not_utf8_is_named(root: Path) -> None:
    (root / "train_0" / os.fsdecode(b"0\xe9.jpg")).write_bytes(b"")
    with pytest.raises(InputError, match=r"train_0/0\\udce9\.jpg: its name is not UTF-8"):
        read(root)


FAULTS = [
    (box("00ff", CAT, "0,1,0,1"), "image not on disk",
     "image 00ff is not on disk; extract train_0.tar.gz or"),
    (box(A, "/m/nix", "0,1,0,1"), "unknown class",
     "class /m/nix is not in class-descriptions-boxable.csv"),
    (box(A, CAT, "0.5,0.4,0,1"), "inverted", "YMax=1] is inverted"),
    (box(A, CAT, "0,1.01,0,1"), "outside the image", "XMax=1.01, YMax=1] leaves the image"),
    (box(A, CAT, "0,1,-0.1,1"), "outside the image", "YMin=-0.1, XMax=1, YMax=1] leaves the image"),
    (box(A, CAT, "0,nan,0,1"), "not a number", "XMax=nan, YMax=1] is not finite"),
    (box(A, CAT, "0,1,0,1", "0,7,0,0,0"), "unknown flag", "IsTruncated should be 1, 0 or -1, got"),
    (box(A, CAT, "0,1,0,1", "0,0,-128,0,0"), "unknown flag", "IsGroupOf should be 1, 0 or -1"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "kind", "message"), FAULTS)
def test_bad_boxes_are_named_or_left_out(root: Path, row: str, kind: str, message: str) -> None:
    expected = read(root)
    write(train(root), HEAD, [*TRAIN[:2], "", row, *TRAIN[2:], row])
    with pytest.raises(InputError) as caught:
        read(root)
    assert str(caught.value).startswith(f"{train(root)}: line 5: ")
    assert message in str(caught.value)
    assert "on_bad_object" in str(caught.value)
    index = read(root, on_bad_object="drop")
    assert index.dropped == {kind: 2, "no area": 1}
    assert index.digest() == expected.digest()
    write_index(root / "index", index)
    assert read_index(root / "index").dropped == index.dropped


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("ImageID,LabelName\n", "line 1: has no column 'XMin'; it has: ImageID, LabelName"),
        (f"{HEAD}\n\n{TRAIN[0]}\n{A},x\n", "line 4: has 2 values, but the head has 13"),
        (f"{HEAD}\n{box(A, CAT, '0,wide,0,1')}\n", "line 2: XMax should be a number, got 'wide'"),
        (f"{HEAD}\n{box(A, CAT, '0,,0,1')}\n", "line 2: XMax should be a number, got ''"),
        (f"{HEAD}\n{box(A, CAT, '0,1,0,1', '0,no,0,0,0')}\n", "IsTruncated should be a whole"),
        (f"{HEAD}\n{TRAIN[0]}\n{box(A, 'ÿ', '0,1,0,1')}\n".encode("latin-1"), "line 3: not UTF-8"),
        (HEAD.encode("utf-16"), "line 1: not UTF-8"),
    ],
)
def test_damaged_tables_are_named(root: Path, content: str | bytes, message: str) -> None:
    train(root).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        read(root, on_bad_object="drop")  # a damaged file is no bad object
    assert str(caught.value).startswith(f"{train(root)}: ")
    assert message in str(caught.value)


def test_other_faults_are_named(root: Path) -> None:
    notes = root / "annotations"

    def fails(file: str, content: str | None, message: str, **options: Any) -> None:
        path = notes / file
        whole = path.read_text()
        path.unlink()
        if content is not None:
            path.write_text(content)
        with pytest.raises(InputError) as caught:
            read(root, **options)
        assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)
        path.write_text(whole)

    fails("train-annotations-bbox.csv", None, "there is no such file")
    fails("class-descriptions-boxable.csv", None, "there is no such file")
    fails("class-descriptions-boxable.csv", "", "the file is empty")
    fails("class-descriptions-boxable.csv", f"{CAT},Cat\n{CAT}\n", "line 2: expected '/m/...,name'")
    fails("class-descriptions-boxable.csv", f"{CAT},Cat\n\n{CAT},X\n", "line 3: class /m/01yrx")
    fails(
        "challenge-2018-class-descriptions-500.csv", "/m/x,X\n", "class /m/x is not in class-desc"
    )
    fails("bbox_labels_600_hierarchy.json", None, "there is no such file")
    fails("bbox_labels_600_hierarchy.json", "{\n", "line 2, column 1: malformed JSON")
    fails("bbox_labels_600_hierarchy.json", "[]", "not a hierarchy of Open Images")
    fails("bbox_labels_600_hierarchy.json", '{"Subcategory": [{}]}', "not a hierarchy")
    labels = "test-annotations-human-imagelabels-boxable.csv"
    head = "ImageID,LabelName,Confidence\n"
    fails(labels, f"{head}{TEST},{CAT},2\n", "line 2: Confidence should lie between 0 and 1, got 2")
    fails(labels, f"{head}{A},{CAT},1\n", f"line 2: image {A} is not on disk; extract test.tar.gz")
    (root / "train_0" / f"{C}.jpg").touch()
    with pytest.raises(InputError, match=r"train_0/f00.*: the file is empty"):
        read(root)
    (root / f"test/{TEST}.jpg").unlink()
    with pytest.raises(InputError, match="split 'test' has no images in test"):
        read(root)


def test_an_image_in_the_wrong_folder_is_named(root: Path) -> None:
    (root / "train_f" / f"{C}.jpg").rename(root / "train_0" / f"{C}.jpg")
    Image.new("RGB", (9, 9)).save(root / "train_f" / f"{B}.jpg")
    with pytest.raises(InputError, match=f"train_f/{B}.jpg: is in the wrong folder"):
        read(root)


def slow_boxes(root: Path) -> list[tuple[Any, ...]]:
    """Slow version: one row at a time, without a vocabulary smaller than the table's."""
    names = [mid for mid, _, _ in CLASSES]
    found = []
    with train(root).open(newline="") as file:
        for row in csv.DictReader(file):
            width, height = SIZES[row["ImageID"]]
            sides = [float(row["XMin"]) * width, float(row["YMin"]) * height,
                     float(row["XMax"]) * width, float(row["YMax"]) * height]  # fmt: skip
            corners = [float(np.float32(side)) for side in sides]
            if corners[2] > corners[0] and corners[3] > corners[1]:
                image_id = [A, B, C].index(row["ImageID"])
                found.append((image_id, names.index(row["LabelName"]), *corners))
    return sorted(found)


SHARES = st.floats(0, 1, width=32)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([A, B, C]), st.integers(0, 6), st.tuples(SHARES, SHARES, SHARES, SHARES)
        )
    )
)
def test_boxes_are_those_of_a_slow_reader(
    root: Path, entries: list[tuple[str, int, tuple[float, ...]]]
) -> None:
    lines = []
    for image, label, (a, b, c, d) in entries:
        corners = f"{min(a, b)!r},{max(a, b)!r},{min(c, d)!r},{max(c, d)!r}"
        lines.append(box(image, CLASSES[label][0], corners))
    write(train(root), HEAD, lines)
    index = read(root, splits=["train"], **ALL)
    columns = ["image_id", "class_id", *BOX]
    assert sorted(map(tuple, index.objects[columns].to_numpy(float).tolist())) == slow_boxes(root)
    write_index(root / "index", index)


VALUES = st.one_of(
    st.sampled_from([A, B, C, CAT, VAN, "0", "1", "-1", "0.5", "1e400", "nan", "", '"', "\r", ",",
                     "\n", "\x00", "é", "xclick"]),
    st.text(max_size=4),
)  # fmt: skip


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data(), st.sampled_from(["fail", "drop"]))
def test_any_table_gives_a_valid_index_or_an_explanation(
    root: Path, data: st.DataObject, policy: str
) -> None:
    table = [line.split(",") for line in [HEAD, *TRAIN]]
    for _ in range(data.draw(st.integers(1, 4))):
        line = data.draw(st.sampled_from(table))
        line[data.draw(st.integers(0, len(line) - 1))] = data.draw(VALUES)
    text = "\n".join(",".join(line) for line in table)
    train(root).write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        index = read(root, on_bad_object=policy)
    except InputError as error:
        assert "train-annotations-bbox.csv: " in str(error)
    else:
        write_index(root / "index", index)
