"""What the pages print: code blocks, messages, names of files and columns, keys, links."""

from __future__ import annotations

import ast
import importlib
import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from detransfer import training, training_log
from detransfer.data import index
from detransfer.data.catalog import load_catalog
from detransfer.data.miniature.recipe import WorldRecipe
from detransfer.data.readers import check_options
from detransfer.detection.detections import DETECTION_TYPES
from detransfer.detection.proposals import PROPOSAL_TYPES
from detransfer.documentation import recipe_models, typed_models
from detransfer.report import metrics, tables
from detransfer.segmentation.by_distance import CELL_TYPES
from detransfer.strict import Strict
from detransfer.study import Study, load_study
from docs.pages import on_page_markdown
from scripts import check_dataset, describe_dataset

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
MODELS = typed_models()
ROOTS = [*recipe_models(), WorldRecipe]


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yield language and content of the fenced code blocks of a Markdown text."""
    yield from re.findall(r"^ *```(\S*)[^\n]*\n(.*?)^ *```", text, re.M | re.S)


def blocks_in(language: str) -> list[Any]:
    """Return the blocks of a language in all pages, as parameters of a test."""
    return [
        pytest.param(content, id=f"{name}-{number}")
        for page, name in zip(PAGES, NAMES, strict=True)
        for number, (found, content) in enumerate(blocks(page.read_text()))
        if found == language
    ]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_block_is_of_a_language_that_is_tested_or_plain(page: Path) -> None:
    known = {"bash", "console", "yaml", "python", "text", "snakemake", "json"}
    assert {language for language, _ in blocks(page.read_text())} <= known


# --- YAML ---------------------------------------------------------------------------------------


def check_yaml(content: str) -> None:
    """Raise unless a block is a part of a configuration or of a recipe."""
    given = yaml.safe_load(content)
    for recipe in ROOTS:
        of_a_study = given.keys() <= Study.model_fields.keys()
        if not of_a_study and given.keys() <= recipe.model_fields.keys():
            for key, value in given.items():
                TypeAdapter(recipe.model_fields[key].annotation).validate_python(value)
            return
    study = yaml.safe_load((ROOT / "config/demo.yaml").read_text())
    del study["pretrainings"]["coco_labels"]  # which needs `coco` to be trained here
    study["targets"]["voc_segmentation"]["pretrainings"].remove("coco_labels")
    for key, value in given.items():
        study[key] = study[key] | value if key in ("pretrainings", "targets", "datasets") else value
    checked = load_study(study, "the block")
    known = load_catalog().datasets
    for name, change in checked.datasets.items():
        reader = change.reader or known[name].reader
        check_options(reader, change.options)


@pytest.mark.parametrize("content", blocks_in("yaml"))
def test_yaml_is_as_the_models_want_it(content: str) -> None:
    check_yaml(content)


@pytest.mark.parametrize(
    "content",
    [
        "pretraining: {}",
        "pretrainings: {x: {kind: imported, prefix: a.}}",
        "targets: {x: {task: detection, dataset: coco, pretrainings: [nobody]}}",
        "datasets: {my_boxes: {reader: coco, folder: x, options: {set: {}}}}",
        "chips: {size: 0}",
        "training: {epochs: 1, batch_sise: 2}",
    ],
)
def test_wrong_yaml_would_be_found(content: str) -> None:
    with pytest.raises(
        Exception, match=r"unknown key|exactly one|no pre-training|validation error"
    ):
        check_yaml(content)


# --- Python -------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", blocks_in("python"))
def test_python_compiles_and_imports_what_there_is(content: str) -> None:
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)


def python_of(page: str, defining: str) -> dict[str, Any]:
    """Run the block of a page that defines a function, and return its names."""
    text = (ROOT / "docs" / page).read_text()
    content = next(c for language, c in blocks(text) if language == "python" and defining in c)
    names: dict[str, Any] = {"__name__": "page", "__doc__": None}
    exec(compile(content, page, "exec"), names)
    return names


def test_the_program_of_the_how_to_makes_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    for seed, value in enumerate((60.0, 64.0)):
        run = metrics.RunName("classification", "birds", "birds", "random", seed)
        number = metrics.Metric("top1", value, "%", 10, 5.0)
        runs.append(tmp_path / f"{seed}.json")
        content = metrics.RunMetrics(run, (number,), {}, {"recipe": "a"}, {})
        metrics.write_metrics(runs[-1], content)
    output = tmp_path / "table.csv"
    monkeypatch.setattr("sys.argv", ["x", *map(str, runs), "--output", str(output)])
    python_of("how_to/analysis.md", "def main")["main"]()
    header, row = (line.split(",") for line in output.read_text().splitlines())
    assert dict(zip(header, row, strict=True))["mean"] == "62"


def test_the_example_of_the_how_to_is_none_of_the_programs() -> None:
    text = (ROOT / "docs/how_to/analysis.md").read_text()
    names = {*re.findall(r"scripts/(\w+)\.py|code\(\"(\w+)\"\)|^rule (\w+):", text, re.M)}
    (name,) = {each for found in names for each in found if each}
    assert not (ROOT / "scripts" / f"{name}.py").exists()


def test_parameters_are_renamed_as_printed() -> None:
    rename = python_of("how_to/pretraining.md", "def rename")["rename"]
    assert rename({"encoder.stem.weight": 1, "layer1.bias": 2}) == {
        "conv1.weight": 1,
        "layer1.bias": 2,
    }


@pytest.mark.parametrize("content", blocks_in("json"))
def test_json_is_a_metrics_file(content: str) -> None:
    TypeAdapter(metrics.RunMetrics).validate_json(content)


# --- Messages -----------------------------------------------------------------------------------


def literals(path: Path) -> Iterator[str]:
    """Yield every text in a Python file; what an f-string fills in is an ellipsis."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            parts = [str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values]
            yield "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.fixture(scope="module")
