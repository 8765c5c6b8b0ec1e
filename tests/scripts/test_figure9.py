from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.detection.rectangles import call, write_rectangles
from tests.scripts.recordings import RUNS, masked, outputs, write_recipes, write_recording

IMAGES = 9
MAPS = {"maskout": np.linspace(1, 0, IMAGES * 16).reshape(IMAGES, 4, 4)}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two targets on one index: images with one to three rectangles."""
    folder = tmp_path_factory.mktemp("maps") / "world"
    index = write_rectangles(folder, test=IMAGES).split("test")
    for target in ("first", "second"):
        for name in RUNS if target == "first" else RUNS[1:]:
            write_recording(folder / target / name, target, masked(index, name), MAPS)
    return folder


def draw(repository: Path, world: Path, out: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    out.mkdir(exist_ok=True)
    words = [str(each) for target in ("first", "second") for each in (world / target).iterdir()]
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
    table, _ = draw(repository, world, tmp_path)
    table = table.fillna({"baseline": ""})
    gap = table[(table["run"] == "det") & (table["baseline"] == "cls")]
    gap = gap[gap["metric"] == "fragile_share"].set_index(["target", "by"]).sort_index()
    expected = 100 * (0.1 - np.arange(IMAGES) / 40)
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
    _, chosen = draw(repository, world, tmp_path)
    assert (chosen["candidates"] == IMAGES - 1).all() and (chosen["target"] == "first").all()
    ids = pd.read_parquet(world / "first/cls/images.parquet")["image_id"].tolist()
    assert chosen["image_id"].tolist()[:3] == [ids[-2], ids[-3], ids[0]]
    assert chosen["gain"].iloc[0] == pytest.approx(100 * ((IMAGES - 2) / 40 - 0.1))
    assert ids[-1] not in chosen["image_id"].tolist()


def test_equal_recordings_give_equal_files(repository: Path, world: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        draw(repository, world, tmp_path / name)
    for file in ("figure9.csv", "figure9_images.csv", "figure9.pdf", "figure9.png"):
        first, second = (tmp_path / name / file for name in ("a", "b"))
        assert first.read_bytes() == second.read_bytes(), file
