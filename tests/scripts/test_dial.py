"""The dial: numbers of probes at several contrasts, and a picture drawn from them."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from tests.scripts.probe_runs import top1, write_probe


def test_a_row_a_point_and_a_picture(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = []
    for contrast, value in (("1.00", 80.0), ("0.00", 9.0), ("0.25", 40.0)):
        for name in ("imagenet_cls", "coco"):
            file = write_probe(tmp_path / contrast, "conv5", name, 0, top1(value))
            words += ["--point", contrast, str(file.parent)]
    files = {kind: tmp_path / f"dial.{kind}" for kind in ("csv", "pdf", "png")}
    options = [word for kind, path in files.items() for word in (f"--{kind}", str(path))]
    monkeypatch.setattr(sys, "argv", ["dial.py", *words, *options])
    runpy.run_path(str(repository / "scripts" / "dial.py"), run_name="program")["main"]()
    table = pd.read_csv(files["csv"])
    coco = table[table["run"] == "coco"]
    assert coco["contrast"].tolist() == [0, 0.25, 1] and coco["value"].tolist() == [9, 40, 80]
    assert (table["floor"] == 10).all() and (table["images"] == 50).all() and len(table) == 6
    with Image.open(files["png"]) as picture:
        assert min(picture.size) > 500
    assert files["pdf"].read_bytes().startswith(b"%PDF-")
