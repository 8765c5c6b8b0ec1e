"""The reader of ImageNet's boxes on small layouts in both official forms."""

from __future__ import annotations

import gzip
import io
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detransfer.console import InputError
from detransfer.data.extract import Part, extract
from detransfer.data.index import BOX, read_index, write_index
from detransfer.data.readers import read_dataset
from detransfer.data.readers.imagenet_xml import frame_scale

A, B, C = "n00000011", "n00000022", "n00000033"
SIZE = (50, 40)


def box_xml(name: str, box: tuple[object, ...], extra: str = "") -> str:
    corners = "".join(
        f"<{tag}>{value}</{tag}>"
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{name}</name>{extra}<bndbox>{corners}</bndbox></object>"


def xml(objects: str, size: tuple[object, object] = SIZE) -> bytes:
    # the file name inside is a placeholder in some official files
    return (
        "<annotation><folder>x</folder><filename>%s</filename>"
        f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
        f"{objects}</annotation>"
    ).encode()


def jpeg(size: tuple[int, int] = SIZE, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, "JPEG")
    return buffer.getvalue()


def tar(files: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def boxes_of(wnid: str, files: dict[int, bytes]) -> bytes:
    """Return the archive of one synset as ImageNet packs it."""
    named = {f"Annotation/{wnid}/{wnid}_{n}.xml": content for n, content in files.items()}
    return tar(named, "w:gz")


def add(root: Path, wnid: str, number: int, objects: str, size: tuple[object, object] = SIZE):
    """Add an annotation as a file, and its image."""
    folder = root / "annotations" / wnid
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{wnid}_{number}.xml").write_bytes(xml(objects, size))
    add_image(root, wnid, number)


def add_image(root: Path, wnid: str, number: int, content: bytes | None = None) -> Path:
    path = root / "images" / wnid / f"{wnid}_{number}.JPEG"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg() if content is None else content)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two synsets with a good box each, as folders."""
    root = tmp_path / "imagenet_loc"
    add(root, A, 7, box_xml(A, (10, 5, 19, 29)))
    add(root, B, 3, box_xml(B, (0, 0, 49, 39)))
    return root


def test_the_official_archives_arrive_in_the_index(tmp_path: Path) -> None:
    flags = "<difficult>1</difficult><truncated>0</truncated>"
    annotations = {
        f"{B}.tar.gz": boxes_of(B, {3: xml(box_xml(B, (0, 0, 49, 39)) + box_xml(A, (1, 2, 3, 4)))}),
        f"{A}.tar.gz": boxes_of(
            A, {20: xml(box_xml(A, (10, 5, 50, 40), flags)), 9: xml(box_xml(A, (2.5, 3, 4, 7.25)))}
        ),
    }
    images = {
        f"{A}.tar": tar({f"{A}_{n}.JPEG": jpeg() for n in (9, 20, 21)}),
        f"{B}.tar": tar({f"{B}_3.JPEG": jpeg(mode="CMYK")}),
        f"{C}.tar": tar({f"{C}_1.JPEG": jpeg(mode="L")}),
    }
    (tmp_path / "fall11_whole.tar").write_bytes(tar(images))
    (tmp_path / "bboxes_annotations.tar.gz").write_bytes(tar(annotations, "w:gz"))
    root = tmp_path / "imagenet_loc"
    extract(
        [
            Part(tmp_path / "fall11_whole.tar", "images"),
            Part(tmp_path / "bboxes_annotations.tar.gz", "annotations"),
        ],
        root,
    )
    (root / "words.txt").write_bytes(f"{A}\tCafé, coffee bar\r\n{C}\tdog\r\n".encode())
    write_index(tmp_path / "index", read_dataset("imagenet_loc", root, {}))
    index = read_index(tmp_path / "index")
    assert index.images.to_dict("list") == {
        "image_id": [0, 1, 2],
        "path": [f"images/{A}/{A}_20.JPEG", f"images/{A}/{A}_9.JPEG", f"images/{B}/{B}_3.JPEG"],
        "width": [50] * 3,
        "height": [40] * 3,
        "split": ["train"] * 3,
    }
    assert index.classes.astype(str).to_numpy().tolist() == [
        ["0", "Café, coffee bar", A, ""],
        ["1", B, B, ""],
    ]
    assert index.objects["image_id"].tolist() == [0, 1, 2, 2]
    assert index.objects["class_id"].tolist() == [0, 0, 1, 0]
    # inclusive corners become half-open edges; an edge at the width is the border
    expected = [[10, 5, 50, 40], [2.5, 3, 5, 8.25], [0, 0, 50, 40], [1, 2, 4, 5]]
    np.testing.assert_array_equal(index.objects[BOX], expected)
    assert index.objects["difficult"].tolist() == [True, False, False, False]
    assert index.dropped == {}


def test_further_unpacked_forms_give_the_same(root: Path) -> None:
    plain = read_dataset("imagenet_loc", root, {})
    moved = root / "annotations" / "Annotation"
    moved.mkdir()
    (root / "annotations" / A).rename(moved / A)
    inner = root / "annotations" / B / "Annotation" / B
    content = (root / "annotations" / B / f"{B}_3.xml").read_bytes()
    inner.mkdir(parents=True)
    (inner / f"{B}_3.xml").write_bytes(content)
    (root / "annotations" / "readme.txt").write_text("hello")
    (moved / A / "._n00000011_7.xml").write_bytes(b"\0")  # macOS leaves such files
    assert read_dataset("imagenet_loc", root, {}).digest() == plain.digest()


def test_bad_objects_are_left_out_and_counted(root: Path) -> None:
    faults = [
        box_xml(A, (-1, 5, 19, 29)),
        box_xml(A, (10, 5, 51, 29)),
        box_xml(A, (50, 5, 50, 29)),
        box_xml(A, (10, 5, 10, 29)),
        box_xml(A, (19, 5, 10, 29)),
        box_xml(A, (10, 5, 4001, 29)),
        box_xml("kit fox", (10, 5, 19, 29)),
        box_xml(A, (10, 5, "x", 29)),
        box_xml(A, (10, 5, "nan", 29)),
        box_xml(A, (10, 5, 19, 29), "<truncated>yes</truncated>"),
        "<object/>",
    ]
    add(root, A, 8, "".join(faults) + box_xml(f" {A.upper()} ", (1, 1, 2, 2)))
    add(root, A, 9, faults[0])  # has no good box: the image is left out
    add(root, A, 10, box_xml(A, (1, 1, 2, 2)) * 2, (40, 50))
    (root / "annotations" / A / f"{A}_11.xml").write_bytes(xml(box_xml(A, (1, 1, 2, 2))))
    (root / "annotations" / A / f"{A}_12.xml").write_bytes(b"")
    add_image(root, A, 12)
    add(root, A, 13, box_xml(A, (1, 1, 2, 2)))
    add_image(root, A, 13, b"no image")
    index = read_dataset("imagenet_loc", root, {})
    assert index.dropped == {
        "annotation without image": 1,
        "coordinate above 4000": 1,
        "damaged annotation": 1,
        "damaged image": 1,
        "degenerate box": 2,
        "malformed object": 4,
        "outside the image": 4,
        "size of another shape": 2,
        "unknown class": 1,
    }
    assert [path[-7:] for path in index.images["path"]] == ["_7.JPEG", "_8.JPEG", "_3.JPEG"]
    assert index.objects[BOX].to_numpy().tolist()[1] == [1, 1, 3, 3]


@pytest.mark.parametrize(
    ("objects", "size", "message"),
    [
        (box_xml(A, (1, 5, 51, 29)), SIZE, "object 1 leaves the image: [1, 5, 51, 29] in 50 x 40"),
        (
            box_xml(A, (1, 1, 2, 2)) + box_xml(A, (9, 5, 2, 29)),
            SIZE,
            "object 2 has an empty or inverted box [9, 5, 2, 29]",
        ),
        (box_xml("n9", (1, 1, 2, 2)), SIZE, "object 1 is of class 'n9', which is not a known"),
        (box_xml(A, (1, 1, "", 2)), SIZE, "object 1 has <xmax> '', which should be a number"),
        (box_xml(A, (1, 1, 2, 2)), (40, 50), "says 40 x 50 pixels, but the image has 50 x 40"),
        ("<object>", SIZE, "malformed XML (mismatched tag"),
    ],
)
def test_under_fail_the_first_fault_is_named(
    root: Path, objects: str, size: tuple[int, int], message: str
) -> None:
    add(root, A, 8, objects, size)
    with pytest.raises(InputError) as caught:
        read_dataset("imagenet_loc", root, {"on_bad_object": "fail"})
    assert str(caught.value).startswith(f"{root}/annotations/{A}/{A}_8.xml: ")
    assert message in str(caught.value)


def test_stated_sizes_that_are_wrong(root: Path) -> None:
    add(root, A, 8, box_xml(A, (10, 5, 19, 29)), (0, 0))
    add(root, A, 9, box_xml(A, (10, 5, 19, 29)), ("", "?"))
    add(root, A, 10, box_xml(A, (20, 10, 39, 59)), (100, 80))  # annotated at twice the size
    add(root, A, 11, box_xml(A, (3, 1, 100, 81)), (101, 81))  # twice, and rounded
    index = read_dataset("imagenet_loc", root, {"on_bad_object": "fail"})
    places = index.images["path"].str.extract(r"_(\d+)\.JPEG")[0].tolist()
    boxes = dict(zip(places, index.objects[BOX].to_numpy().tolist(), strict=True))
    for place in ("7", "8", "9", "10"):
        assert boxes[place] == [10, 5, 20, 30]
    np.testing.assert_allclose(boxes["11"], [3 * 50 / 101, 40 / 81, 50, 40], rtol=1e-6)


def test_frame_scale() -> None:
    assert frame_scale((500, 375), (500, 375)) == (1, 1)
    assert frame_scale((0, 375), (500, 375)) == (1, 1)
    assert frame_scale((1000, 750), (500, 375)) == (0.5, 0.5)
    assert frame_scale((333, 500), (500, 333)) is None
    assert frame_scale((500, 400), (500, 375)) is None
    assert frame_scale((501, 375), (500, 375)) == (500 / 501, 1)


def test_classes_are_chosen_by_a_list_or_by_their_images(root: Path) -> None:
    add(root, A, 8, box_xml(A, (1, 1, 2, 2)) + box_xml(B, (1, 1, 2, 2)))
    (root / "list.txt").write_bytes(f"\ufeff{B}\r\n\r\n{A}\r\n".encode())
    index = read_dataset("imagenet_loc", root, {"classes": "list.txt"})
    assert index.classes["source_id"].tolist() == [B, A]
    assert index.objects["class_id"].tolist() == [1, 1, 0, 0]
    (root / "list.txt").write_text(B)
    index = read_dataset("imagenet_loc", root, {"classes": "list.txt"})
    assert index.images["path"].str.slice(-7).tolist() == ["_8.JPEG", "_3.JPEG"]
    assert index.objects["class_id"].tolist() == [0, 0]
    assert index.objects["image_id"].tolist() == index.images["image_id"].tolist() == [0, 1]
    assert index.dropped == {}  # a choice is no fault

    add(root, A, 9, box_xml(A, (1, 1, 2, 2)) + box_xml(A, (1, 1, 3, 3)))
    index = read_dataset("imagenet_loc", root, {"min_images": 3})  # images, not boxes
    assert index.classes["source_id"].tolist() == [A]
    with pytest.raises(InputError, match="no class has 4 images with a box; lower"):
        read_dataset("imagenet_loc", root, {"min_images": 4})


def test_bad_lists_are_named(root: Path) -> None:
    def fails(message: str, content: bytes, name: str = "list.txt") -> None:
        (root / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_dataset("imagenet_loc", root, {"classes": "list.txt"})

    fails(
        r"list\.txt: line 2: there are no boxes of synset 'n00000099'", f"{A}\nn00000099".encode()
    )
    fails(rf"list\.txt: line 2: '{A}' is in line 1 already", f"{A}\n{A}".encode())
    fails(r"list\.txt: the list of classes is empty", b"\n")
    fails(r"list\.txt: line 1: not UTF-8 text", b"\xe9")
    fails(r"words\.txt: line 1: expected '<WNID> tab <words>', got 'n00000011 dog'",
          f"{A} dog".encode(), "words.txt")  # fmt: skip
    fails(rf"words\.txt: line 2: {A} has two names", f"{A}\tdog\n{A}\tcat".encode(), "words.txt")
    with pytest.raises(InputError, match=r"there is no such list of classes"):
        (root / "words.txt").unlink()
        read_dataset("imagenet_loc", root, {"classes": "none.txt"})


def test_bad_folders_and_archives_are_named(root: Path) -> None:
    def fails(message: str) -> None:
        with pytest.raises(InputError, match=message):
            read_dataset("imagenet_loc", root, {})

    archive = root / "annotations" / f"{A}.tar.gz"
    whole = boxes_of(A, {7: xml(box_xml(A, (1, 1, 2, 2)))})
    archive.write_bytes(whole)
    fails(rf"synset {A} is also in .*annotations/{A}; keep one")
    for path in (root / "annotations" / A).iterdir():
        path.unlink()
    (root / "annotations" / A).rmdir()
    for damaged in (whole[:-30], b"", b"text", gzip.compress(b"x" * 2000)):
        archive.write_bytes(damaged)
        fails(rf"{A}\.tar\.gz: the archive is truncated or damaged")
    member = f"Annotation/{A}/{A}_7.xml"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as pack:
        for _ in range(2):
            pack.addfile(tarfile.TarInfo(member), io.BytesIO())
    archive.write_bytes(buffer.getvalue())
    fails(rf"{A}\.tar\.gz: has {A}_7\.xml twice")
    archive.unlink()
    (root / "images").rename(root / "elsewhere")
    fails(r"no image of images/ has a box in annotations/; are images and boxes extracted")
    (root / "annotations").rename(root / "gone")
    (root / "annotations").mkdir()
    fails(r"annotations: has no <WNID>\.tar\.gz and no folder <WNID>")
    (root / "annotations").rmdir()
    fails(r"annotations: there is no such folder; extract the boxes")


NUMBERS = st.one_of(
    st.integers(-3, 60), st.floats(-1, 60), st.sampled_from(["", "x", "nan", "inf", "1e300", "٣"])
)


@st.composite
def annotations(draw: st.DrawFn) -> bytes:
    objects = "".join(
        box_xml(
            draw(st.sampled_from([A, B, "é", ""])),
            draw(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS)),
            draw(st.sampled_from(["", "<difficult>1</difficult>", "<occluded>2</occluded>"])),
        )
        for _ in range(draw(st.integers(0, 4)))
    )
    size = draw(st.one_of(st.just(SIZE), st.tuples(NUMBERS, NUMBERS)))
    content = xml(objects, size)
    cut = draw(st.one_of(st.none(), st.integers(0, len(content))))
    head = draw(st.sampled_from([b"", b"<?xml version='1.0' encoding='latin-1'?>", b"\xff\xfe",
                                 b"<?xml version='1.0' encoding='none'?>"]))  # fmt: skip
    return head + content[:cut]


@settings(max_examples=40, deadline=None)
@given(annotations(), st.sampled_from(["fail", "drop"]))
def test_any_annotation_gives_an_index_or_a_readable_error(content: bytes, policy: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        add(root, A, 7, box_xml(A, (10, 5, 19, 29)))
        add_image(root, A, 8)
        (root / "annotations" / A / f"{A}_8.xml").write_bytes(content)
        try:
            index = read_dataset("imagenet_loc", root, {"on_bad_object": policy})
        except InputError as error:
            assert policy == "fail"
            assert f"{A}_8" in str(error)
        else:
            write_index(root / "index", index)
            assert (policy == "drop") or not index.dropped
