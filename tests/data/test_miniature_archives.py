"""The archives: official layouts, read by official code; equal bytes; nothing leaks."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat
from scipy.stats import binom
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torchvision.datasets import imagenet

from detransfer.console import InputError
from detransfer.data.miniature import imagenet as writers
from detransfer.data.miniature.archives import ARCHIVES, write_archives
from detransfer.data.miniature.packing import comments as jpeg_comments
from detransfer.data.miniature.packing import encode_jpeg
from detransfer.data.miniature.recipe import WorldRecipe
from detransfer.data.miniature.scenes import render_classification
from detransfer.data.miniature.world import World, make_world

EACH = 40


def small(**keys: object) -> World:
    recipe = {
        "imagenet_cls": {"classes": 8, "train": EACH, "val": 3},
        "coco": {"classes": 6, "train": 30, "val": 8, "crowd_share": 0.3},
        "voc": {"classes": 4, "trainval2007": 12, "trainval2012": 6, "test2007": 9, "sbd": 4},
        "caltech": {"classes": 3, "images": 5},
        "openimages": {"classes": 4, "train": 6, "validation": 2, "test": 2},
        "imagenet_loc": {"classes": 9, "images": 2},
        "imagenet_det": {"val": 3},
        "sun397": {"classes": 3, "train": 2, "test": 2},
        "flowers102": {"classes": 3, "train": 1, "val": 1, "test": 1},
        **keys,
    }
    return make_world(WorldRecipe.model_validate(recipe))


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mirror")
    write_archives(small(), folder)
    return folder


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        files = [m for m in archive.getmembers() if m.isfile()]
        return {m.name: archive.extractfile(m).read() for m in files}  # type: ignore[union-attr]


def test_equal_recipes_give_equal_bytes(mirror: Path, tmp_path: Path) -> None:
    write_archives(small(), tmp_path)
    names = sorted(p.name for p in mirror.iterdir())
    assert names == sorted([*ARCHIVES, "SHA256SUMS"])
    assert [p.name for p in sorted(tmp_path.iterdir())] == names
    for name in names:
        assert (mirror / name).read_bytes() == (tmp_path / name).read_bytes(), name
    lines = (mirror / "SHA256SUMS").read_text().splitlines()
    assert [line.split("  ")[1] for line in lines] == list(ARCHIVES)
    for line in lines:
        digest, name = line.split("  ")
        assert hashlib.sha256((mirror / name).read_bytes()).hexdigest() == digest


def test_an_archive_does_not_depend_on_which_others_are_rendered(
    mirror: Path, tmp_path: Path
) -> None:
    chosen = ["val2017.zip", "benchmark.tgz", "words.txt", "setid.mat", "train_3.tar.gz"]
    write_archives(small(), tmp_path, chosen)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*chosen, "SHA256SUMS"])
    for name in chosen:
        assert (mirror / name).read_bytes() == (tmp_path / name).read_bytes(), name
    whole = set((mirror / "SHA256SUMS").read_text().splitlines())
    part = set((tmp_path / "SHA256SUMS").read_text().splitlines())
    assert part < whole and len(part) == len(chosen)
    with pytest.raises(InputError, match=r"no archive 'val2016.zip'.*val2017.zip"):
        write_archives(small(), tmp_path, ["val2016.zip"])


def test_a_stopped_run_leaves_no_half_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def stop(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) > 5:
            raise KeyboardInterrupt

    real = writers.render_classification
    monkeypatch.setattr(writers, "render_classification", lambda *a: (stop(*a), real(*a))[1])
    with pytest.raises(KeyboardInterrupt):
        write_archives(small(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_imagenet_is_read_by_torchvision(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in mirror.glob("ILSVRC2012_*"):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(imagenet, "_verify_archive", lambda *_: None)  # MD5 of the real archives
    train = imagenet.ImageNet(tmp_path, "train")
    validation = imagenet.ImageNet(tmp_path, "val")
    assert train.wnids == validation.wnids == sorted(train.wnids)
    assert train.classes[1] == ("wheeled house",)
    assert np.bincount(train.targets).tolist() == [EACH] * 8
    assert np.bincount(validation.targets).tolist() == [3] * 8
    for path, label in train.samples:
        assert re.fullmatch(rf"{train.wnids[label]}_\d+\.JPEG", Path(path).name)
    names = sorted(Path(path).name for path, _ in validation.samples)
    assert names == [f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, 25)]
    in_order = [label for path, label in sorted(validation.samples, key=lambda s: Path(s[0]).name)]
    assert in_order != sorted(in_order)


def test_imagenet_meta_has_the_internal_nodes_of_the_official_file(mirror: Path) -> None:
    content = members(mirror / "ILSVRC2012_devkit_t12.tar.gz")
    meta = loadmat(io.BytesIO(content["ILSVRC2012_devkit_t12/data/meta.mat"]), squeeze_me=True)
    synsets = meta["synsets"]
    assert synsets.dtype.names == ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children",
                                   "children", "wordnet_height", "num_train_images")  # fmt: skip
    assert synsets["ILSVRC2012_ID"].tolist() == list(range(1, 14))
    assert synsets["num_children"].tolist() == [0] * 8 + [2, 2, 2, 2, 4]
    assert synsets["wordnet_height"].tolist() == [0] * 8 + [1, 1, 1, 1, 2]
    assert synsets["num_train_images"].tolist() == [EACH] * 8 + [0] * 5
    assert np.concatenate(synsets["children"][8:12]).tolist() == [2, 6, 1, 5, 4, 8, 3, 7]
    assert synsets["children"][12].tolist() == [9, 10, 11, 12]
    assert len(set(synsets["WNID"])) == 13


def test_coco_is_read_by_pycocotools(mirror: Path, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    with zipfile.ZipFile(mirror / "annotations_trainval2017.zip") as archive:
        archive.extractall(tmp_path)
    seen: set[int] = set()
    for split in ("train2017", "val2017"):
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(tmp_path / "annotations" / f"instances_{split}.json"))
        with zipfile.ZipFile(mirror / f"{split}.zip") as archive:
            names = archive.namelist()
            for image in coco.dataset["images"]:
                content = archive.read(f"{split}/{image['file_name']}")
                assert Image.open(io.BytesIO(content)).size == (image["width"], image["height"])
        assert names == sorted(f"{split}/{i:012d}.jpg" for i in coco.imgs)
        assert sorted(coco.cats) == [1, 2, 3, 5, 6, 7]
        assert not seen & (set(coco.imgs) | {-k for k in coco.anns})
        seen |= set(coco.imgs) | {-k for k in coco.anns}
        assert {a["iscrowd"] for a in coco.anns.values()} == {0, 1}
        for annotation in coco.anns.values():
            mask = coco.annToMask(annotation).astype(bool)
            x, y, w, h = (int(v) for v in annotation["bbox"])
            outside = mask.copy()
            outside[y : y + h, x : x + w] = False
            assert not outside.any()
            # Holes (the ring of a handle) are filled in polygons, as annotators do.
            assert annotation["area"] <= 1.06 * mask.sum() + 6
            assert mask.sum() <= 1.25 * annotation["area"] + 6
            if annotation["iscrowd"]:
                assert mask.sum() == annotation["area"]
                assert mask[:, x].any() and mask[y].any()


def test_voc_layout_and_sets(mirror: Path) -> None:
    ids: dict[str, set[str]] = {}
    for name, year, sets in (
        ("VOCtrainval_06-Nov-2007.tar", 2007, {"train": 6, "val": 6, "trainval": 12}),
        ("VOCtest_06-Nov-2007.tar", 2007, {"test": 9}),
        ("VOCtrainval_11-May-2012.tar", 2012, {"train": 3, "val": 3, "trainval": 6}),
    ):
        files = members(mirror / name)
        root = f"VOCdevkit/VOC{year}"
        lists = {s: files[f"{root}/ImageSets/Main/{s}.txt"].decode().split() for s in sets}
        assert {s: len(v) for s, v in lists.items()} == sets
        whole = max(lists.values(), key=len)
        ids[name] = set(whole)
        expected = {f"{root}/ImageSets/Main/{s}.txt" for s in sets}
        if year == 2012:
            expected |= {f"{root}/ImageSets/Segmentation/{s}.txt" for s in sets}
            expected |= {f"{root}/Segmentation{k}/{i}.png" for k in ("Class", "Object")
                         for i in whole}  # fmt: skip
        expected |= {f"{root}/JPEGImages/{i}.jpg" for i in whole}
        assert set(files) == expected | {f"{root}/Annotations/{i}.xml" for i in whole}
        for i in whole:
            assert re.fullmatch(r"\d{6}" if year == 2007 else r"20(08|09|10|11)_\d{6}", i)
            xml = ElementTree.fromstring(files[f"{root}/Annotations/{i}.xml"])
            image = Image.open(io.BytesIO(files[f"{root}/JPEGImages/{i}.jpg"]))
            assert xml.findtext("folder") == f"VOC{year}"
            assert xml.findtext("filename") == f"{i}.jpg"
            assert xml.findtext("segmented") == str(int(year == 2012))
            assert image.size == tuple(int(xml.findtext(f"size/{k}", "")) for k in
                                       ("width", "height"))  # fmt: skip
    assert not ids["VOCtrainval_06-Nov-2007.tar"] & ids["VOCtest_06-Nov-2007.tar"]


def test_caltech_layout_ends_with_clutter(mirror: Path) -> None:
    files = members(mirror / "256_ObjectCategories.tar")
    names = ["001.aerial-fish", "002.crossed-house", "003.eared-bottle", "004.clutter"]
    assert list(files) == [
        f"256_ObjectCategories/{name}/{name[:3]}_{i:04d}.jpg" for name in names for i in range(1, 6)
    ]


def nuisances(data: bytes, number: int) -> list[float]:
    """Return what must not tell the label of a file: its bytes, size, number and border."""
    image = np.asarray(Image.open(io.BytesIO(data)), float)
    edges = (image[0], image[-1], image[:, 0], image[:, -1])
    border = np.concatenate(edges)
    colours = [statistic for edge in edges for statistic in edge.mean(0)]
    return [len(data), *image.shape[:2], number, *colours, *border.std(0)]


def imagenet_nuisances(mirror: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return :func:`nuisances` of the training images, (n, d), and the labels (n,)."""
    rows, labels = [], []
    for label, content in enumerate(members(mirror / "ILSVRC2012_img_train.tar").values()):
        with tarfile.open(fileobj=io.BytesIO(content)) as inner:
            for member in inner.getmembers():
                number = int(member.name.split("_")[1].split(".")[0])
                rows.append(nuisances(inner.extractfile(member).read(), number))  # type: ignore[union-attr]
                labels.append(label)
    return np.array(rows), np.array(labels)


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's scenes and flowers in full: enough images to see a leak."""
    folder = tmp_path_factory.mktemp("targets")
    names = ["SUN397.tar.gz", "102flowers.tgz", "imagelabels.mat"]
    write_archives(make_world(WorldRecipe()), folder, names)
    return folder