def said() -> str:
    """All texts of the code, one after the other, and those of Snakemake and the Makefile."""
    ours = [*(ROOT / "src").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]
    found = [text for path in ours for text in literals(path)]
    snakemake = Path(importlib.import_module("snakemake").__file__ or "").parent
    found += [path.read_text() for path in (ROOT / "Makefile", *snakemake.glob("*.py"))]
    return "\n".join(found)


def fragments(message: str) -> list[str]:
    return [part for part in re.split(r"\s*…\s*", message) if len(part) > 2]


def quoted() -> list[str]:
    return re.findall(r"^### `(.+)`$", (ROOT / "docs/troubleshooting.md").read_text(), re.M)


@pytest.mark.parametrize("message", quoted())
def test_a_quoted_message_is_in_the_code(message: str, said: str) -> None:
    assert fragments(message)
    for part in fragments(message):
        assert part in said, f"no message says {part!r}"


def test_a_message_that_nothing_says_would_be_found(said: str) -> None:
    assert "the flux capacitor is empty" not in said
    assert len(quoted()) > 40


def test_every_message_has_a_cause_and_a_remedy() -> None:
    text = (ROOT / "docs/troubleshooting.md").read_text()
    for entry in re.split(r"^### ", text, flags=re.M)[1:]:
        assert "**Cause.**" in entry and "**Remedy.**" in entry, entry.splitlines()[0]


# --- Files --------------------------------------------------------------------------------------

FILES = (ROOT / "docs/reference/files.md").read_text()
COLUMNS = {
    "images.parquet": [*index.IMAGE_TYPES, *index.OPTIONAL_IMAGE_TYPES],
    "objects.parquet": [*index.OBJECT_TYPES],
    "classes.csv": index.CLASS_COLUMNS,
    "negatives.parquet": [*index.NEGATIVE_TYPES],
    "check.csv": check_dataset.COLUMNS,
    "scales.csv": describe_dataset.ADVICE,
    "metrics.json": [each.name for each in fields(metrics.RunMetrics)],
    "fit.json": [*(each.name for each in fields(training.Fit)), "training_score"],
    "detections.parquet": [*DETECTION_TYPES],
    "proposals.parquet": [*PROPOSAL_TYPES],
    "confusion.parquet": [*CELL_TYPES],
    "table2.csv": tables.COLUMNS,
    "log.csv": training_log.COLUMNS,
}


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_are_those_of_the_code(name: str) -> None:
    section = re.split(rf"^### `{re.escape(name)}`.*$", FILES, flags=re.M)[1]
    section = re.split(r"^##", section, flags=re.M)[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.M) == COLUMNS[name]


def outputs() -> list[str]:
    """Return the names of the files that rules write or read, but for the paper's numbers."""
    text = "\n".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    names = re.findall(r'(?<!published )/ "([\w.]+\.[a-z]+)"|"(?:\w+/)*(\w+\.[a-z]+)"', text)
    mine = {name for pair in names for name in pair if name}
    inputs = {"report.yaml", "torch.yaml", "data.yaml", "text.csv", "download.py"}
    return sorted(
        name for name in mine - inputs if not name.endswith((".rst", ".tsv", ".log", ".smk", ".md"))
    )


@pytest.mark.parametrize("name", outputs())
def test_a_file_of_the_workflow_is_described(name: str) -> None:
    stem, _, suffix = name.rpartition(".")
    shown = f"`{name}`" in FILES or (f"`{stem}." in FILES and f"`.{suffix}`" in FILES)
    assert shown, f"docs/reference/files.md says nothing of {name}"


# --- Keys and links -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference() -> str:
    pages = ("configuration", "recipes", "world", "data")
    return "\n".join(
        on_page_markdown((ROOT / f"docs/reference/{name}.md").read_text()) for name in pages
    )


@pytest.mark.parametrize("model", MODELS, ids=lambda model: f"{model.__module__}.{model.__name__}")
def test_every_model_is_in_the_reference(model: type[Strict], reference: str) -> None:
    for key in model.model_fields:
        assert f"| `{key}` |" in reference
    if model.__name__ != "Options":
        assert str(model.__doc__).partition("\n")[0].partition("<")[0] in reference


def test_every_default_can_be_read_back(reference: str) -> None:
    for cell in re.findall(r"^\| `\w+` \| [^|]+ \| `([^`]+)` \|", reference, re.M):
        json.dumps(yaml.safe_load(cell))


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_to_files_of_the_repository_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in target and not target.startswith("images/"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_recipe_of_a_study_has_keys_in_the_reference(reference: str) -> None:
    files = [path for path in (ROOT / "config/recipes").rglob("*.yaml") if path.stem != "world"]
    for task in {yaml.safe_load(path.read_text())["task"] for path in files}:
        assert re.search(rf"^\| `task` \| `{task}` \|", reference, re.M), task


def ragged(text: str) -> list[str]:
    """Return the rows of Markdown tables that have not as many cells as the first row."""
    found = []
    for table in re.findall(r"(?:^ *\|.*\n)+", text, re.M):
        rows = [re.sub(r"`[^`]*`|\\\|", "", row) for row in table.splitlines()]
        found += [row for row in rows if row.count("|") != rows[0].count("|")]
    return found


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_tables_have_as_many_cells_in_every_row(page: Path) -> None:
    assert ragged(on_page_markdown(page.read_text()) if "programs" not in page.name else "") == []


def test_a_row_with_a_cell_too_many_would_be_found() -> None:
    assert ragged("| a | b |\n|---|---|\n| `x|y` | 1 |\n| 1 | 2 | 3 |\n") == ["| 1 | 2 | 3 |"]
