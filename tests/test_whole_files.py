"""Results are never half written: a reader sees the old file or the new one."""

from __future__ import annotations

import ast
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from detransfer.backbone import save_backbone
from detransfer.files import write_json
from detransfer.report.tables import write_table

SIZE = 200_000  # bytes of a file, about
NUMBERS = np.random.default_rng(0).random(SIZE // 20)
WRITERS: dict[str, Callable[[Path], None]] = {
    "metrics.json": lambda path: write_json(path, NUMBERS.tolist()),
    "table.csv": lambda path: write_table(path, pd.DataFrame({"x": NUMBERS.repeat(2)})),
    "model.safetensors": lambda path: save_backbone(
        path, {"a": torch.from_numpy(NUMBERS.repeat(3))}, {"pretraining": "x"}
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_fills_at_any_byte_leaves_the_old_file(tmp_path: Path, name: str) -> None:
    path, draw = tmp_path / name, random.Random(0)
    path.write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        for _ in range(20):  # Python ignores SIGXFSZ: to write more is an error, as on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (draw.randrange(SIZE // 2), before[1]))
            with pytest.raises(OSError, match="File too large"):
                WRITERS[name](path)
            assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    WRITERS[name](path)
    assert path.stat().st_size > SIZE / 2


WRITE = """
import sys
from pathlib import Path
from detransfer.files import write_json
number = 0
while True:
    number += 1
    write_json(Path(sys.argv[1]), [number] * 20_000)
"""


def test_sigkill_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    path, draw, seen = tmp_path / "x.json", random.Random(0), set()
    for _ in range(20):
        writer = subprocess.Popen([sys.executable, "-c", WRITE, str(path)])
        while not path.exists():
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.2))
        writer.kill()
        writer.wait()
        content = json.loads(path.read_text())
        assert len(content) == 20_000 and len(set(content)) == 1
        seen.add(content[0])
        path.unlink()
    assert len(seen) > 1, "no writer was stopped in the middle"


# What writes into folders that appear whole, or appends to a log.
ELSEWHERE = ("data/miniature/", "features/store.py", "training_log.py", "render_world.py")
WRITES = ("to_csv", "to_parquet", "savefig", "write_text", "write_bytes", "write_table", "save")


def test_every_result_is_written_under_a_temporary_name(repository: Path) -> None:
    """Whatever takes a path and writes is given the one that `atomic` yields, or a buffer."""
    found = 0
    for file in [*repository.glob("src/**/*.py"), *repository.glob("scripts/*.py")]:
        if any(part in str(file) for part in ELSEWHERE):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr not in WRITES:
                continue
            texts = {ast.unparse(each) for each in [node.func.value, *node.args]}
            found += 1
            assert texts & {"temporary", "buffer", "copy"} or node.func.attr == "save", (
                f"{file}:{node.lineno}: {ast.unparse(node)}"
            )
    assert found > 20
