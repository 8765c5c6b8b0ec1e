"""The page to look around in the feature spaces: what is in it, and what a browser makes of it."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from detransfer.console import InputError
from detransfer.data.index import Index
from tests.detection.rectangles import call
from tests.features.spaces import CLASSES, IMAGES, RECIPE, write_features, write_images

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# What a visitor does, and what the page shows then; the answers stand in the page as JSON.
VISIT = """
<script>
addEventListener("load", () => {
  const report = {requests: performance.getEntriesByType("resource")
    .map(entry => entry.name).filter(name => !name.startsWith("data:"))};
  report.planes = ["name-left", "name-right"].map(id => document.getElementById(id).textContent);
  const canvas = document.getElementById("plane-left"), box = canvas.getBoundingClientRect();
  const [x, y] = place(data.spaces[state.left], 4, canvas.clientWidth);
  const where = {clientX: box.left + canvas.clientLeft + x, clientY: box.top + canvas.clientTop + y,
    bubbles: true};
  const tip = document.getElementById("tip");
  canvas.dispatchEvent(new PointerEvent("pointermove", where));
  report.hovered = [tip.style.display, tip.textContent];
  canvas.dispatchEvent(new PointerEvent("pointerleave", where));
  report.left = tip.style.display;
  canvas.dispatchEvent(new MouseEvent("click", where));
  const lists = () => ["near-left", "near-right"].map(id => [...document.querySelectorAll(
    `#${id} li button`)].map(button => button.title));
  report.hash = location.hash;
  report.near = lists();
  report.maps = ["near-left", "near-right"].map(id => [...document.querySelectorAll(
    `#${id} figure canvas`)].map(map => [...map.getContext("2d").getImageData(4, 4, 1, 1).data]));
  document.querySelector("#near-left li button").click();
  report.next = location.hash;
  const right = document.getElementById("right");
  right.value = "0";
  right.dispatchEvent(new Event("change"));
  report.alike = JSON.stringify(lists()[0]) === JSON.stringify(lists()[1]);
  canvas.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight", bubbles: true}));
  report.walked = location.hash;
  document.getElementById("theme").click();
  report.themes = [document.documentElement.dataset.theme,
    getComputedStyle(document.body).backgroundColor];
  report.wide = document.documentElement.scrollWidth <= innerWidth;
  document.body.append(Object.assign(document.createElement("pre"),
    {id: "report", textContent: JSON.stringify(report)}));
});
</script>
"""


class Page:
    """A page of two spaces, of which the second has maps of some images."""

    def __init__(self, folder: Path, repository: Path) -> None:
        self.folder, self.repository = folder, repository
        self.index: Index = write_images(folder)
        rng = np.random.default_rng(0)
        self.values = {n: np.float32(rng.normal(size=(IMAGES, 8))) for n in ("cls", "coco")}
        for name, values in self.values.items():
            write_features(folder / name, self.index, values)
            plane = self.index.images[["image_id", "class_id"]].assign(
                x=values[:, 0],
                y=values[:, 1],
                agreement_space=0.25,
                agreement_plane=0.5,
                problem="",
            )
            plane.to_parquet(folder / f"{name}.plane")
        (folder / "analysis.yaml").write_text(RECIPE)
        test = self.index.split("test").images
        maps = folder / "maps"
        maps.mkdir()
        test.iloc[2:].to_parquet(maps / "images.parquet")
        np.save(maps / "activation.npy", np.float32(rng.normal(size=(len(test) - 2, 3, 3)) + 9))
        np.save(maps / "maskout.npy", np.full((len(test) - 2, 5, 5), 1, np.float32))
        self.write()

    def write(self, split: str = "test") -> None:
        spaces = [
            word
            for name in self.values
            for word in ("--space", name, self.folder / name, self.folder / f"{name}.plane")
        ]
        words = [*spaces, "--maps", "coco", self.folder / "maps", "--start", "cls", "coco"]
        words += ["--index", self.folder / "index", "--split", split]
        words += ["--recipe", self.folder / "analysis.yaml"]
        words += ["--template", self.repository / "scripts/explorer.html"]
        words += ["--output", self.folder / "explorer.html"]
        call(self.repository / "scripts/explorer.py", [*map(str, words)])

    @property
    def text(self) -> str:
        return (self.folder / "explorer.html").read_text(encoding="utf-8")

    @property
    def data(self) -> dict[str, Any]:
        found = re.search(
            r'<script type="application/json" id="data">(.*?)</script>', self.text, re.S
        )
        assert found
        content: dict[str, Any] = json.loads(found[1])
        return content


@pytest.fixture(scope="module")
def page(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(tmp_path_factory.mktemp("explorer"), repository)


def numbers(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


def nearest(values: np.ndarray, row: int, rows: np.ndarray) -> list[int]:
    """The three rows nearest to a row, among some."""
    others = rows[rows != row]
    distance = ((values[others] - values[row]) ** 2).sum(1)
    found: list[int] = others[np.argsort(distance)[:3]].tolist()
    return found


def test_the_page_has_test_images_evenly_by_class_and_their_neighbours(page: Page) -> None:
    data, images = page.data, page.index.images
    rows = np.flatnonzero(images["image_id"].isin(data["ids"]))
    assert len(rows) == 12 and (images["split"][rows] == "test").all()
    assert np.bincount(images["class_id"][rows]).tolist() == [4, 4, 4]
    assert data["names"] == images["path"][rows].tolist() and data["classes"] == list(CLASSES)
    for space, values in zip(data["spaces"], page.values.values(), strict=True):
        places = numbers(space["places"], "<u2").reshape(12, 2)
        assert (np.argsort(places[:, 0]) == np.argsort(values[rows, 0])).all()
        assert places.min(0).tolist() == [0, 0] and places.max(0).tolist() == [65535, 65535]
        near = rows[numbers(space["nearest"], "<u2").reshape(12, 3)]
        assert near.tolist() == [nearest(values, row, rows) for row in rows]
        assert (space["agreement"], space["agreementPlane"]) == (25, 50)


def test_thumbnails_are_the_images(page: Page) -> None:
    (uri,) = page.data["sheets"]
    header, _, content = uri.partition(",")
    assert header == "data:image/jpeg;base64"
    path = page.folder / "sheet.jpg"
    path.write_bytes(base64.b64decode(content))
    with Image.open(path) as sheet:
        for place, name in enumerate(page.data["names"]):
            number = int(Path(name).stem)
            colour = np.array(sheet.getpixel((place * 16 + 8, 8)))
            assert np.abs(colour - [4 * number, 255 - 4 * number, 128]).max() < 25


def test_maps_are_those_of_their_images(page: Page) -> None:
    cls, coco = page.data["spaces"]
    assert cls["maps"] == {}
    known = page.index.split("test").images["image_id"].iloc[2:].tolist()
    written = np.load(page.folder / "maps/activation.npy")
    shown = coco["maps"]["activation"]
    values = numbers(shown["values"], "u1").reshape(-1, 3, 3)
    for image_id, row in zip(page.data["ids"], shown["rows"], strict=True):
        if image_id not in known:
            assert row == -1
            continue
        truth = written[known.index(image_id)]
        scaled = 255 * (truth - truth.min()) / (truth.max() - truth.min())
        assert np.abs(values[row] - scaled).max() <= 0.5
    assert (numbers(coco["maps"]["maskout"]["values"], "u1") == 255).all()


def test_the_page_asks_nothing_of_any_other_place(page: Page) -> None:
    template = (page.repository / "scripts/explorer.html").read_text()
    assert "default-src 'none'; img-src data:" in template
    assert not re.search(r"https?://|src=|href=|@import|fetch\(|XMLHttp", template)


@pytest.mark.slow
def test_a_space_without_a_plane_says_why(repository: Path, tmp_path: Path) -> None:
    page = Page(tmp_path, repository)
    table = pd.read_parquet(tmp_path / "coco.plane")
    nothing = dict.fromkeys(("x", "y", "agreement_space", "agreement_plane"), np.nan)
    table.assign(**nothing, problem="all alike").to_parquet(tmp_path / "coco.plane")
    page.write()
    assert page.data["spaces"][1]["agreement"] is None
    seen = visit(page, "--window-size=1200,900")
    assert seen["planes"][0].startswith("cls" + "neighbours of one class: 25 %")
    assert seen["planes"][1] == "coco" + "no plane: all alike"
    assert [len(near) for near in seen["near"]] == [3, 0]


def test_a_split_without_images_is_refused(page: Page) -> None:
    with pytest.raises(InputError, match="no image of split 'val'"):
        page.write("val")


def visit(page: Page, *options: str) -> dict[str, Any]:
    """Open the page in a browser, do what a visitor does, and return what was seen."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    visited = page.folder / "visited.html"
    visited.write_text(page.text.replace("</body>", f"{VISIT}</body>"), encoding="utf-8")
    words = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000"]
    words += [f"--user-data-dir={page.folder / 'profile'}", *options, "--dump-dom"]
    result = subprocess.run(
        [*words, visited.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    found = re.search(r'<pre id="report">(.*?)</pre>', result.stdout, re.S)
    assert found, result.stderr[-2000:]
    report: dict[str, Any] = json.loads(found[1].replace("&amp;", "&"))
    return report


@pytest.mark.slow
@pytest.mark.parametrize("size", ["1200,900", "500,900"])  # a desk, and the narrowest window
def test_a_visit_by_browser(page: Page, size: str) -> None:
    seen = visit(page, f"--window-size={size}")
    data, images = page.data, page.index.images
    rows = np.flatnonzero(images["image_id"].isin(data["ids"]))
    row = rows[4]
    name = CLASSES[images["class_id"][row]] + images["path"][row]
    assert seen["requests"] == []
    assert seen["hovered"] == ["block", name] and seen["left"] == "none"
    assert seen["hash"] == f"#left=cls&right=coco&image={images['image_id'][row]}"
    truth = [nearest(values, row, rows) for values in page.values.values()]
    assert seen["near"] == [images["path"][near].tolist() for near in truth]
    assert [len(maps) for maps in seen["maps"]] == [0, 2]
    assert (
        seen["maps"][1][1][0] > seen["maps"][1][1][2]
    )  # probability 1 is yellow: more red than blue
    assert seen["next"].endswith(f"image={images['image_id'][truth[0][0]]}")
    assert seen["alike"] and seen["walked"] != seen["next"]
    assert seen["themes"] == ["dark", "rgb(22, 24, 27)"]
    assert seen["wide"]  # nothing sticks out to the side
