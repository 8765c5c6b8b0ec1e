from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from detransfer.console import InputError
from detransfer.data.index import BOX, FLAGS, Index, write_index
from detransfer.data.masks import VOID, encode_mask, read_mask
from detransfer.visualization.activations import central_mask
from tests.detection.rectangles import call
from tests.scripts.recordings import (
    RUNS,
    array,
    check_views,
    covered,
    label,
    outputs,
    seen,
    tiles,
    write_recipes,
    write_recording,
)
from tests.segmentation.scenes import write_scenes

IMAGES = 9


class World:
    """Recordings of three runs on scenes with masks; another index knows some objects' boxes."""

    def __init__(self, folder: Path, masks: bool = True, objects: bool = True) -> None:
        self.folder = folder
        whole = write_scenes(folder / "scenes", 1, IMAGES)
        if not masks:
            whole = replace(whole, images=whole.images.drop(columns="mask"))
        write_index(folder / "index", whole)
        self.index = whole.split("test")
        rng = np.random.default_rng(0)
        for name in RUNS:
            table = covered(self.index, name)
            table = table if masks else table[["image_id", "path"]]
            if not objects:
                table[["best_iou", "inside_share", "trough_iou"]] = np.nan
            maps = {"activation": 255 * rng.random((IMAGES, 3, 3))}
            write_recording(folder / "runs" / name, "scenes", table, maps)
        self.write_objects()

    def write_objects(self) -> None:
        """An index of four of the files under other ids: one, two, three and five objects."""
        images = self.index.images.iloc[:4].drop(columns="mask", errors="ignore")
        rows = [
            (number, 0, 0, 0, 8, 8, *[False] * len(FLAGS))
            for number, count in enumerate((1, 2, 3, 5))
            for _ in range(count)
        ]
        objects = pd.DataFrame(rows, columns=["image_id", "class_id", *BOX, *FLAGS])
        classes = self.index.classes
        boxed = Index(images.assign(image_id=range(4)), objects, classes, self.index.root)
        write_index(self.folder / "boxes", boxed)

    def draw(self, repository: Path, out: Path, *more: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        out.mkdir(exist_ok=True)
        view, _ = write_recipes(out)
        words = [str(self.folder / "runs" / name) for name in RUNS]
        words += ["--target", "scenes", str(self.folder / "index"), "test", view, *more]
        words += ["--contrast", "det", "cls", *outputs(out, "figure8")]
        call(repository / "scripts/figure8.py", words)
        return pd.read_csv(out / "figure8.csv"), pd.read_csv(out / "figure8_images.csv")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("maps"))


def test_the_table_has_means_differences_and_floors(
    repository: Path, world: World, tmp_path: Path
) -> None:
    more = ["--objects", str(world.folder / "boxes"), "--control", "det", "random"]
    with seen():
        table, _ = world.draw(repository, tmp_path, *more)
    rows = table.fillna({"baseline": ""}).set_index(["run", "baseline", "metric", "by"])
    rows = rows.sort_index()
    det = covered(world.index, "det")["best_iou"]
    mean = rows.loc[[("det", "", "best_iou", "all")], "mean"]
    assert float(mean.item()) == pytest.approx(100 * det.mean(), rel=1e-5)
    gap = rows.loc[[("det", "cls", "best_iou", "all")]].iloc[0]
    assert gap["mean"] == pytest.approx(100 * (det - 0.4).mean(), rel=1e-4)
    assert gap["ci_low"] < gap["mean"] < gap["ci_high"] and gap["images"] == IMAGES
    assert rows.loc[[("det", "random", "best_iou", "all")], "mean"].item() > 0
    own = table[table["baseline"].isna()]
    assert (own["floor"] == 25).all() and table["floor"][table["baseline"].notna()].isna().all()
    counts = rows.loc[[("cls", "", "best_iou", "objects")]]
    assert counts["low"].tolist() == [1, 2, 3, 5] and (counts["images"] == 1).all()
    assert "image_size" in set(table["by"]) and "object_share" in set(table["by"])


def test_images_are_chosen_by_rule(repository: Path, world: World, tmp_path: Path) -> None:
    _, chosen = world.draw(repository, tmp_path)
    assert chosen["chosen_as"].tolist() == ["largest gain"] * 2 + ["largest loss"] + ["random"] * 2
    ids = world.index.images["image_id"].tolist()
    assert chosen["image_id"].tolist()[:3] == [ids[-1], ids[-2], ids[0]]
    assert chosen["image_id"].is_unique and (chosen["candidates"] == IMAGES).all()
    assert chosen["gain"].iloc[0] == pytest.approx(100 * ((IMAGES - 1) / 20 - 0.1))
    with Image.open(tmp_path / "figure8.png") as picture:
        assert 2.5 * 300 < picture.width <= 3.3 * 300  # one column of a page


def test_equal_recordings_give_equal_files(repository: Path, world: World, tmp_path: Path) -> None:
    for name in ("a", "b"):
        world.draw(repository, tmp_path / name)
    for file in ("figure8.csv", "figure8_images.csv", "figure8.pdf", "figure8.png"):
        first, second = (tmp_path / name / file for name in ("a", "b"))
        assert first.read_bytes() == second.read_bytes(), file


