"""The page to look around in the feature spaces: what is in it, and what a browser shows of it."""

from __future__ import annotations

import base64
import io
import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from detransfer.console import InputError
from detransfer.data.index import Index
from detransfer.features.recipe import AnalysisRecipe
from detransfer.features.store import open_features
from detransfer.strict import load_file
from tests.detection.rectangles import call
from tests.features.spaces import CLASSES, IMAGES, RECIPE, write_features, write_images

SHOWN, MAPPED, NEAR = 21, 9, 3  # more dots than thumbnails in a row
# No two images look alike.
COLOURS = np.array(np.unravel_index(np.arange(IMAGES), (4, 4, 4))).T * 80 + 8
CLASS_COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115))  # of the three largest classes
MARGIN = 12  # pixels between a plane's border and its outermost images


class Page:
    """A page of two spaces, of which the second has maps of some images."""

    def __init__(self, folder: Path, repository: Path) -> None:
        self.folder, self.repository = folder, repository
        self.index: Index = write_images(folder)
        for path, colour in zip(self.index.images["path"], COLOURS, strict=True):
            Image.new("RGB", (40, 30), tuple(map(int, colour))).save(self.index.root / path)
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
        recipe = RECIPE.replace("images: 12, thumbnail: 16", f"images: {SHOWN}, thumbnail: 32")
        (folder / "analysis.yaml").write_text(recipe)
        maps = folder / "maps"
        maps.mkdir()
        self.mapped = np.flatnonzero(self.index.images["split"] == "test")[-MAPPED:]
        self.index.images.iloc[self.mapped].to_parquet(maps / "images.parquet")
        # The brightest of nine cells, and the one probability, tell the maps apart.
        peaks = np.eye(9, dtype=np.float32)[np.arange(MAPPED)].reshape(-1, 3, 3)
        np.save(maps / "activation.npy", 200 * peaks + rng.random(peaks.shape) + 9)
        flat = np.linspace(0, 1, MAPPED, dtype=np.float32)
        np.save(maps / "maskout.npy", np.broadcast_to(flat[:, None, None], (MAPPED, 5, 5)))
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
    def rows(self) -> np.ndarray:
        """The rows of the images that have a dot."""
        return np.flatnonzero(self.index.images["image_id"].isin(self.data["ids"]))

    @property
    def known(self) -> list[int]:
        """The rows of all images on the page, those without a dot last."""
        paths = self.index.images["path"].tolist()
        return [paths.index(name) for name in self.data["names"]]

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


def nearest(values: np.ndarray, row: int) -> list[int]:
    """The rows nearest to a row, among all, by brute force."""
    distance = ((values - values[row]) ** 2).sum(1)
    distance[row] = np.inf
    found: list[int] = np.argsort(distance)[:NEAR].tolist()
    return found


def which(colour: np.ndarray) -> int:
    """The image of a colour, as exactly as JPEG keeps it."""
    far = np.abs(COLOURS - colour[:3].astype(int)).max(1)
    assert far.min() < 20, colour
    return int(far.argmin())


def test_the_page_has_test_images_evenly_by_class_and_their_neighbours(page: Page) -> None:
    data, images, rows = page.data, page.index.images, page.rows
    assert len(rows) == SHOWN and (images["split"][rows] == "test").all()
    assert np.bincount(images["class_id"][rows]).tolist() == [7, 7, 7]
    assert set(page.mapped) < set(rows)  # images with maps first
    assert page.known[:SHOWN] == rows.tolist() and data["classes"] == list(CLASSES)
    found = [{*nearest(values, row)} for values in page.values.values() for row in rows]
    assert {*page.known[SHOWN:]} == set.union(*found) - {*rows}
    assert any(images["split"][row] == "train" for row in page.known), "of all images"
    assert [data["classes"][kind] for kind in data["classOf"]] == [
        CLASSES[kind] for kind in images["class_id"][page.known]
    ]
    for space, values in zip(data["spaces"], page.values.values(), strict=True):
        places = numbers(space["places"], "<u2").reshape(-1, 2)
        assert (np.argsort(places[:, 0]) == np.argsort(values[page.known, 0])).all()
        assert places.min(0).tolist() == [0, 0] and places.max(0).tolist() == [65535, 65535]
        near = np.array(page.known)[numbers(space["nearest"], "<u4").reshape(SHOWN, NEAR)]
        assert near.tolist() == [nearest(values, row) for row in rows]
        assert (space["agreement"], space["agreementPlane"]) == (25, 50)


