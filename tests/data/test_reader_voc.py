"""The VOC reader on small official layouts, on real archives, and against VOC's own records."""

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
from detransfer.data.extract import Part, extract
from detransfer.data.index import BOX, Index, read_index, write_index
from detransfer.data.options.voc import OFFICIAL_CLASSES
from detransfer.data.readers import read_dataset
from detransfer.data.readers.voc import image_ids

BOX_XML = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"
ONE_SET = {"sets": {"train": "VOC2007/trainval"}}


def object_xml(name: str, box: tuple[float, ...], extra: str = "") -> str:
    return f"<object><name>{name}</name>{extra}{BOX_XML.format(*box)}</object>"


def add_image(
    root: Path, folder: str, name: str, objects: str, size: tuple[int, int] = (50, 40)
) -> Path:
    """Write an image and its annotation; returns the path of the annotation."""
    devkit = root / "VOCdevkit" / folder
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (devkit / part).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(devkit / "JPEGImages" / f"{name}.jpg")
    path = devkit / "Annotations" / f"{name}.xml"
    path.write_text(
        f"<annotation>\n<size><width>{size[0]}</width><height>{size[1]}</height></size>\n"
        f"{objects}\n</annotation>"
    )
    return path


def add_set(root: Path, place: str, names: list[str]) -> None:
    folder, name = place.split("/")
    path = root / "VOCdevkit" / folder / "ImageSets/Main" / f"{name}.txt"
    path.write_text("".join(f"{name}\n" for name in names))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two years, three sets, four images."""
    head = "<part><name>head</name>" + BOX_XML.format(1, 1, 2, 2) + "</part>"
    first = object_xml("person", (1, 1, 50, 40), f"<difficult>1</difficult>{head}")
    first += object_xml("cat", (11, 12, 13, 14), "<truncated>1</truncated><difficult>0</difficult>")
    add_image(tmp_path, "VOC2007", "000012", first)
    add_image(tmp_path, "VOC2007", "000007", "")
    add_image(tmp_path, "VOC2007", "000013", object_xml("dog", (5, 5, 5, 5)))
    floats = object_xml("tvmonitor", (45.7, 2.5, 60.25, 30), "<occluded>1</occluded>")
    add_image(tmp_path, "VOC2012", "2011_003353", floats, (61, 40))
    add_set(tmp_path, "VOC2007/trainval", ["000012", "000007"])
    add_set(tmp_path, "VOC2007/test", ["000013"])
    add_set(tmp_path, "VOC2012/trainval", ["2011_003353"])
    return tmp_path


def test_everything_arrives_in_the_index(root: Path, tmp_path: Path) -> None:
    write_index(tmp_path / "index", read_dataset("voc", root, {}))
    index = read_index(tmp_path / "index")
    assert index.images.to_dict("list") == {
        "image_id": [12, 7, 13, 2_011_003_353],
        "path": [
            "VOCdevkit/VOC2007/JPEGImages/000012.jpg",
            "VOCdevkit/VOC2007/JPEGImages/000007.jpg",
            "VOCdevkit/VOC2007/JPEGImages/000013.jpg",
            "VOCdevkit/VOC2012/JPEGImages/2011_003353.jpg",
        ],
        "width": [50, 50, 50, 61],
        "height": [40, 40, 40, 40],
        "split": ["voc2007_trainval"] * 2 + ["voc2007_test", "voc2012_trainval"],
    }
    names = index.classes["name"][index.objects["class_id"]].tolist()
    assert names == ["person", "cat", "dog", "tvmonitor"]
    expected = [[0, 0, 50, 40], [10, 11, 13, 14], [4, 4, 5, 5], [44.7, 1.5, 60.25, 30]]
    np.testing.assert_allclose(index.objects[BOX], expected, rtol=1e-6)
    flags = index.objects[["difficult", "truncated", "occluded"]].to_numpy().tolist()
    assert flags == [[True, False, False], [False, True, False], [False] * 3, [False, False, True]]
    assert not index.objects[["crowd", "group_of"]].to_numpy().any()


def test_the_official_classes(root: Path) -> None:
    classes = read_dataset("voc", root, {}).classes
    names = (
        "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike "
        "person pottedplant sheep sofa train tvmonitor"
    )
    assert classes["name"].tolist() == names.split()
    assert classes["source_id"].tolist() == [str(number) for number in range(1, 21)]
    assert set(classes["superclass"]) == {"person", "animal", "vehicle", "indoor"}


def test_kept_classes_are_numbered_anew_and_others_dropped(root: Path) -> None:
    index = read_dataset("voc", root, {"keep": ["dog", "cat"]})
    assert index.classes["name"].tolist() == ["cat", "dog"]
    assert index.classes["source_id"].tolist() == ["8", "12"]
    assert index.objects["class_id"].tolist() == [0, 1]
    assert index.objects["image_id"].tolist() == [12, 13]
    assert len(index.images) == 4
    assert read_dataset("voc", root, {"keep": ["bus"]}).objects.empty


def test_own_classes(root: Path) -> None:
    add_image(root, "VOC2007", "000012", object_xml("gnu", (1, 1, 2, 2)))
    index = read_dataset("voc", root, {"classes": ["gnu"], **ONE_SET})
    assert index.classes[["name", "superclass"]].to_numpy().tolist() == [["gnu", ""]]
    options = {"classes": ["gnu"], "superclasses": {"gnu": "animal"}, **ONE_SET}
    assert read_dataset("voc", root, options).classes["superclass"].tolist() == ["animal"]
    with pytest.raises(InputError, match="superclasses: unknown class 'gnus'; did you mean 'gnu'"):
        read_dataset("voc", root, {**options, "superclasses": {"gnus": "animal"}})


def test_a_folder_of_ones_own_needs_no_devkit(root: Path, tmp_path: Path) -> None:
    """The same folder, once where VOC has it and once by itself, with PNG images."""
    official = read_dataset("voc", root, ONE_SET)
    own = tmp_path / "mine"
    (root / "VOCdevkit/VOC2007").rename(own)
    for path in (own / "JPEGImages").iterdir():
        Image.open(path).save(path.with_suffix(".png"))
        path.unlink()
    options = {"devkit": ".", "sets": {"train": "./trainval"}, "suffix": ".png"}
    index = read_dataset("voc", own, options)
    assert index.images["path"].tolist() == ["JPEGImages/000012.png", "JPEGImages/000007.png"]
    assert index.objects.equals(official.objects)
    (own / "Annotations/000007.xml").unlink()
    with pytest.raises(InputError, match=rf"{own}/Annotations/000007\.xml: there is no such"):
        read_dataset("voc", own, options)


def test_image_ids_do_not_depend_on_what_else_is_read() -> None:
    places = [("VOC2007", "000027"), ("VOC2012", "2007_000027"), ("VOC2012", "2012_004331")]
    assert image_ids(places) == [27, 2_007_000_027, 2_012_004_331]
    assert image_ids(places[1:]) == [2_007_000_027, 2_012_004_331]
    assert image_ids([("b", "x"), ("a", "y"), ("a", "x")]) == [2, 1, 0]
    assert image_ids([("VOC2012", "000001"), ("VOC2007", "000001")]) == [1, 0]


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (object_xml("cat", (1, 1, 51, 40)), "box 1 leaves the image (x2=51, width=50)"),
        (object_xml("cat", (1, 1, 50, 40.5)), "box 1 leaves the image (y2=40.5, height=40)"),
        (object_xml("cat", (0, 1, 5, 5)), "box 1 leaves the image (x1=0, pixels count from 1)"),
        (
            object_xml("cat", (1, 1, 5, 5)) + object_xml("dog", (9, 1, 5, 5)),
            "box 2 is inverted (x1=9, x2=5)",
        ),
        (object_xml("cat", (1, 9, 5, 5)), "box 1 is inverted (y1=9, y2=5)"),
        (object_xml("catt", (1, 1, 5, 5)), "object 1: unknown class 'catt'; did you mean 'cat'?"),
        ("<object><name>cat</name></object>", "object 1: <bndbox/xmin> should be a number"),
        (object_xml("cat", ("nan", 1, 5, 5)), "object 1: <bndbox/xmin> should be a number"),
        (
            object_xml("cat", (1, 1, 5, 5), "<difficult>yes</difficult>"),
            "object 1: <difficult> should be 0 or 1, got 'yes'",
        ),
        ("<object>", "line 4, column 2: malformed XML"),
        ("<size/>", None),
    ],
)
def test_bad_annotations_name_file_and_object(
    root: Path, objects: str, message: str | None
) -> None:
    path = add_image(root, "VOC2007", "000012", objects)
    if message is None:
        path.write_text("<annotation></annotation>")
        message = "<size/width> should be a number, got None"
    with pytest.raises(InputError) as caught:
        read_dataset("voc", root, ONE_SET)
    assert str(caught.value).startswith(f"{root}/VOCdevkit/VOC2007/Annotations/000012.xml: ")
    assert message in str(caught.value)


def test_bad_objects_are_left_out_and_counted(root: Path, tmp_path: Path) -> None:
    good = object_xml("dog", (2, 2, 5, 5))
    bad = [
        object_xml("catt", (1, 1, 5, 5)),
        object_xml("cat", (9, 1, 5, 5)),
        object_xml("cat", (1, 1, 51, 40)),
        object_xml("cat", (0, 1, 5, 40)),
        object_xml("cat", ("x", 1, 5, 40)),
        object_xml("cat", (1, 1, 5, 5), "<difficult>yes</difficult>"),
    ]
    add_image(root, "VOC2007", "000012", good.join(["", *bad, ""]))
    options = {**ONE_SET, "on_bad_object": "drop"}
    write_index(tmp_path / "index", read_dataset("voc", root, options))
    index = read_index(tmp_path / "index")
    assert index.objects["class_id"].tolist() == [11] * 7
    assert index.objects[BOX].to_numpy().tolist() == [[1, 1, 5, 5]] * 7
    assert index.dropped == {
        "inverted": 1, "not a number": 1, "outside the image": 2, "unknown class": 1,
        "unknown flag": 1,
    }  # fmt: skip
    assert len(index.images) == 2
    with pytest.raises(InputError, match=r"unknown class 'catt'.*'on_bad_object' to 'drop'"):
        read_dataset("voc", root, ONE_SET)


def test_faults_of_an_image_stop_the_reader_in_any_case(root: Path) -> None:
    options = {**ONE_SET, "on_bad_object": "drop"}
    path = add_image(root, "VOC2007", "000012", "")
    for content, message in [
        (b"", "malformed XML"),
        (b"<annotation/>", "<size/width> should be a number"),
        (b"\xff\xfe<\0", "malformed XML"),
        (b"<?xml version='1.0' encoding='martian'?><a/>", "not readable|malformed XML"),
    ]:
        path.write_bytes(content)
        with pytest.raises(InputError, match=message) as caught:
            read_dataset("voc", root, options)
        assert str(caught.value).startswith(str(path))
    with pytest.raises(InputError, match="on_bad_object: Input should be 'fail' or 'drop'"):
        read_dataset("voc", root, {"on_bad_object": "ignore"})


def test_lists_and_annotations_in_other_encodings(root: Path) -> None:
    path = add_image(root, "VOC2007", "größe", object_xml("cat", (1, 1, 5, 5)))
    text = path.read_text().replace("\n", "\r\n")
    path.write_bytes(("<?xml version='1.0' encoding='utf-16'?>" + text).encode("utf-16"))
    lists = root / "VOCdevkit/VOC2007/ImageSets/Main/trainval.txt"
    lists.write_bytes("\ufeffgröße\r\n\r\n000007  \r\n".encode())
    index = read_dataset("voc", root, ONE_SET)
    assert [Path(p).stem for p in index.images["path"]] == ["größe", "000007"]
    assert len(index.objects) == 1
    lists.write_bytes("000007\ngröße\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"trainval\.txt: line 2: not UTF-8 text"):
        read_dataset("voc", root, ONE_SET)


NUMBER = st.sampled_from(["1", "2", "8", "9", "0", "-3", "2.5", "nan", "inf", "", "x"])
OBJECT = st.tuples(st.sampled_from(["cat", "dog", "gnu", ""]), st.tuples(*[NUMBER] * 4))


@settings(max_examples=60, deadline=None)
@given(st.lists(OBJECT, max_size=4), st.sampled_from(["fail", "drop"]))
def test_any_objects_make_a_valid_index_or_one_clear_line(
    objects: list[tuple[str, tuple[str, ...]]], policy: str
) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        content = "".join(object_xml(kind, box) for kind, box in objects)
        path = add_image(root, "VOC2007", "000001", content, (8, 9))
        add_set(root, "VOC2007/trainval", ["000001"])
        try:
            index = read_dataset("voc", root, {**ONE_SET, "on_bad_object": policy})
        except InputError as error:
            assert policy == "fail"
            assert str(error).startswith(f"{path}: ")
            assert len(str(error).splitlines()) == 1
            return
        write_index(root / "index", index)
        assert len(index.objects) + sum(index.dropped.values()) == len(objects)
        assert policy == "drop" or not index.dropped


def test_bad_files_are_named(root: Path) -> None:
    devkit = root / "VOCdevkit/VOC2007"

    def fails(message: str) -> None:
        with pytest.raises(InputError, match=message):
            read_dataset("voc", root, ONE_SET)

    Image.new("RGB", (40, 50)).save(devkit / "JPEGImages/000012.jpg")
    fails(r"000012\.xml: says 50 x 40 pixels, but the image has 40 x 50")
    (devkit / "JPEGImages/000012.jpg").write_bytes(b"damaged")
    fails(r"000012\.jpg: not a readable image")
    (devkit / "JPEGImages/000012.jpg").unlink()
    fails(r"000012\.jpg: there is no such image")
    (devkit / "Annotations/000007.xml").unlink()
    fails(r"000007\.xml: there is no such annotation")


def test_bad_sets_are_named(root: Path) -> None:
    def fails(message: str, sets: dict[str, str]) -> None:
        with pytest.raises(InputError, match=message):
            read_dataset("voc", root, {"sets": sets})

    fails(r"train\.txt: split 'a' has no such list; the folder has: test, trainval",
          {"a": "VOC2007/train"})  # fmt: skip
    fails("sets.a: expected '<folder>/<set>', got 'trainval'", {"a": "trainval"})
    fails("image 000012 is in 'a' and in 'b'", {"a": "VOC2007/trainval", "b": "VOC2007/trainval"})
    add_set(root, "VOC2007/test", ["000013 -1"])
    fails(r"test\.txt: line 1: expected one name, got '000013 -1'", {"a": "VOC2007/test"})
    add_set(root, "VOC2007/test", ["000013", "000013"])
    fails(r"test\.txt: line 2: '000013' is in line 1 already", {"a": "VOC2007/test"})
    add_set(root, "VOC2007/test", [])
    fails(r"test\.txt: the list of split 'a' is empty", {"a": "VOC2007/test"})
    with pytest.raises(InputError, match="keep: unknown class 'catt'; did you mean 'cat'"):
        read_dataset("voc", root, {"keep": ["catt"]})
    with pytest.raises(InputError, match="there is no such folder; extract"):
        read_dataset("voc", root / "nowhere", {})


@pytest.fixture(scope="module")
def sample(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    names = ("VOCtrainval_06-Nov-2007", "VOCtest_06-Nov-2007", "VOCtrainval_11-May-2012")
    root = tmp_path_factory.mktemp("voc") / "voc_detection"
    extract([Part(real_data / "mirror" / f"{name}.tar") for name in names], root)
    return read_dataset("voc", root, {})


@pytest.mark.real_data
def test_real_counts(sample: Index, tmp_path: Path) -> None:
    assert sample.images["split"].value_counts().to_dict() == {
        "voc2007_test": 963,
        "voc2007_trainval": 944,
        "voc2012_trainval": 155,
    }
    train = sample.split("voc2007_trainval")
    present = set(sample.classes["name"][train.objects["class_id"]])
    assert present == {"bus", "car", "cat", "person", "train"}
    write_index(tmp_path / "index", sample)
    found = read_index(tmp_path / "index")
    pd.testing.assert_frame_equal(found.objects, sample.objects)
    pd.testing.assert_frame_equal(found.images, sample.images, check_dtype=False)


@pytest.mark.real_data
def test_real_boxes_agree_with_the_records_of_voc(sample: Index, real_data: Path) -> None:
    """VOC2007_records_test.mat was made from the official annotations by VOC's own MATLAB code."""
    records = scipy.io.loadmat(
        real_data / "hoiem_voc07/VOC2007_records_test.mat",
        squeeze_me=True,
        struct_as_record=False,
    )["rec"]
    test = sample.split("voc2007_test")
    wanted = set(test.images["image_id"])
    rows = [
        (int(record.filename[:6]), OFFICIAL_CLASSES.index(getattr(item, "class")), *item.bbox,
         bool(item.difficult), bool(item.truncated))
        for record in records
        if int(record.filename[:6]) in wanted
        for item in np.atleast_1d(record.objects)
    ]  # fmt: skip
    columns = ["image_id", "class_id", *BOX, "difficult", "truncated"]
    truth = pd.DataFrame(rows, columns=columns)
    truth[["x1", "y1"]] -= 1
    assert len(wanted) == 963
    assert len(truth) == len(test.objects) > 2000
    ours = test.objects[columns].sort_values(columns).to_numpy(float)
    np.testing.assert_array_equal(ours, truth.sort_values(columns).to_numpy(float))
