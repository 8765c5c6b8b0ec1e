from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from detransfer.console import InputError
from tests.detection.rectangles import call
from tests.scripts.probe_runs import top1, write_probe

PAPERS = ["conv5", "conv_proj_14x14", "conv_proj_4x4", "conv_proj_2x2", "conv_proj_avg", "fc1",
          "fc2"]  # fmt: skip


def tabulate(repository: Path, folder: Path, paths: list[Path]) -> pd.DataFrame:
    published = repository / "config/published/table7.csv"
    output = folder / "table7.csv"
    words = [*map(str, paths), f"--published={published}", f"--output={output}"]
    call(repository / "scripts/table7.py", words)
    return pd.read_csv(output)


def test_layers_stand_from_entrance_to_exit_beside_the_papers(
    repository: Path, tmp_path: Path
) -> None:
    paths = [
        write_probe(tmp_path, layer, run, seed, top1(50 + number + seed), 2 ** (number + 1))
        for run in ("coco", "openimages")
        for number, layer in enumerate(PAPERS)
        for seed in (0, 2)
    ]
    table = tabulate(repository, tmp_path, paths)
    best = table[table["metric"] == "top1"]
    assert best["run"].tolist() == ["coco"] * 7 + ["openimages"] * 7
    assert best["feature"].tolist() == PAPERS * 2
    assert best["dimension"].tolist() == [2, 4, 8, 16, 32, 64, 128] * 2
    assert best["mean"].tolist() == [51.0 + number for number in range(7)] * 2
    assert (best["n"] == 2).all() and (best["images"] == 50).all()
    ours = best[best["run"] == "openimages"]
    assert ours["published"].tolist() == [76.7, 69.7, 72.4, 73.3, 74.1, 71.6, 70.0]
    difference = ours["mean"] - ours["published"]
    assert ours["difference"].tolist() == pytest.approx(difference.tolist(), abs=1e-4)
    assert best[best["run"] == "coco"]["published"].isna().all()
    rest = table[table["metric"] != "top1"]
    assert len(rest) == 28 and rest["published"].isna().all()


def test_heads_of_two_kinds_each_keep_their_order(repository: Path, tmp_path: Path) -> None:
    layers = {"imagenet_loc": ["conv5", "projection_avg", "hidden"],
              "coco": ["conv5", "conv_proj_7x7", "fc1"]}  # fmt: skip
    paths = [
        write_probe(tmp_path, layer, run, 0, top1(40.0))
        for run, own in layers.items()
        for layer in own
    ]
    table = tabulate(repository, tmp_path, paths)
    for run, own in layers.items():
        rows = table[(table["run"] == run) & (table["metric"] == "top1")]
        assert rows["feature"].tolist() == own
    missing = table[table["n"] == 0]
    assert (table["target"] == "caltech256").all() and table["run"].iloc[-1] == "openimages"
    assert missing["run"].unique().tolist() == ["openimages"] and len(missing) == 7
    assert missing.set_index("feature")["dimension"]["conv_proj_14x14"] == 50_176


def test_a_layer_that_was_not_measured_alike_is_refused(repository: Path, tmp_path: Path) -> None:
    paths = [
        write_probe(tmp_path, "fc1", "coco", 0, top1(40.0)),
        write_probe(tmp_path, "fc1", "coco", 1, top1(40.0), recipe="another"),
    ]
    with pytest.raises(InputError, match="differ in recipe"):
        tabulate(repository, tmp_path, paths)