def test_thumbnails_are_the_images(page: Page) -> None:
    """Those of images without a dot have half the side, on a sheet of their own."""
    for uri, rows, side in zip(
        page.data["sheets"], (page.known[:SHOWN], page.known[SHOWN:]), (32, 16), strict=True
    ):
        header, _, content = uri.partition(",")
        assert header == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(content))) as sheet:
            assert sheet.size == (16 * side, 16 * side)
            pixels = np.asarray(sheet)
        for place, row in enumerate(rows):
            down, across = divmod(place, 16)
            middle = pixels[down * side + side // 2, across * side + side // 2]
            assert which(middle) == row
    assert page.data["pictured"] == len(page.known)


def test_what_is_near_most_often_keeps_its_picture(page: Page) -> None:
    program = runpy.run_path(str(page.repository / "scripts/explorer.py"))
    program["page_data"].__globals__["ADDED"] = 5
    spaces = {
        name: (open_features(page.folder / name), pd.read_parquet(page.folder / f"{name}.plane"))
        for name in page.values
    }
    look = load_file(page.folder / "analysis.yaml", AnalysisRecipe).explorer
    data = program["page_data"](spaces, page.index, "test", look, set())
    assert data["pictured"] == SHOWN + 5
    paths = page.index.images["path"].tolist()
    known = [paths.index(name) for name in data["names"]]
    near = [row for v in page.values.values() for each in known[:SHOWN] for row in nearest(v, each)]
    times = [near.count(row) for row in known[SHOWN:]]
    assert times == sorted(times, reverse=True) and times[0] > times[-1] > 0
    assert {*near} == {*known[SHOWN:]} | ({*near} & {*known[:SHOWN]}), "all have a name"


def test_maps_are_those_of_their_images(page: Page) -> None:
    cls, coco = page.data["spaces"]
    assert cls["maps"] == {}
    known = page.index.images["image_id"].iloc[page.mapped].tolist()
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
    flat = numbers(coco["maps"]["maskout"]["values"], "u1").reshape(MAPPED, 25)
    assert (flat == np.round(np.linspace(0, 255, MAPPED))[:, None]).all()


def test_the_page_asks_nothing_of_any_other_place(page: Page) -> None:
    template = (page.repository / "scripts/explorer.html").read_text()
    assert "default-src 'none'; img-src data:" in template
    assert not re.search(r"https?://|src=|href=|@import|fetch\(|XMLHttp", template)


def test_a_split_without_images_is_refused(page: Page) -> None:
    with pytest.raises(InputError, match="no image of split 'val'"):
        page.write("val")


class Visit:
    """The page in a browser: what is seen, and a mouse to point with."""

    def __init__(self, browser: Any, page: Page, width: int) -> None:
        self.page, self.wanted, self.complaints = page, [], []
        self.tab = browser.new_page(viewport={"width": width, "height": 1800}, color_scheme="light")
        self.tab.on("request", lambda request: self.wanted.append(request.url))
        self.tab.on("console", lambda message: self.complaints.append(message.text))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.goto((page.folder / "explorer.html").as_uri())

    def shot(self, selector: str, order: int = 0) -> np.ndarray:
        """The pixels (h, w, 3) of an element, as they are seen."""
        picture = self.tab.locator(selector).nth(order).screenshot()
        return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))

    def middle(self, selector: str, order: int = 0) -> np.ndarray:
        pixels = self.shot(selector, order)
        found: np.ndarray = pixels[len(pixels) // 2, len(pixels[0]) // 2]
        return found

    def dots(self, side: str, name: str) -> dict[int, tuple[float, float]]:
        """Where, in a plane, the images with a place stand, by the row of the image."""
        box = self.tab.locator(f"#plane-{side}").bounding_box()
        plane = self.page.values[name][self.page.known, :2]
        share = (plane - plane.min(0)) / (plane.max(0) - plane.min(0))
        width = box["width"] - 2 - 2 * MARGIN  # between borders of one pixel
        x, y = 1 + MARGIN + share[:, 0] * width, 1 + MARGIN + (1 - share[:, 1]) * width
        return dict(zip(self.page.known, zip(x, y, strict=True), strict=True))

    def point(self, side: str, spot: tuple[float, float], click: bool = False) -> None:
        """Move the mouse to a spot of a plane, and press it."""
        self.tab.locator(f"#plane-{side}").scroll_into_view_if_needed()
        box = self.tab.locator(f"#plane-{side}").bounding_box()
        act = self.tab.mouse.click if click else self.tab.mouse.move
        act(box["x"] + float(spot[0]), box["y"] + float(spot[1]))

    def near(self, side: str) -> list[int]:
        """The images whose thumbnails stand under a plane."""
        thumbs = f"#near-{side} li .thumb"
        return [which(self.middle(thumbs, n)) for n in range(self.tab.locator(thumbs).count())]

    @property
    def address(self) -> str:
        """What the page keeps in its address, as it is now: the tab's own copy comes later."""
        found: str = self.tab.evaluate("location.hash")
        return found

    @property
    def chosen(self) -> int:
        """The image that the address names."""
        found = re.search(r"image=(\d+)", self.address)
        assert found
        return self.page.index.images["image_id"].tolist().index(int(found[1]))


@pytest.fixture
def visit(browser: Any, page: Page, request: pytest.FixtureRequest) -> Iterator[Visit]:
    opened = Visit(browser, page, getattr(request, "param", 1200))
    yield opened
    assert opened.complaints == []
    elsewhere = [url for url in opened.wanted if not url.startswith("data:")]
    assert {*elsewhere} == {(page.folder / "explorer.html").as_uri()}
    root = "document.documentElement"
    assert opened.tab.evaluate(f"{root}.scrollWidth <= {root}.clientWidth"), "nothing sticks out"
    opened.tab.close()


def test_dots_are_drawn_and_show_their_images(visit: Visit, page: Page) -> None:
    classes = page.index.images["class_id"]
    for side, name in (("left", "cls"), ("right", "coco")):
        seen, dots = visit.shot(f"#plane-{side}"), visit.dots(side, name)
        free = np.ones(seen.shape[:2], bool)
        for row in page.rows:
            x, y = dots[row]
            apart = [np.hypot(x - dots[other][0], y - dots[other][1]) for other in page.rows]
            if sorted(apart)[1] > 14:
                assert tuple(seen[round(y), round(x)]) == CLASS_COLOURS[classes[row]]
            free[max(round(y) - 8, 0) : round(y) + 9, max(round(x) - 8, 0) : round(x) + 9] = False
        for row in page.rows[3::6]:
            visit.point(side, dots[row])
            assert which(visit.middle("#tip .thumb")) == row
            assert visit.tab.inner_text("#tip").split() == [
                CLASSES[classes[row]],
                page.index.images["path"][row],
            ]
        free[:10] = free[-10:] = free[:, :10] = free[:, -10:] = False  # the frame
        assert len(np.unique(seen[free].reshape(-1, 3), axis=0)) == 1, "nothing else is drawn"
        visit.tab.mouse.move(2, 2)
        assert not visit.tab.locator("#tip").is_visible()


@pytest.mark.parametrize("visit", [1200, 500], indirect=True)  # a desk, and a narrow window
def test_a_chosen_image_has_its_neighbours_in_both_spaces(visit: Visit, page: Page) -> None:
    classes = page.index.images["class_id"]
    for row in page.rows[[2, 17]]:
        visit.point("left", visit.dots("left", "cls")[row], click=True)
        assert visit.chosen == row and which(visit.middle("#selected .about .thumb")) == row
        for side, name in (("left", "cls"), ("right", "coco")):
            near = nearest(page.values[name], row)
            assert visit.near(side) == near
            same = sum(classes[other] == classes[row] for other in near)
            text = visit.tab.inner_text(f"#near-{side}")
            assert f"nearest in {name}" in text and f"{same} of {NEAR} of its class" in text
            assert visit.tab.locator(f"#near-{side} .off").count() == len({*near} - {*page.rows})
            # Without a dot before, they stand in the plane now; but they cannot be chosen.
            for other in {*near} - {*page.rows}:
                spot = visit.dots(side, name)[other]
                visit.point(side, spot, click=True)
                assert which(visit.middle("#tip .thumb")) == other and visit.chosen == row
        visit.tab.mouse.move(2, 2)


def test_maps_are_drawn_over_their_image(visit: Visit, page: Page) -> None:
    ramp = mpl.colormaps["cividis"]  # of a float from 0 to 1
    for order in (0, 4, 8):
        row = page.mapped[order]
        visit.point("right", visit.dots("right", "coco")[row], click=True)
        assert visit.tab.inner_text("#near-left .unmapped") == "No maps were made of cls."
        assert visit.tab.locator("#near-right .unmapped").count() == 0
        visit.tab.mouse.move(2, 2)
        activation, maskout = (visit.shot("#near-right figure canvas", n) for n in (0, 1))
        size = len(activation)
        cells = activation[size // 6 :: size // 3, size // 6 :: size // 3][:3, :3]
        bright = cells.sum(2, dtype=int).ravel()
        assert bright.argmax() == order
        for where, value in ((bright == bright.max(), 1.0), (bright != bright.max(), 0.0)):
            expected = 0.35 * COLOURS[row] + 0.65 * 255 * np.array(ramp(value)[:3])
            assert np.abs(cells.reshape(9, 3)[where] - expected).max() < 30  # smoothed
        expected = 0.35 * COLOURS[row] + 0.65 * 255 * np.array(ramp(order / (MAPPED - 1))[:3])
        assert np.abs(maskout[20:140:20, 20:140:20] - expected).max() < 16


def test_an_image_without_maps_says_so(visit: Visit, page: Page) -> None:
    (row, *_) = sorted({*page.rows} - {*page.mapped})
    visit.point("right", visit.dots("right", "coco")[row], click=True)
    text = visit.tab.inner_text("#near-right .unmapped")
    assert text == f"No maps of this image: {MAPPED} of the {SHOWN} have some."
    assert visit.tab.locator("#near-right figure").count() == 0


def test_a_visitor_walks_about(visit: Visit, page: Page) -> None:
    tab, rows = visit.tab, page.rows.tolist()
    tab.locator("#plane-left").press("ArrowRight")
    tab.locator("#plane-left").press("ArrowRight")
    assert visit.chosen == rows[1]
    tab.locator("button.tile").first.click()
    offered = [*nearest(page.values["cls"], rows[1]), *nearest(page.values["coco"], rows[1])]
    assert visit.chosen == next(row for row in offered if row in rows)
    tab.select_option("#right", label="cls")
    assert visit.near("left") == visit.near("right") == nearest(page.values["cls"], visit.chosen)
    tab.click("#theme")
    assert visit.middle("body")[0] < 128
    assert "right=cls" in visit.address and "theme=dark" in visit.address
    before = visit.chosen
    tab.reload()
    assert visit.chosen == before and visit.near("left") == nearest(page.values["cls"], before)


def test_a_space_without_a_plane_says_why(browser: Any, repository: Path, tmp_path: Path) -> None:
    page = Page(tmp_path, repository)
    table = pd.read_parquet(tmp_path / "coco.plane")
    nothing = dict.fromkeys(("x", "y", "agreement_space", "agreement_plane"), np.nan)
    table.assign(**nothing, problem="all alike").to_parquet(tmp_path / "coco.plane")
    page.write()
    assert page.data["spaces"][1]["agreement"] is None
    visit = Visit(browser, page, 1200)
    assert "neighbours of one class: 25 %" in visit.tab.inner_text("#name-left")
    assert visit.tab.inner_text("#name-right").split("\n") == ["coco", "no plane: all alike"]
    row = page.rows[4]
    visit.point("left", visit.dots("left", "cls")[row], click=True)
    assert visit.near("left") == nearest(page.values["cls"], row) and visit.near("right") == []
    visit.tab.close()