def test_without_masks_the_table_says_so(repository: Path, tmp_path: Path) -> None:
    world = World(tmp_path, masks=False)
    table, chosen = world.draw(repository, tmp_path / "out")
    assert table["metric"].tolist() == ["none"] and "no masks" in table["note"].iloc[0]
    assert len(chosen) == 5 and (tmp_path / "out/figure8.png").is_file()
    maps = {name: np.load(tmp_path / "runs" / name / "activation.npy") for name in RUNS}
    distance = np.abs(maps["det"] - maps["cls"]).mean((1, 2))
    ids = world.index.images["image_id"].to_numpy()
    assert chosen["image_id"].iloc[0] == ids[distance.argmax()]


def test_without_an_object_in_any_mask_table_and_picture_say_so(
    repository: Path, tmp_path: Path
) -> None:
    world = World(tmp_path, objects=False)
    for path in (tmp_path / "scenes/images").glob("*_mask.png"):
        path.write_bytes(encode_mask(np.zeros_like(np.asarray(Image.open(path)))))
    with seen() as figures:
        table, chosen = world.draw(repository, tmp_path / "out")
    assert table["metric"].tolist() == ["none"] and "no object" in table["note"].iloc[0]
    (figure,) = figures
    rows = tiles(figure)
    assert [panel.get_title() for panel in rows[0]] == ["image", "cls", "det"]
    assert "no object" in label(figure)
    maps = {name: np.load(tmp_path / "runs" / name / "activation.npy") for name in RUNS}
    distance = np.abs(maps["det"] - maps["cls"]).mean((1, 2))
    assert chosen["gain"].iloc[0] == pytest.approx(distance.max(), rel=1e-5)
    assert rows[0, 0].get_ylabel() == f"largest\ngain\n+{distance.max():.1f}"


def test_the_picture_shows_each_image_with_its_own_maps(
    repository: Path, world: World, tmp_path: Path
) -> None:
    with seen() as figures:
        _, chosen = world.draw(repository, tmp_path)
    rows, ids = tiles(figures[0]), chosen["image_id"].tolist()
    check_views(world.index, ids, rows)
    iou = {name: 100 * covered(world.index, name)["best_iou"] for name in RUNS}
    titles = [f"{name}\nIoU {iou[name].mean():.1f}" for name in ("cls", "det")]
    assert [panel.get_title() for panel in rows[0]] == ["image", *titles]
    assert f"mean of {IMAGES} images" in label(figures[0])
    known = world.index.images["image_id"].tolist()
    paths = world.index.images["path"]
    for image_id, kind, row in zip(ids, chosen["chosen_as"], rows, strict=True):
        place = known.index(image_id)
        for name, panel in zip(("cls", "det"), row[1:], strict=True):
            truth = np.load(world.folder / "runs" / name / "activation.npy")[place]
            np.testing.assert_array_equal(array(panel), truth)
        gain = iou["det"][place] - iou["cls"][place]
        assert row[0].get_ylabel() == "\n".join([*kind.split(), f"{gain:+.1f}"])
        assert row[0].get_xlabel() == f"{image_id}: {Path(paths[place]).stem}"
        mask = read_mask(world.index.root / world.index.images["mask"][place], 3)
        truth = central_mask(mask, 48, 56)
        inside = np.argwhere((truth > 0) & (truth != VOID))
        for panel in row:
            outline = np.concatenate([p.vertices for p in panel.collections[0].get_paths()])
            near = np.abs(outline[:, None, ::-1] - inside[None]).max(2).min(1)
            assert near.max() <= 1, "the outline touches the object everywhere"
            for corner in (inside.min(0), inside.max(0)):
                assert np.abs(outline[:, ::-1] - corner).min(0).max() <= 1


def test_runs_that_cannot_be_compared_are_refused(
    repository: Path, world: World, tmp_path: Path
) -> None:
    words = [str(world.folder / "runs" / name) for name in RUNS]
    view, _ = write_recipes(tmp_path)
    target = ["--target", "scenes", str(world.folder / "index"), "test", view]
    made = outputs(tmp_path, "figure8")
    with pytest.raises(InputError, match=r"scenes: no two of its runs \(random, cls, det\)"):
        call(
            repository / "scripts/figure8.py",
            [*words, *target, "--contrast", "det", "other", *made],
        )
    table = covered(world.index, "det")
    maps = {"activation": np.zeros((IMAGES, 3, 3))}
    other = write_recording(tmp_path / "det", "scenes", table, maps, recipe="another")
    with pytest.raises(InputError, match="they differ in recipe"):
        call(
            repository / "scripts/figure8.py",
            [*words[:2], str(other), *target, "--contrast", "det", "cls", *made],
        )
    train = ["--target", "scenes", str(world.folder / "index"), "train", view]
    with pytest.raises(InputError, match=r"has images that .* does not"):
        call(repository / "scripts/figure8.py", [*words, *train, "--contrast", "det", "cls", *made])
