"""The ImageNet reader on a small official layout, from the tars on."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from detransfer.console import InputError
from detransfer.data.extract import Part, extract
from detransfer.data.index import read_index, write_index
from detransfer.data.readers import read_dataset

# (ILSVRC2012_ID, WNID, words, children, training images); ids are not in order of WNID
SYNSETS = [
    (1, "n02119789", "kit fox, Vulpes macrotis", 0, 3),
    (2, "n01440764", "tench, Tinca tinca", 0, 2),
    (3, "n04285008", "sports car, sport car", 0, 1),
    (4, "n00001740", "entity", 3, 0),
]
LABELS = [3, 1, 2, 2]
DEVKIT = "devkit/ILSVRC2012_devkit_t12/data"


def write_devkit(root: Path, synsets: list[tuple] = SYNSETS, labels: list[int] = LABELS) -> None:
    folder = root / DEVKIT
    folder.mkdir(parents=True, exist_ok=True)
    kinds = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object),
             ("num_children", object), ("num_train_images", object)]  # fmt: skip
    table = np.array(synsets, dtype=kinds).reshape(-1, 1)
    scipy.io.savemat(folder / "meta.mat", {"synsets": table})
    text = "".join(f"{label}\n" for label in labels)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text(text)


def jpeg(width: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, 9)).save(buffer, "JPEG")
    return buffer.getvalue()


def tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The extracted data set; the archives have the official form: tars in a tar, flat val."""
    train = {
        f"{wnid}.tar": tar({f"{wnid}_{10 * i}.JPEG": jpeg(10 + i) for i in range(count)})
        for _, wnid, _, children, count in SYNSETS
        if not children
    }
    val = {f"ILSVRC2012_val_{i:08d}.JPEG": jpeg(20 + i) for i in range(len(LABELS), 0, -1)}
    (tmp_path / "train.tar").write_bytes(tar(train))
    (tmp_path / "val.tar").write_bytes(tar(val))
    root = tmp_path / "imagenet_cls"
    extract([Part(tmp_path / "train.tar", "train"), Part(tmp_path / "val.tar", "val")], root)
    write_devkit(root)
    return root


def test_everything_arrives_in_the_index(root: Path, tmp_path: Path) -> None:
    write_index(tmp_path / "index", read_dataset("imagenet_cls", root, {}))
    index = read_index(tmp_path / "index")
    assert index.classes[["name", "source_id"]].to_numpy().tolist() == [
        ["tench, Tinca tinca", "n01440764"],
        ["kit fox, Vulpes macrotis", "n02119789"],
        ["sports car, sport car", "n04285008"],
    ]
    train = index.split("train").images
    assert train["path"].tolist() == [
        "train/n01440764/n01440764_0.JPEG",
        "train/n01440764/n01440764_10.JPEG",
        "train/n02119789/n02119789_0.JPEG",
        "train/n02119789/n02119789_10.JPEG",
        "train/n02119789/n02119789_20.JPEG",
        "train/n04285008/n04285008_0.JPEG",
    ]
    assert train["class_id"].tolist() == [0, 0, 1, 1, 1, 2]
    val = index.split("val").images
    assert val["path"].tolist() == [f"val/ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, 5)]
    assert val["class_id"].tolist() == [2, 1, 0, 0]
    assert val["width"].tolist() == [21, 22, 23, 24]
    assert index.images["image_id"].tolist() == list(range(10))
    assert index.objects.empty


def test_what_does_not_match_the_devkit_is_named(root: Path) -> None:
    def fails(message: str) -> None:
        with pytest.raises(InputError, match=message):
            read_dataset("imagenet_cls", root, {})
        write_devkit(root)

    write_devkit(root, labels=[3, 1, 2])
    fails(r"val: has 4 images, but ILSVRC2012_validation_ground_truth\.txt has 3 labels")
    write_devkit(root, labels=[3, 1, 4, 2])
    fails(r"ground_truth\.txt: line 3: '4' is not a class of meta\.mat")
    write_devkit(root, SYNSETS[1:])
    fails(r"train/n02119789: not a class of meta\.mat")
    write_devkit(root, [*SYNSETS, SYNSETS[0]])
    fails("two with one WNID")
    (root / DEVKIT / "meta.mat").write_bytes(b"MATLAB 5.0 MAT-file" + b"x" * 200)
    fails(r"meta\.mat: not a readable MAT-file")
    (root / DEVKIT / "meta.mat").unlink()
    fails(r"meta\.mat: there is no such file; is the archive whole")
    (root / DEVKIT / "ILSVRC2012_validation_ground_truth.txt").unlink()
    fails(r"ground_truth\.txt: there is no such list of labels")
    (root / "train/n01440764/n01440764_0.JPEG").unlink()
    fails(r"train/n01440764: has 1 images, but meta\.mat says 2")
    (root / "train/n01440764/n01440764_0.JPEG").write_bytes(b"")
    fails(r"n01440764_0\.JPEG: the file is empty")
    (root / "train").rename(root / "elsewhere")
    fails("train: there is no such folder; is the data set whole")