def flowers_nuisances(targets: Path) -> tuple[np.ndarray, np.ndarray]:
    labels = loadmat(targets / "imagelabels.mat")["labels"][0]
    files = members(targets / "102flowers.tgz").values()  # in order of number
    return np.array([nuisances(data, k) for k, data in enumerate(files)]), labels


def sun_nuisances(targets: Path) -> tuple[np.ndarray, np.ndarray]:
    """The border is part of a scene's composition and so a signal: it is left out here."""
    rows, names = [], []
    for path, data in members(targets / "SUN397.tar.gz").items():
        if path.endswith(".jpg"):
            letters = [ord(letter) for letter in Path(path).stem.removeprefix("sun_")[:3]]
            rows.append([*nuisances(data, 0)[:3], *letters])
            names.append(str(Path(path).parent))
    return np.array(rows, float), np.unique(names, return_inverse=True)[1]


def accuracy(features: np.ndarray, labels: np.ndarray, nearest: bool) -> tuple[float, float]:
    """Return the accuracy on a held-out half, and the 99.9 % bound of chance."""
    order = np.random.default_rng(0).permutation(len(labels))
    train, test = order[::2], order[1::2]
    model = KNeighborsClassifier(1) if nearest else LogisticRegression(max_iter=300)
    fitted = make_pipeline(StandardScaler(), model).fit(features[train], labels[train])
    chance = 1 / len(np.unique(labels))
    return (
        float((fitted.predict(features[test]) == labels[test]).mean()),
        float(binom.ppf(0.999, len(test), chance) / len(test)),
    )


