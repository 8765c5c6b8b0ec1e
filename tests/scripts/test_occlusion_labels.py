"""Occlusion levels from the renderer and from the real release, back to the objects."""

from __future__ import annotations

import runpy
import shutil
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.io

from detransfer.console import InputError
from detransfer.data.index import Index, read_index, write_index
from detransfer.data.miniature.archives import write_archives
from detransfer.data.miniature.packing import Stream
from detransfer.data.miniature.scenes import Scene, render_scene
from detransfer.data.miniature.world import World, WorldRecipe, make_world
from detransfer.data.occlusion import read_occlusion
from detransfer.data.options.voc import Options
from detransfer.data.readers.voc import read
from tests.detection.voc_records import VOC_CLASSES, read_records

ARCHIVE = "detectionAnalysis_eccv12_v2.zip"
IMAGES = 40
SETS = {"test": "VOC2007/test"}


@pytest.fixture(scope="module")
def world() -> World:
    recipe = {"image_size": 64, "voc": {"classes": 3, "test2007": IMAGES}}
    return make_world(WorldRecipe.model_validate(recipe))


@pytest.fixture(scope="module")
def data(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the rendered release and the index of the images it is about."""
    folder = tmp_path_factory.mktemp("data")
    images = "VOCtest_06-Nov-2007.tar"
    write_archives(world, folder, [images, ARCHIVE])
    shutil.unpack_archive(folder / images, folder / "voc")
    options = Options(classes=tuple(spec.name for spec in world.voc), sets=SETS)
    write_index(folder / "index", read(folder / "voc", options))
    return folder


Label = Callable[..., np.ndarray]


@pytest.fixture
def label(repository: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Label:
    """The program: from a release and an index to the levels of the index's objects."""
    program = runpy.run_path(str(repository / "scripts/occlusion_labels.py"))

    def run(labels: Path = data / ARCHIVE, index: Path = data / "index") -> np.ndarray:
        output = tmp_path / "occlusion.parquet"
        options = {"labels": labels, "index": index, "split": "test", "output": output}
        words = [f"--{name}={value}" for name, value in options.items()]
        monkeypatch.setattr(sys, "argv", ["occlusion_labels.py", *words])
        program["main"]()
        return read_occlusion(output, read_index(index).split("test").objects)

    return run


def slow_level(scene: Scene, number: int) -> int:
    """Return the level of an object by counting its pixels that others cover."""
    item = scene.objects[number]
    mask = item.full_mask(*scene.instances.shape)
    hidden = (scene.instances[mask] != number).mean()
    side = min(item.box[2] - item.box[0], item.box[3] - item.box[1])
    if side < 8 or hidden > 0.7:
        return -1  # difficult
    return sum(bool(hidden >= limit) for limit in (0.01, 0.1, 0.5))


def test_levels_are_how_much_of_an_object_is_hidden(world: World, data: Path, label: Label) -> None:
    objects = read_index(data / "index").objects
    scenes = [render_scene(world, world.voc, Stream.VOC_TEST_2007, k) for k in range(IMAGES)]
    truth = {
        (item.class_id, *map(float, item.box)): slow_level(scene, number)
        for scene in scenes
        for number, item in enumerate(scene.objects)
    }
    assert len(truth) == len(objects), "two objects share class and box: take another seed"
    rows = objects[["class_id", "x1", "y1", "x2", "y2"]].itertuples(index=False)
    wanted = [truth[tuple(row)] for row in rows]
    assert label().tolist() == wanted and set(wanted) == {-1, 0, 1, 2, 3}


def test_a_part_of_the_images_and_classes_is_enough(
    data: Path, label: Label, tmp_path: Path
) -> None:
    index = read_index(data / "index")
    every = label()
    part = index.sample(15)
    kept = part.objects["class_id"] > 0
    few = replace(
        part,
        objects=part.objects[kept].assign(class_id=part.objects["class_id"] - 1),
        classes=index.classes.iloc[1:].assign(class_id=[0, 1]),
    )
    write_index(tmp_path / "few", few)
    inside = index.objects["image_id"].isin(part.images["image_id"])
    wanted = every[inside & (index.objects["class_id"] > 0)]
    assert label(index=tmp_path / "few").tolist() == wanted.tolist()


def unpacked(data: Path, folder: Path) -> Path:
    with zipfile.ZipFile(data / ARCHIVE) as archive:
        archive.extractall(folder)
    return folder


def test_a_class_without_labels_has_no_levels(data: Path, label: Label, tmp_path: Path) -> None:
    folder = unpacked(data, tmp_path / "release")
    next(folder.rglob("gt_ved_eyed_house.txt")).unlink()
    level = label(folder)
    objects = read_index(data / "index").objects
    assert (level[objects["class_id"] == 1] == -1).all() and (level >= 0).any()


def edit_lines(file: Path, change: Callable[[list[str]], list[str]]) -> None:
    file.write_text("".join(change(file.read_text().splitlines(keepends=True))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda lines: lines[:-1],
            r"gt_ved_flagged_fish\.txt: labels \d+ objects, but the rec",
        ),
        (
            lambda lines: [lines[0], *lines[:0:-1]],
            r"flagged_fish\.txt: line \d+ says \d+ pixels, but the box of this flagged_fish in im",
        ),
        (lambda lines: [lines[0], "0 0 4 9 1\n", *lines[2:]], "line 2: level 4 is not 0, 1, 2 or"),
        (lambda lines: [lines[0], "0 0\n", *lines[2:]], "line 2: expected 5 numbers"),
        (
            lambda lines: ["det conf size\n", *lines[1:]],
            "no column 'occ'; its columns are det",
        ),
        (lambda lines: [], "no column 'occ'"),
    ],
)
def test_labels_that_do_not_fit_the_records_are_refused(
    data: Path,
    label: Label,
    tmp_path: Path,
    change: Callable[[list[str]], list[str]],
    message: str,
) -> None:
    folder = unpacked(data, tmp_path / "release")
    edit_lines(next(folder.rglob("gt_ved_flagged_fish.txt")), change)
    with pytest.raises(InputError, match=message):
        label(folder)


