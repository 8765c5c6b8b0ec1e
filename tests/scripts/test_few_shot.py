from __future__ import annotations

from pathlib import Path

import pandas as pd
from PIL import Image

from tests.detection.rectangles import call
from tests.scripts.probe_runs import write_probe


def test_curves_are_in_the_order_of_their_counts(repository: Path, tmp_path: Path) -> None:
    paths = []
    for target in ("caltech256", "sun397"):
        for run in ("random", "coco"):
            for seed in (0, 1):
                values = {f"few_shot@{m}": 10.0 * m + seed for m in (1, 2, 10)}
                values |= {f"neighbours@{k}": 5.0 * k for k in (1, 5)}
                values |= {"top1": 90.0}
                paths.append(write_probe(tmp_path, "conv5", run, seed, values, target=target))
    files = [f"--{kind}={tmp_path / f'few_shot.{kind}'}" for kind in ("csv", "pdf", "png")]
    call(repository / "scripts/few_shot.py", [*map(str, paths), *files])
    table = pd.read_csv(tmp_path / "few_shot.csv")
    one = table[(table["target"] == "sun397") & (table["run"] == "coco")]
    assert one["curve"].tolist() == ["few_shot"] * 3 + ["neighbours"] * 2
    assert one["count"].tolist() == [1, 2, 10, 1, 5]
    assert one["mean"].tolist() == [10.5, 20.5, 100.5, 5.0, 25.0]
    assert one["std"].iloc[0] == 0.707107 and (one["n"] == 2).all()
    assert not (table["metric"] == "top1").any() and len(table) == 4 * 5
    with Image.open(tmp_path / "few_shot.png") as picture:
        picture.load()
        assert picture.width > 1.3 * picture.height  # two targets side by side, two kinds below
    assert (tmp_path / "few_shot.pdf").read_bytes().startswith(b"%PDF-")