@pytest.mark.parametrize("nearest", [False, True])
def test_border_size_number_and_bytes_say_nothing_of_the_label(mirror: Path, nearest: bool) -> None:
    features, labels = imagenet_nuisances(mirror)
    assert len(np.unique(features[:, 0])) == 1, "all files have one length"
    score, bound = accuracy(features, labels, nearest)
    assert score <= bound
    # The check has teeth: a border a little brighter for one class in two is found.
    planted = np.concatenate([features, 30 * (labels % 2)[:, None] + features[:, 4:5]], 1)
    assert accuracy(planted, labels, nearest=False)[0] > bound


@pytest.mark.parametrize("nearest", [False, True])
@pytest.mark.parametrize("extract", [flowers_nuisances, sun_nuisances])
def test_the_new_targets_leak_nothing(
    targets: Path, extract: Callable[[Path], tuple[np.ndarray, np.ndarray]], nearest: bool
) -> None:
    features, labels = extract(targets)
    assert len(np.unique(labels)) == 8 and len(labels) >= 240
    assert len(np.unique(features[:, 0])) == 1, "all files have one length"
    score, bound = accuracy(features, labels, nearest)
    assert score <= bound
    planted = np.concatenate([features, features[:, 1:2] + 20 * (labels % 2)[:, None]], 1)
    assert accuracy(planted, labels, nearest=False)[0] > bound


