"""The COCO reader on small official files, on real archives, and against pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detransfer.console import InputError
from detransfer.data.catalog import load_catalog
from detransfer.data.extract import Part, extract
from detransfer.data.index import BOX, read_index, write_index
from detransfer.data.readers import read_dataset

CATEGORIES = [
    {"id": 18, "name": "dog", "supercategory": "animal"},
    {"id": 1, "name": "person", "supercategory": "person"},
    {"id": 90, "name": "toothbrush", "supercategory": "indoor"},
]
ONE_SET = {"sets": {"val": {"annotations": "annotations/instances_val2017.json",
                            "images": "val2017"}}}  # fmt: skip


def annotation(number: int, box: list[float], image: Any = 139, **more: Any) -> dict[str, Any]:
    polygon = {"segmentation": [[1, 1, 2, 2, 3, 3]], "area": 1.5}
    entry = {"id": number, "image_id": image, "category_id": 18, "bbox": box, "iscrowd": 0}
    return {**entry, **polygon, **more}


def write_set(
    root: Path, name: str, sizes: dict[int, tuple[int, int]], annotations: list[dict[str, Any]]
) -> Path:
    """Write images and the instances file of one set; returns the path of the file."""
    (root / name).mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    images = []
    for number, (width, height) in sizes.items():
        file = f"{number:012d}.jpg"
        Image.new("RGB", (width, height)).save(root / name / file)
        images.append({"id": number, "file_name": file, "width": width, "height": height})
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    path = root / "annotations" / f"instances_{name}.json"
    path.write_text(json.dumps(content, indent=1))
    return path


def change(path: Path, key: str, value: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    val = [
        annotation(1, [10.5, 5, 20, 10], category_id=1),
        annotation(2, [0, 0, 64, 48], 139, iscrowd=1),
        annotation(3, [44, 20, 20.4, 28.6], category_id=90),  # over the edge by rounding
        annotation(4, [3, 3, 0, 5]),  # no area
        annotation(5, [3, 3, 1, 1], 285),
    ]
    write_set(tmp_path, "val2017", {139: (64, 48), 285: (30, 30)}, val)
    write_set(tmp_path, "train2017", {9: (20, 20)}, [annotation(9, [1, 2, 3, 4], 9)])
    return tmp_path


def test_everything_arrives_in_the_index(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    write_index(tmp_path / "index", read_dataset("coco", root, {}))
    index = read_index(tmp_path / "index")
    assert index.images.to_dict("list") == {
        "image_id": [9, 139, 285],
        "path": ["train2017/000000000009.jpg", "val2017/000000000139.jpg",
                 "val2017/000000000285.jpg"],
        "width": [20, 64, 30],
        "height": [20, 48, 30],
        "split": ["train2017", "val2017", "val2017"],
    }  # fmt: skip
    assert index.classes.to_numpy().tolist() == [
        [0, "person", "1", "person"],
        [1, "dog", "18", "animal"],
        [2, "toothbrush", "90", "indoor"],
    ]
    assert index.objects["image_id"].tolist() == [9, 139, 139, 139, 285]
    assert index.objects["class_id"].tolist() == [1, 0, 1, 2, 1]
    expected = [[1, 2, 4, 6], [10.5, 5, 30.5, 15], [0, 0, 64, 48], [44, 20, 64, 48], [3, 3, 4, 4]]
    np.testing.assert_array_equal(index.objects[BOX], expected)
    assert index.objects["crowd"].tolist() == [False, False, True, False, False]
    assert index.dropped == {"no area": 1}
    assert "instances_val2017.json: annotation 4 has a box of no area" in caplog.text
    assert "left out 1 objects: no area" in caplog.text


def test_images_without_annotations_stay(root: Path) -> None:
    write_set(root, "val2017", {139: (64, 48)}, [])
    index = read_dataset("coco", root, ONE_SET)
    assert len(index.images) == 1
    assert index.objects.empty
    write_index(root / "index", index)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (annotation(77, [60, 5, 5.1, 5]),
         "annotation 77 has a box that leaves its image [60.0, 5.0, 65.1, 10.0] of 64 x 48 pixels"),
        (annotation(77, [-1.5, 5, 5, 5]), "annotation 77 has a box that leaves its image"),
        (annotation(77, [9, 5, -4, 5]), "annotation 77 has an inverted box [x, y, w, h] [9.0, 5.0"),
        (annotation(77, [9, float("nan"), 4, 5]), "annotation 77 has a box that is not finite"),
        (annotation(77, [9, 5, 4]), "annotation 77 has no bbox [x, y, width, height]: [9, 5, 4]"),
        (annotation(77, [1, 1, 5, 5], category_id=2), "annotation 77 has an unknown category"),
        (annotation(77, [1, 1, 5, 5], 140), "annotation 77 belongs to an unknown image"),
        (annotation(77, [1, 1, 5, 5], category_id=None),
         "entry 2 of annotations (id 77) lacks 'category_id'"),
        (annotation(77, [1, 1, 5, 5], iscrowd="0"), "annotation 77 has iscrowd '0'; it should be"),
        (annotation(77, [1, 1, 5, 5], iscrowd=2), "annotation 77 has iscrowd 2; it should be"),
        (annotation(77, [1, 1, 5, 5], iscrowd=None), "annotation 77 has iscrowd None; it should"),
    ],
)  # fmt: skip
def test_bad_annotations_are_named(root: Path, entry: dict[str, Any], message: str) -> None:
    path = root / "annotations/instances_val2017.json"
    change(path, "annotations", [annotation(1, [1, 1, 5, 5]), entry])
    with pytest.raises(InputError) as caught:
        read_dataset("coco", root, ONE_SET)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_the_split_of_2014(tmp_path: Path) -> None:
    """train2014, val2014 without val2017, and the images of val2017 under their older names."""
    options = load_catalog().datasets["coco2014"].options
    write_set(tmp_path, "train2014", {1: (20, 20)}, [annotation(1, [1, 1, 5, 5], 1)])
    boxes = [annotation(10 + n, [n, 1, 5, 5], n) for n in (2, 3, 4)]
    sizes = {2: (22, 20), 3: (23, 20), 4: (24, 20)}
    path = write_set(
        tmp_path, "val2014", sizes, [*boxes, annotation(3, [0, 0, 9, 9], 3, iscrowd=1)]
    )
    part = write_set(tmp_path, "val2017", {3: (23, 20)}, [])
    index = read_dataset("coco", tmp_path, options)
    write_index(tmp_path / "index", index)
    assert index.images[["image_id", "path", "split"]].to_numpy().tolist() == [
        [1, "train2014/000000000001.jpg", "train2014"],
        [2, "val2014/000000000002.jpg", "valminusminival2014"],
        [4, "val2014/000000000004.jpg", "valminusminival2014"],
        [3, "val2014/000000000003.jpg", "minival2014"],
    ]
    assert index.objects[["image_id", "x1", "crowd"]].to_numpy().tolist() == [
        [1, 1, False], [2, 2, False], [4, 4, False], [3, 3, False], [3, 0, True],
    ]  # fmt: skip
    change(path, "annotations", [annotation(12, [1, 1, 5, 5], 5)])
    with pytest.raises(InputError, match="annotation 12 belongs to an unknown image"):
        read_dataset("coco", tmp_path, options)
    change(path, "annotations", [annotation(12, [1, 1, 5, 5], [3])])
    with pytest.raises(InputError, match="annotation 12 belongs to an unknown image"):
        read_dataset("coco", tmp_path, options)
    change(path, "annotations", boxes)
    change(part, "images", [{"id": 9, "file_name": "9.jpg", "width": 1, "height": 1}])
    message = r"instances_val2014\.json: has no image 9, which annotations/instances_val2017\.json"
    with pytest.raises(InputError, match=message):
        read_dataset("coco", tmp_path, options)
    part.unlink()
    with pytest.raises(InputError, match=r"val2017\.json: there is no such annotation file"):
        read_dataset("coco", tmp_path, options)


def test_a_test_set_has_images_only(root: Path, tmp_path: Path) -> None:
    path = write_set(root, "test2017", {1: (20, 20), 2: (9, 9)}, [])
    content = {key: value for key, value in json.loads(path.read_text()).items()
               if key != "annotations"}  # fmt: skip
    content["images"] = content["images"][:1]  # test-dev is a part of the test set
    (root / "annotations/image_info_test-dev2017.json").write_text(json.dumps(content))
    dev = {"annotations": "annotations/image_info_test-dev2017.json", "images": "test2017"}
    sets = {**ONE_SET["sets"], "test-dev2017": {**dev, "labelled": False}}
    write_index(tmp_path / "index", read_dataset("coco", root, {"sets": sets}))
    index = read_index(tmp_path / "index")
    assert index.split("test-dev2017").images["path"].tolist() == ["test2017/000000000001.jpg"]
    assert index.split("test-dev2017").objects.empty
    assert len(index.objects) == 4
    only = read_dataset("coco", root, {"sets": {"t": sets["test-dev2017"]}})
    write_index(tmp_path / "only", only)
    assert only.objects.empty
    with pytest.raises(InputError, match="has no list 'annotations'; is it an instances file"):
        read_dataset("coco", root, {"sets": {"t": dev}})


def test_iscrowd_may_be_a_number_or_a_truth_value_or_absent(root: Path) -> None:
    entries = [
        annotation(n, [1, 1, 5, 5], iscrowd=f) for n, f in enumerate((0, 1, True, False, "0", 1))
    ]
    del entries[0]["iscrowd"]
    change(root / "annotations/instances_val2017.json", "annotations", entries)
    index = read_dataset("coco", root, {**ONE_SET, "on_bad_object": "drop"})
    assert index.objects["crowd"].tolist() == [False, True, True, False, True]
    assert index.dropped == {"unknown flag": 1}


def test_bad_objects_are_left_out_and_counted(root: Path) -> None:
    bad = [
        annotation(71, [60, 5, 5.1, 5]),
        annotation(72, [9, 5, -4, 5]),
        annotation(73, [9, float("nan"), 4, 5]),
        annotation(74, [9, 5, 4]),
        annotation(75, [1, 1, 5, 5], category_id=2),
        annotation(76, [1, 1, 5, 5], 140),
        annotation(77, [1, 1, 5, 5], category_id="18"),
        annotation(78, [1, 1, 0, 5]),
        annotation(79, [1, "1", 4, 5], category_id=2),
    ]
    good = [annotation(n, [n, 2, 3, 4]) for n in (1, 2, 3)]
    path = root / "annotations/instances_val2017.json"
    change(path, "annotations", [good[0], *bad[:5], good[1], *bad[5:], good[2]])
    index = read_dataset("coco", root, {**ONE_SET, "on_bad_object": "drop"})
    assert index.objects[BOX].to_numpy().tolist() == [[n, 2, n + 3, 6] for n in (1, 2, 3)]
    assert index.dropped == {
        "inverted": 1, "no area": 1, "not a box": 1, "not finite": 1, "outside the image": 1,
        "unknown class": 3, "unknown image": 1,
    }  # fmt: skip
    write_index(root / "index", index)
    with pytest.raises(InputError, match=r"annotation 76 belongs .* set the reader's option"):
        read_dataset("coco", root, ONE_SET)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("id", 2**31, "entry 1 of images (id 2147483648): id cannot be 2147483648"),
        ("id", "139", "entry 1 of images (id 139): id cannot be '139'"),
        ("id", [1], "entry 1 of images (id [1]): id cannot be [1]"),
        ("width", 64.0, "entry 1 of images (id 139): width cannot be 64.0"),
        ("file_name", 7, "entry 1 of images (id 139): file_name cannot be 7"),
        (
            "file_name",
            "\udc80.jpg",
            r"entry 1 of images (id 139): file_name cannot be '\udc80.jpg'",
        ),
        ("id", 285, "image id 285 occurs twice"),
    ],
)
def test_bad_images_are_named(root: Path, key: str, value: Any, message: str) -> None:
    path = root / "annotations/instances_val2017.json"
    images = json.loads(path.read_text())["images"]
    images[0][key] = value
    change(path, "images", images)
    with pytest.raises(InputError) as caught:
        read_dataset("coco", root, {**ONE_SET, "on_bad_object": "drop"})
    assert str(caught.value) == f"{path}: {message}"


@pytest.mark.parametrize("key", ["name", "supercategory"])
def test_half_a_character_in_a_category_is_named(root: Path, key: str) -> None:
    path = root / "annotations/instances_val2017.json"
    change(path, "categories", [{**CATEGORIES[0], key: "\udc80"}, *CATEGORIES[1:]])
    with pytest.raises(InputError) as caught:
        read_dataset("coco", root, ONE_SET)
    expected = rf"{path}: entry 1 of categories (id 18): {key} cannot be '\udc80'"
    assert str(caught.value) == expected


def test_an_annotation_may_have_any_id(root: Path) -> None:
    path = root / "annotations/instances_val2017.json"
    change(path, "annotations", [{**annotation(1, [1, 1, 5, 5]), "id": "\udc80"}] * 2)
    with pytest.raises(InputError, match=r"annotation \\udc80 has the id of an annotation before"):
        read_dataset("coco", root, ONE_SET)


ODD = st.sampled_from([0, 1, 2, 2.5, 5, 7, -1, 9, 1e9, 10**30, float("nan"), True, None, "1"])
ENTRY = st.fixed_dictionaries(
    {"id": st.integers(1, 3), "image_id": st.sampled_from([1, 2, 3, "1", 1.0, 2**40, True]),
     "category_id": st.sampled_from([18, 1, 2, "18", 2**70]),
     "bbox": st.one_of(st.lists(ODD, min_size=4, max_size=4), st.lists(ODD), ODD)},
    optional={"iscrowd": st.sampled_from([0, 1, True, "0", None])},
)  # fmt: skip
SOUND = st.builds(
    lambda image, box: {"id": 9, "image_id": image, "category_id": 18, "bbox": box},
    st.sampled_from([1, 2]), st.lists(st.integers(0, 4), min_size=4, max_size=4),
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(st.lists(st.one_of(ENTRY, SOUND, SOUND), max_size=4), st.sampled_from(["fail", "drop"]))
def test_any_annotations_make_a_valid_index_or_one_clear_line(
    entries: list[dict[str, Any]], policy: str
) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        path = write_set(root, "val2017", {1: (8, 9), 2: (7, 5)}, entries)
        try:
            index = read_dataset("coco", root, {**ONE_SET, "on_bad_object": policy})
        except InputError as error:
            assert policy == "fail" or "lacks" in str(error)
            assert str(error).startswith(f"{path}: ")
            assert len(str(error).splitlines()) == 1
            return
        write_index(root / "index", index)
        assert len(index.objects) + sum(index.dropped.values()) == len(entries)
        assert policy == "drop" or set(index.dropped) <= {"no area"}


def test_bad_files_are_named(root: Path) -> None:
    path = root / "annotations/instances_val2017.json"
    whole = path.read_text()

    def fails(message: str, options: dict[str, Any] = ONE_SET) -> None:
        with pytest.raises(InputError, match=message):
            read_dataset("coco", root, options)
        path.write_text(whole)

    path.write_text("\n".join(whole.split("\n")[:10]))
    fails(r"instances_val2017\.json: line 10, column \d+: malformed JSON")
    path.write_text("[]")
    fails("has no list 'images'; is it an instances file")
    change(path, "images", [])
    fails("split 'val' is empty")
    change(path, "categories", CATEGORIES[:2])
    fails("its categories differ from those of the sets before it", {})
    change(path, "images", [{"id": 139, "file_name": "000000000139.jpg", "width": 9, "height": 48}])
    fails(r"val2017/000000000139\.jpg has 9 x 48 pixels, but the image has 64 x 48")
    (root / "val2017/000000000285.jpg").write_bytes(b"\xff\xd8damaged")
    fails(r"000000000285\.jpg: not a readable image")
    (root / "val2017/000000000285.jpg").unlink()
    fails(r"000000000285\.jpg: there is no such image")
    path.unlink()
    fails(r"instances_val2017\.json: there is no such annotation file")
    write_set(root, "val2017", {9: (20, 20)}, [])
    fails("its image id occurs twice in the sets", {})


@pytest.mark.real_data
def test_real_data_agree_with_pycocotools(real_data: Path, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    names = ("train2017", "val2017", "annotations_trainval2017")
    root = tmp_path / "coco"
    extract([Part(real_data / "mirror" / f"{name}.zip") for name in names], root)
    write_index(tmp_path / "index", read_dataset("coco", root, {}))
    index = read_index(tmp_path / "index")
    assert len(index.classes) == 80
    for split, count in (("train2017", 929), ("val2017", 898)):
        with contextlib.redirect_stdout(io.StringIO()):
            official = COCO(str(root / f"annotations/instances_{split}.json"))
        part = index.split(split)
        assert set(part.images["image_id"]) == set(official.getImgIds())
        assert len(part.images) == 128
        assert len(part.objects) == len(official.anns) == count
        source = index.classes["source_id"].astype(int)
        for row in part.images.itertuples():
            truth = official.loadAnns(official.getAnnIds(imgIds=[row.image_id]))
            ours = part.objects[part.objects["image_id"] == row.image_id]
            assert source[ours["class_id"]].tolist() == [a["category_id"] for a in truth]
            assert ours["crowd"].tolist() == [bool(a["iscrowd"]) for a in truth]
            box = np.array([a["bbox"] for a in truth], float).reshape(-1, 4)
            box[:, 2:] = np.minimum(box[:, 2:] + box[:, :2], [row.width, row.height])
            np.testing.assert_allclose(ours[BOX], box, atol=1e-4, rtol=0)
        for class_id, name in enumerate(index.classes["name"]):
            (known,) = official.loadCats(official.getCatIds(catNms=[name]))
            assert str(known["id"]) == index.classes["source_id"][class_id]
            assert known["supercategory"] == index.classes["superclass"][class_id]
