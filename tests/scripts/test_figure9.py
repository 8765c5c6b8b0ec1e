from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from detransfer.data.index import read_index
from tests.detection.rectangles import call, write_rectangles
from tests.scripts.recordings import (
    RUNS,
    array,
    check_views,
    label,
    masked,
    outputs,
    seen,
    tiles,
    write_recipes,
    write_recording,
)

IMAGES = 9
STARTS, STOPS = (0, 11, 23, 35), (13, 25, 37, 48)  # squares of 14 every 12 pixels of 48


def maps(name: str) -> np.ndarray:
    """Maps (n, 4, 4) that differ by run and image, each with its least value somewhere else."""
    number = RUNS.index(name)
    found = 0.5 + np.random.default_rng(number).random((IMAGES, 4, 4)) / 2
    for image in range(IMAGES):
        found[image][worst(name, image)] = 0.05 * number + 0.01 * image
    return found


def worst(name: str, image: int) -> tuple[int, int]:
    """Row and column of the square that harms a run most."""
    row, column = divmod(image + 3 * RUNS.index(name), 4)
    return row % 4, (column + 1) % 4


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two targets on one index: images with one to three rectangles."""
    folder = tmp_path_factory.mktemp("maps") / "world"
    index = write_rectangles(folder, test=IMAGES).split("test")
    for target in ("first", "second"):
        for name in RUNS if target == "first" else RUNS[1:]:
            write_recording(
                folder / target / name, target, masked(index, name), {"maskout": maps(name)}
            )
    return folder


def draw(repository: Path, world: Path, out: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    out.mkdir(exist_ok=True)
    places = [world / target / name for target in ("first", "second") for name in RUNS]
    words = [str(place) for place in places if place.is_dir()]
    for target in ("first", "second"):
        words += ["--target", target, str(world / "index"), "test"]
    words += ["--contrast", "det", "cls", "--control", "cls", "random"]
    call(
        repository / "scripts/figure9.py",
        [*words, *write_recipes(out), *outputs(out, "figure9")],
    )
    return pd.read_csv(out / "figure9.csv"), pd.read_csv(out / "figure9_images.csv")


def test_the_table_has_every_target_and_the_images_both_get_right(
    repository: Path, world: Path, tmp_path: Path
) -> None:
    with seen():
        table, _ = draw(repository, world, tmp_path)
    table = table.fillna({"baseline": ""})
    gap = table[(table["run"] == "det") & (table["baseline"] == "cls")]
    gap = gap[gap["metric"] == "fragile_share"].set_index(["target", "by"]).sort_index()
    expected = 100 * (0.08 - np.arange(IMAGES) / 40)
    for target in ("first", "second"):
        assert gap.loc[[(target, "all")], "mean"].item() == pytest.approx(expected.mean())
        right = gap.loc[[(target, "right")]].iloc[0]
        assert right["images"] == IMAGES - 1
        assert right["mean"] == pytest.approx(expected[:-1].mean())
    assert {"image_size", "object_share", "objects"} <= set(table["by"])
    counts = table[(table["by"] == "objects") & (table["run"] == "cls")]
    counts = counts[(counts["baseline"] == "") & (counts["metric"] == "probability")]
    assert counts.groupby("target")["images"].sum().tolist() == [IMAGES, IMAGES]
    controls = table[(table["run"] == "cls") & (table["baseline"] == "random")]
    assert set(controls["target"]) == {"first"}


def test_images_are_chosen_among_those_that_all_get_right(
    repository: Path, world: Path, tmp_path: Path
) -> None:
    with seen():
        _, chosen = draw(repository, world, tmp_path)
    assert (chosen["candidates"] == IMAGES - 1).all() and (chosen["target"] == "first").all()
    ids = pd.read_parquet(world / "first/cls/images.parquet")["image_id"].tolist()
    assert chosen["image_id"].tolist()[:3] == [ids[-2], ids[-3], ids[0]]
    assert chosen["gain"].iloc[0] == pytest.approx(100 * ((IMAGES - 2) / 40 - 0.08))
    assert ids[-1] not in chosen["image_id"].tolist()


def test_the_picture_shows_each_image_with_its_own_maps_and_square(
    repository: Path, world: Path, tmp_path: Path
) -> None:
    with seen() as figures:
        _, chosen = draw(repository, world, tmp_path)
    index = read_index(world / "index").split("test")
    rows, ids = tiles(figures[0]), chosen["image_id"].tolist()
    check_views(index, ids, rows)
    fragile = {name: 100 * masked(index, name)["fragile_share"] for name in RUNS}
    titles = [f"{name}\nfragile {fragile[name].mean():.1f} %" for name in ("cls", "det")]
    assert [panel.get_title() for panel in rows[0]] == ["image", *titles]
    assert f"mean of {IMAGES} images" in label(figures[0])
    known, name = index.images["image_id"].tolist(), index.classes["name"][0]
    for image_id, kind, row in zip(ids, chosen["chosen_as"], rows, strict=True):
        place = known.index(image_id)
        for run, panel in zip(("cls", "det"), row[1:], strict=True):
            np.testing.assert_array_equal(array(panel), maps(run)[place].astype(np.float32))
        top, left = worst("cls", place)
        for square in row[0].patches:
            assert square.get_xy() == (STARTS[left] - 0.5, STARTS[top] - 0.5)
            assert square.get_width() == STOPS[left] - STARTS[left]
            assert square.get_height() == STOPS[top] - STARTS[top]
        assert len(row[0].patches) == 2  # black under white
        gain = fragile["cls"][place] - fragile["det"][place]
        assert row[0].get_ylabel() == "\n".join([*kind.split(), f"{gain:+.1f}"])
        stem = Path(index.images["path"][place]).stem
        assert row[0].get_xlabel() == f"{image_id}: {stem}, {name}"


def test_equal_recordings_give_equal_files(repository: Path, world: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        draw(repository, world, tmp_path / name)
    for file in ("figure9.csv", "figure9_images.csv", "figure9.pdf", "figure9.png"):
        first, second = (tmp_path / name / file for name in ("a", "b"))
        assert first.read_bytes() == second.read_bytes(), file
