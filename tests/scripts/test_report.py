from __future__ import annotations

import hashlib
import json
import re
import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from detransfer.console import InputError
from detransfer.report.metrics import RunName
from tests.report.made_up import PICTURES, draw, write_results, write_run

Write = Callable[..., str]
LOADING = ("src", "href", "srcset", "data", "poster", "xlink:href")


@pytest.fixture(scope="module")
def write(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Write:
    program = runpy.run_path(str(repository / "scripts/report.py"))
    page = tmp_path_factory.mktemp("page") / "report.html"

    def run(results: Path, *words: str) -> str:
        fixed = ["--captions", str(repository / "workflow/report")]
        fixed += ["--deviations", str(repository / "docs/deviations.md"), "--output", str(page)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["report.py", "--results", str(results), *fixed, *words])
            program["main"]()
        return page.read_text(encoding="utf-8")

    return run


@dataclass(frozen=True)
class Demo:
    """A small study with everything, and its page."""

    results: Path
    page: str

    @property
    def outline(self) -> Outline:
        return Outline(self.page)


@pytest.fixture(scope="module")
def demo(write: Write, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    results = write_results(tmp_path_factory.mktemp("results") / "demo")
    return Demo(results, write(results))


class Outline(HTMLParser):
    """What a page refers to, its ids, and the text of its tables by the id of their article."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.rows: dict[str, list[list[str]]] = {}
        self.article = ""
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids += [given["id"]] if "id" in given else []
        if tag == "a":
            self.links.append(given["href"])
        else:
            self.loaded += [given[name] for name in LOADING if name in given]
        if tag == "article":
            self.article = given["id"]
        if tag == "tr":
            self.rows.setdefault(self.article, []).append([])
        if tag in ("td", "th") and self.rows.get(self.article):
            self.rows[self.article][-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        rows = self.rows.get(self.article)
        if rows and self.inside:
            rows[-1][-1] = " ".join(f"{rows[-1][-1]} {data}".split())


def test_the_numbers_of_a_table_are_those_of_its_file(demo: Demo) -> None:
    over, columns, *rows = demo.outline.rows["table2.csv"]
    assert over == ["pre-training", "voc_detection"] and columns == ["mAP@0.5", "mAP@0.7"]
    shown = {row[0]: dict(zip(columns, row[1:], strict=True)) for row in rows}
    for line in pd.read_csv(demo.results / "table2.csv").itertuples():
        cell = shown[str(line.run)][str(line.metric)]
        assert ("not run" in cell) == pd.isna(line.mean)
        assert pd.isna(line.mean) or cell.startswith(f"{line.mean:.1f}"), (line, cell)
        assert (f"paper {line.published:.1f}" in cell) == pd.notna(line.published)
    first, second = shown["imagenet_cls"], shown["coco"]
    assert "≈ −0.3" in first["mAP@0.5"] and "▼ −10.0" in first["mAP@0.7"]
    assert "▲ +12.2" in second["mAP@0.5"] and "? −0.6" in second["mAP@0.7"]
    assert shown["random"]["mAP@0.7"] == "–"


def test_the_verdicts_stand_with_effects_and_both_contrasts(demo: Demo) -> None:
    page = demo.page
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    assert "+3.5 [+1.5, +5.5] ◇ paper +2.2" in text and "+0.4 [−1.5, +2.3]" in text
    assert "3 tests of 3 statements" in text and "1 reproduced" in text
    assert "control leaks fails" in text and "the study has no AP@0.5" in text
    assert page.count('class="arrow"') == 2, "both ends of the very wide interval"
    assert "byte size" in text and "sizes tell" in text


def test_each_number_leads_to_its_runs(demo: Demo) -> None:
    outline = demo.outline
    assert len(outline.ids) == len(set(outline.ids))
    inner = [link[1:] for link in outline.links if link.startswith("#")]
    assert set(inner) <= set(outline.ids)
    for run in ("imagenet_cls", "coco", "random"):
        assert f"run-detection-voc_detection-{run}" in inner
    assert "run-probe-conv5-caltech256-coco" in inner
    files = [link for link in outline.links if not link.startswith("#")]
    assert "logs/detection/voc_detection/coco/seed1.log" in files
    for link in files:
        assert (demo.results / link).is_file(), link


def test_nothing_is_asked_of_any_other_place(demo: Demo) -> None:
    page, outline = demo.page, demo.outline
    assert outline.loaded and all(name.startswith("data:") for name in outline.loaded)
    assert len(outline.loaded) == 1 + len(PICTURES)
    styles = "".join(re.findall(r"<style>(.*?)</style>", page, re.DOTALL))
    assert "url(" not in styles and "@import" not in styles
    assert "connect-src" not in page and "default-src 'none'" in page
    assert not [link for link in outline.links if link.startswith("http")]


def test_text_from_outside_is_escaped(write: Write, tmp_path: Path) -> None:
    foreign = '<script>alert("x")</script>&<img src=x>'
    page = write(write_results(tmp_path / "demo", foreign))
    assert page.count("<script>") == 1 and "<img src=x" not in page
    assert page.count("&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;&amp;&lt;img src=x&gt;") > 8


def test_what_is_missing_says_which_command_makes_it(write: Write, tmp_path: Path) -> None:
    results = tmp_path / "empty"
    results.mkdir()
    page = write(results, "--command", "snakemake --configfile config/demo.yaml --")
    for name in ("claims.csv", "controls.csv", "table2.csv", "figure4.png", "pretraining.csv"):
        assert f"snakemake --configfile config/demo.yaml -- {results / name}</code>" in page
    assert "This makes it: <code>make controls</code>" in page  # the dial: of other worlds
    assert "No benchmark" in page and "No run" in page and "None" not in page


def test_what_the_study_does_not_make_is_only_named(write: Write, demo: Demo) -> None:
    page = write(demo.results, "--planned", "table2.csv", "table5.csv")
    made: list[str] = re.findall(r"This makes it: <code>(.*?)</code>", page)
    assert [line.rpartition("/")[2] for line in made if "table" in line] == ["table5.csv"]
    assert "Not part of this study: Table 4. Semantic segmentation, by pre-training" in page


def test_devices_that_jobs_hold_are_counted(write: Write, demo: Demo) -> None:
    assert "<strong>0.0 GPU-hours</strong>" in demo.page
    assert "<strong>0.2 GPU-hours</strong>" in write(demo.results, "--gpus", "detection=2")
    with pytest.raises(InputError, match="--gpus detection"):
        write(demo.results, "--gpus", "detection")


def test_equal_results_give_equal_pages(write: Write, demo: Demo) -> None:
    assert write(demo.results) == demo.page


def test_a_miniature_world_is_said_to_be_one(write: Write, demo: Demo) -> None:
    assert "miniature world" not in demo.page
    assert "miniature world" in write(demo.results, "--rendered")


def test_no_folder_and_a_broken_table_are_named(write: Write, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent: there is no such folder"):
        write(tmp_path / "absent")
    results = write_results(tmp_path / "demo")
    (results / "table2.csv").write_text("")
    with pytest.raises(InputError, match=r"table2\.csv"):
        write(results)


def test_forty_pictures_stay_below_ten_megabytes(write: Write, tmp_path: Path) -> None:
    results = write_results(tmp_path / "demo")
    for number, name in enumerate(("figure1", "figure2", "figure3", "figure4", "diagnosis")):
        draw(results / f"{name}.png", (3000, 2000), number)
    assert len(write(results)) < 10_000_000 / 40 * 5 + 400_000


def test_table_1_is_printed_as_in_the_paper(demo: Demo) -> None:
    rows = demo.outline.rows["table1.csv"]
    assert rows[1] == ["coco", "80", "80 ✓", "118,287 / 5,000", "0.14M / – ≠", "–", "–"]
    assert rows[2] == ["mine", "3", "–", "–", "–", "–", "–"]


def test_table_1_has_a_dash_for_what_is_not_counted(write: Write, tmp_path: Path) -> None:
    results = write_results(tmp_path / "demo")
    (results / "table1.csv").write_text(
        "dataset,role,quantity,value,published,difference,agrees\n"
        "loc,source,classes,3130,3130,0,True\n"
        "loc,source,train_images,920000,0.92M,0,True\n"
        "det,,eval_images,20121,,,\n"
        "det,,eval_objects,55502,,,\n"
    )
    _, loc, det = Outline(write(results)).rows["table1.csv"]
    assert loc == ["loc", "3,130", "3130 ✓", "920,000 / –", "0.92M / – ✓", "–", "–"]
    assert det == ["det", "–", "–", "– / 20,121", "–", "– / 55,502", "–"]


def test_layers_stand_with_their_dimensions(write: Write, tmp_path: Path) -> None:
    results = write_results(tmp_path / "demo")
    (results / "table7.csv").write_text(
        "target,dataset,run,feature,dimension,metric,unit,mean,std,n,images,floor,published,difference\n"
        "caltech256,caltech256,coco,conv5,2048,top1,%,70,1,2,9,,,\n"
        "caltech256,caltech256,openimages,conv5,1024,top1,%,71,1,2,9,,76.7,-5.7\n"
    )
    outline = Outline(write(results))
    assert outline.rows["table7.csv"][1] == ["coco", "openimages"]
    assert outline.rows["table7.csv"][2][0] == "conv5 (1,024, 2,048)"
    assert outline.links.count("#run-probe-conv5-caltech256-coco") == 2, "Tables 6 and 7"


def test_a_run_leads_to_the_backbone_it_started_from(write: Write, tmp_path: Path) -> None:
    results = write_results(tmp_path / "demo")
    path = results / "pretraining/coco/backbone.safetensors"
    path.parent.mkdir(parents=True)
    header = {"architecture": {"name": "resnet10t"}, "kind": "trained", "recipe_digest": "ab" * 32}
    save_file({"w": np.zeros(2)}, path, {"detransfer": json.dumps(header)})
    (path.parent / "README.md").write_text("card")
    run = RunName("detection", "voc_detection", "voc", "coco", 2)
    write_run(results, run, start=hashlib.sha256(path.read_bytes()).hexdigest())
    outline = Outline(write(results))
    assert "backbone-coco" in outline.ids and outline.links.count("#backbone-coco") == 1
    model = path.with_name("model.safetensors")
    model.write_bytes(b"the whole network")
    run = RunName("probe/conv5", "voc_detection", "voc", "coco", 2)
    write_run(results, run, model=hashlib.sha256(model.read_bytes()).hexdigest())
    outline = Outline(write(results))
    assert outline.links.count("#backbone-coco") == 2, "a frozen network is where a probe starts"
    assert "pretraining/coco/README.md" in outline.links
