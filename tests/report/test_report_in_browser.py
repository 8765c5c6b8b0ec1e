"""The report as a reader sees it: in a headless browser, on phone and desk, by day and night."""

from __future__ import annotations

import runpy
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.report.made_up import draw, write_results

Axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe").Axe

WIDTHS = {"phone": (390, 844), "desktop": (1280, 900)}
SERIOUS = ("serious", "critical")
INTERACTIVE = 3.0  # seconds
FORTY = 40


@dataclass
class Visit:
    """A page that was opened, and what it did on the way."""

    page: Any
    seconds: float
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def report(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with everything on it."""
    results = write_results(tmp_path_factory.mktemp("report") / "demo")
    page = results / "report.html"
    write_page(repository, results, page)
    return page


def write_page(repository: Path, results: Path, page: Path) -> None:
    words = ["--results", str(results), "--captions", str(repository / "workflow/report")]
    words += ["--deviations", str(repository / "docs/deviations.md"), "--output", str(page)]
    program = runpy.run_path(str(repository / "scripts/report.py"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["report.py", *words, "--rendered"])
        program["main"]()


def visit(browser: Any, page: Path, width: str = "desktop", theme: str = "light") -> Visit:
    wide, high = WIDTHS[width]
    context = browser.new_context(
        viewport={"width": wide, "height": high}, color_scheme=theme, reduced_motion="reduce"
    )
    tab = context.new_page()
    seen = Visit(tab, 0.0)
    tab.on("console", lambda message: seen.complaints.append(message.text))
    tab.on("pageerror", lambda error: seen.complaints.append(str(error)))
    tab.on("request", lambda request: seen.requests.append(request.url))
    tab.goto(page.as_uri(), wait_until="load")
    # Interactive: the document is there and a frame was painted with the main thread free for it.
    seen.seconds = tab.evaluate(
        "() => new Promise(done => requestAnimationFrame(() => setTimeout("
        "() => done(performance.now() / 1000))))"
    )
    return seen


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_reader_sees_a_quiet_page(browser: Any, report: Path, width: str, theme: str) -> None:
    seen = visit(browser, report, width, theme)
    for picture in seen.page.query_selector_all("img"):
        picture.scroll_into_view_if_needed()
        picture.evaluate("image => image.decode()")
    assert seen.complaints == []
    assert [url for url in seen.requests if not url.startswith("data:")] == [report.as_uri()]
    sideways = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert seen.page.evaluate(sideways) == 0, "the page itself never scrolls sideways"
    back = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
    levels = [int(level) for level in back.removeprefix("rgb(").rstrip(")").split(",")]
    assert (sum(levels) / 3 > 128) == (theme == "light")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_it_is_accessible(browser: Any, report: Path, width: str, theme: str) -> None:
    tab = visit(browser, report, width, theme).page
    tab.evaluate("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    found = Axe().run(tab).response["violations"]
    serious = [
        f"{each['id']}: {each['nodes'][0]['html']}" for each in found if each["impact"] in SERIOUS
    ]
    assert serious == []


def test_axe_finds_what_is_planted(browser: Any, report: Path) -> None:
    tab = visit(browser, report).page
    tab.evaluate("document.querySelector('img').removeAttribute('alt')")
    tab.evaluate("document.querySelector('h1').style.color = '#f4f4f4'")
    found = {each["id"] for each in Axe().run(tab).response["violations"]}
    assert {"image-alt", "color-contrast"} <= found


@pytest.mark.slow
def test_it_opens_fast_with_forty_pictures(
    browser: Any, report: Path, tmp_path: Path, repository: Path
) -> None:
    results = write_results(tmp_path / "demo")
    draw(results / "figure1.png", (3200, 2400), detail=300)
    page = tmp_path / "demo/report.html"
    write_page(repository, results, page)
    text = page.read_text(encoding="utf-8")
    figure = text[text.index("<figure>") : text.index("</figure>") + len("</figure>")]
    many = figure * (FORTY - text.count("<figure>"))
    page.write_text(text.replace(figure, figure + many, 1), encoding="utf-8")
    assert page.stat().st_size > 4_000_000, "pictures as heavy as real ones"
    seconds = sorted(visit(browser, page, "phone").seconds for _ in range(3))[1]
    assert visit(browser, page).page.locator("img").count() == FORTY
    assert seconds < INTERACTIVE


def test_a_link_opens_what_is_folded_away(browser: Any, report: Path) -> None:
    tab = visit(browser, report).page
    fold = tab.locator("#runs-voc_detection")
    assert fold.get_attribute("open") is None
    tab.locator("a[href='#run-detection-voc_detection-coco']").first.click()
    assert fold.get_attribute("open") is not None
    assert tab.locator("#run-detection-voc_detection-coco").is_visible()


def test_it_prints_all_of_it(browser: Any, report: Path) -> None:
    tab = visit(browser, report).page
    tab.emulate_media(media="print")
    assert not tab.locator("nav").is_visible()
    assert tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert tab.locator("details:not([open])").count() == 0
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert tab.locator("details:not([open])").count() > 0
    assert len(tab.pdf()) > 10_000


def test_it_can_be_read_without_scripts(browser: Any, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(report.as_uri())
    assert tab.locator(".forest").first.is_visible() and tab.locator("#contents ul").is_visible()