def test_the_border_survives_compression_untouched() -> None:
    world = small()
    for index in range(20):
        scene = render_classification(world, world.imagenet_cls[index % 8], 1, index)
        pair = [
            cv2.imdecode(np.frombuffer(encode_jpeg(image, 88, 20000), np.uint8), cv2.IMREAD_COLOR)
            for image in (scene.image, scene.background)
        ]
        different = (pair[0] != pair[1]).any(-1)
        assert different.any()
        different[8:-8, 8:-8] = False
        assert not different.any()


@pytest.mark.parametrize("length", [20_000, 70_000, 200_001])
def test_jpeg_files_have_the_length_asked_for(length: int) -> None:
    image = np.random.default_rng(0).integers(0, 255, (96, 128, 3)).astype(np.uint8)
    image = cv2.blur(image, (5, 5))
    content = encode_jpeg(image, 88, length)
    assert len(content) == length
    decoded = Image.open(io.BytesIO(content))
    assert decoded.format == "JPEG" and decoded.size == (128, 96)
    assert np.abs(np.asarray(decoded, float) - image).mean() < 6


def test_every_remainder_of_the_filler_is_valid() -> None:
    for free in [0, *range(4, 40), *range(65530, 65550), 131074]:
        comments = jpeg_comments(free)
        assert len(comments) == free
        while comments:
            assert comments[:2] == b"\xff\xfe"
            size = int.from_bytes(comments[2:4], "big")
            assert 2 <= size <= len(comments) - 2
            comments = comments[2 + size :]


def test_an_image_that_does_not_fit_loses_quality_and_then_is_refused() -> None:
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    assert len(encode_jpeg(image, 88, 5000)) == 5000
    with pytest.raises(ValueError, match="does not fit into 300 bytes"):
        encode_jpeg(image, 88, 300)


def test_categories_and_annotations_are_json_of_the_official_schema(mirror: Path) -> None:
    with zipfile.ZipFile(mirror / "annotations_trainval2017.zip") as archive:
        content = json.loads(archive.read("annotations/instances_val2017.json"))
    assert set(content) == {"info", "licenses", "images", "annotations", "categories"}
    assert set(content["annotations"][0]) == {
        "segmentation", "area", "iscrowd", "image_id", "bbox", "category_id", "id"
    }  # fmt: skip
    assert {c["supercategory"] for c in content["categories"]} == {
        "nature", "building", "vessel", "sign"
    }  # fmt: skip