def write_changed(folder: Path, index: Index, **tables: pd.DataFrame) -> Path:
    write_index(folder, replace(index, **tables))
    return folder


def test_records_that_do_not_fit_the_index_are_refused(
    data: Path, label: Label, tmp_path: Path
) -> None:
    index = read_index(data / "index")
    objects, images = index.objects, index.images
    first = Path(images["path"].iloc[0]).stem
    name = index.classes["name"].iloc[objects["class_id"].iloc[0]]
    fewer = write_changed(tmp_path / "a", index, objects=objects.iloc[1:])
    counts = rf"image {first}: the records have \d objects of class {name}, the index \d; the la"
    with pytest.raises(InputError, match=counts):
        label(index=fewer)
    for column, value in (("x1", objects["x1"] + 1), ("difficult", ~objects["difficult"])):
        other = write_changed(tmp_path / column, index, objects=objects.assign(**{column: value}))
        with pytest.raises(InputError, match=f"image {first}: boxes or flags of class .* differ"):
            label(index=other)
    renamed = images.assign(path=images["path"].replace(images["path"].iloc[0], "other.jpg"))
    with pytest.raises(InputError, match="image other: the records have 0 objects of class"):
        label(index=write_changed(tmp_path / "b", index, images=renamed))


def test_another_release_is_refused(label: Label, data: Path, tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_text("nothing")
    with pytest.raises(InputError, match=r"x\.zip: not a readable zip"):
        label(tmp_path / "x.zip")
    with pytest.raises(InputError, match=r"none: not a readable zip"):
        label(tmp_path / "none")
    folder = unpacked(data, tmp_path / "release")
    records = next(folder.rglob("*.mat"))
    records.write_bytes(records.read_bytes()[:200])
    with pytest.raises(InputError, match="release: not readable records of VOC"):
        label(folder)
    records.unlink()
    with pytest.raises(InputError, match=r"one VOC2007_records_test\.mat, found gt_ved_"):
        label(folder)


def test_the_rendered_records_have_the_official_fields(data: Path, tmp_path: Path) -> None:
    records = next(unpacked(data, tmp_path).rglob("*.mat"))
    record = scipy.io.loadmat(records, squeeze_me=True)["rec"][0]
    item = np.atleast_1d(record["objects"])[0]
    assert str(record["filename"]).endswith(".jpg") and int(record["size"]["width"]) > 0
    assert len(item["bbox"]) == 4 and int(item["truncated"]) in (0, 1)


@pytest.mark.real_data
def test_the_real_release_fits_the_real_objects(
    real_data: Path, label: Label, tmp_path: Path
) -> None:
    """Every level of the seven files arrives at an object of the area that its line names."""
    images, objects = read_records(real_data)
    classes = pd.DataFrame(
        {"class_id": range(20), "name": VOC_CLASSES, "source_id": "", "superclass": ""}
    )
    index = Index(images.assign(split="test"), objects, classes, tmp_path)
    write_index(tmp_path / "index", index)
    level = label(real_data / "hoiem_voc07", tmp_path / "index")
    sizes = ((objects["x2"] - objects["x1"]) * (objects["y2"] - objects["y1"])).to_numpy()
    labelled = 0
    for file in sorted((real_data / "hoiem_voc07").glob("gt_ved_*.txt")):
        class_id = VOC_CLASSES.index(file.stem.removeprefix("gt_ved_"))
        mine = (objects["class_id"] == class_id).to_numpy() & (level >= 0)
        lines = [line.split() for line in file.read_text().splitlines()[1:]]
        wanted = Counter((int(line[2]), float(line[-2])) for line in lines)
        assert Counter(zip(level[mine].tolist(), sizes[mine].tolist(), strict=True)) == wanted
        labelled += len(lines)
    assert (level >= 0).sum() == labelled == 2664
    assert not objects["difficult"].to_numpy()[level >= 0].any()


@pytest.mark.real_data
def test_the_real_release_fits_the_sample(real_data: Path, label: Label, tmp_path: Path) -> None:
    """The sample's images are a part of the records', read from XML files."""
    shutil.unpack_archive(real_data / "mirror/VOCtest_06-Nov-2007.tar", tmp_path / "voc")
    write_index(tmp_path / "index", read(tmp_path / "voc", Options(sets=SETS)))
    level = label(real_data / "hoiem_voc07", tmp_path / "index")
    assert np.bincount(level[level >= 0]).tolist() == [207, 53, 29, 3]
