"""The documentation builds without a warning, and a fault in it would stop the build."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow]


def build(configuration: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    return subprocess.run(
        [*command, "--config-file", str(configuration)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT / "mkdocs.yml", folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_generated_parts_are_there(site: Path) -> None:
    recipes = (site / "reference/recipes.html").read_text()
    assert "anchor_sizes" in recipes and "<!-- keys" not in recipes
    programs = (site / "reference/programs.html").read_text()
    for script in (ROOT / "scripts").glob("*.py"):
        assert f'id="{script.stem}"' in programs
        assert f"usage: {script.name}" in programs
    for picture in ("world", "dial", "distinctions"):
        assert (site / f"images/{picture}.png").stat().st_size > 10_000
    assert "semantic versioning" in (site / "changelog.html").read_text()


def test_pages_load_nothing_from_other_sites(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|img|iframe|link)[^>]+(?:src|href)="(https?:[^"]+)"', page.read_text()
        )
        assert loaded == [], page


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[there](nowhere.md)", "nowhere.md"),
        ("[there](other.md#nothing)", "nothing"),
        ("![a picture](none.png)", "none.png"),
    ],
)
def test_a_broken_link_would_stop_the_build(tmp_path: Path, text: str, fault: str) -> None:
    content = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    del content["hooks"], content["nav"], content["theme"]
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text(f"# Home\n\n{text}\n")
    (tmp_path / "docs/other.md").write_text("# Other\n")
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(content | {"theme": "mkdocs"}))
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode != 0 and fault in done.stderr
