"""What the documentation takes from the code while it is built (a hook of mkdocs, see mkdocs.yml).

A page holds a mark such as ``<!-- keys: detransfer.study.Study -->``, and what the code says takes
its place: keys of typed models, readers and their options, archives, programs and their help.
Pictures of the miniature world are rendered, and the change log comes from the root.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import runpy
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
for place in (ROOT, ROOT / "src"):
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))

from mkdocs.structure.files import File, Files  # noqa: E402

from detransfer.data.catalog import load_catalog  # noqa: E402
from detransfer.data.formats import READERS  # noqa: E402
from detransfer.data.miniature.packing import Stream  # noqa: E402
from detransfer.data.miniature.recipe import WorldRecipe  # noqa: E402
from detransfer.data.miniature.scenes import render_classification, render_scene  # noqa: E402
from detransfer.data.miniature.world import make_world  # noqa: E402
from detransfer.documentation import Page, escape, recipe_models  # noqa: E402
from detransfer.strict import load_file  # noqa: E402
from scripts.render_world import FIRST_SAMPLE, draw_contact_sheet  # noqa: E402

FROM_ROOT = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
MARK = re.compile(r"<!-- (keys|recipes|readers|archives|programs)(?:: ([\w.]+))? -->")
# What is drawn of a world, and what of its recipe is changed for it.
DIAL = [{"contrast": each} for each in (1.0, 0.5, 0.25, 0.1)]
DISTINCTIONS = [{"distinction": "part_only"}, {"distinction": "extent_only"}]


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie at the root of the repository, and the pictures."""
    for page, name in FROM_ROOT.items():
        text = (
            (ROOT / name).read_text().replace("](docs/", "](").replace("](CHANGELOG", "](changelog")
        )
        files.append(File.generated(config, page, content=text))
    for name, content in pictures().items():
        files.append(File.generated(config, f"images/{name}.png", content=content))
    return files


def for_the_site(text: str) -> str:
    """Return a page of the root with its links as they are from among the pages."""
    moved = {f"]({old})": f"]({new})" for new, old in FROM_ROOT.items()} | {"](docs/": "]("}
    for old, new in moved.items():
        text = text.replace(old, new)
    return text


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put what the code says in the place of the marks of a page."""
    found = MARK.findall(markdown)
    page = Page(frozenset(name.rpartition(".")[2] for kind, name in found if kind == "keys"))

    def content(match: re.Match[str]) -> str:
        match match.groups():
            case ["keys", name]:
                module, _, model = name.rpartition(".")
                return page.sections(getattr(importlib.import_module(module), model))
            case ["recipes", _]:
                return recipes(page)
            case ["readers", _]:
                return readers(page)
            case ["archives", _]:
                return archives()
            case _:
                return programs()

    return MARK.sub(content, markdown)


def recipes(page: Page) -> str:
    """Return the keys of the recipes that are called as their task, and so have one file each."""
    blocks = []
    for model in recipe_models():
        task = model.model_fields["task"].annotation.__args__[0]  # type: ignore[union-attr]
        if model.__name__ not in page.own:
            blocks.append(f"## `{task}`\n\n{page.sections(model)}")
    return "\n\n".join(blocks)


def readers(page: Page) -> str:
    """Return the options of every reader."""
    blocks = []
    for name in READERS:
        module = importlib.import_module(f"detransfer.data.options.{name}")
        title = (
            str(module.__doc__).partition("\n")[0].removesuffix(".").replace("The options of", "")
        )
        used = f"For {module.Options.provides}:{title}."
        keys = page.sections(module.Options, 4).removeprefix(str(module.Options.__doc__))
        blocks.append(f"### `{name}`\n\n{used}{keys}")
    return "\n\n".join(blocks)


def archives() -> str:
    """Return a table of the catalog's archives."""
    catalog = load_catalog()
    users: dict[str, list[str]] = {}
    for name, dataset in catalog.datasets.items():
        for archive in dataset.fetched:
            users.setdefault(archive, []).append(f"`{name}`")
    rows = ["| archive | bytes | data sets | login | terms |", "|---|---|---|---|---|"]
    for name, given in catalog.archives.items():
        size = f"{given.size:,}" if given.size else "not confirmed"
        login = "yes" if given.login else ""
        used = ", ".join(users.get(name, ()))
        rows.append(f"| `{name}` | {size} | {used} | {login} | {escape(given.licence)} |")
    return "\n".join(rows)


def programs() -> str:
    """Return what every command-line program says of itself."""
    rules = "\n".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    blocks = []
    for path in sorted((ROOT / "scripts").glob("*.py")):
        known = f"scripts/{path.name}" in rules or f'program="{path.stem}"' in rules
        mark = "" if known else "For use by hand.\n\n"
        blocks.append(f"## {path.stem}\n\n{mark}```text\n{help_text(path)}\n```")
    return "\n\n".join(blocks)


def help_text(program: Path) -> str:
    """Run a program with --help, in this process, which has torch loaded already."""
    said, arguments, columns = io.StringIO(), sys.argv, os.environ.get("COLUMNS")
    try:
        sys.argv, os.environ["COLUMNS"] = [program.name, "--help"], "88"
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            runpy.run_path(str(program), run_name="__main__")
    finally:
        sys.argv = arguments
        os.environ.pop("COLUMNS") if columns is None else os.environ.update(COLUMNS=columns)
    return said.getvalue().strip()


def pictures() -> dict[str, bytes]:
    """Return PNGs of the demo's world, and of worlds that differ from it in one key."""
    recipe = load_file(ROOT / "config/recipes/demo/world.yaml", WorldRecipe)
    with tempfile.TemporaryDirectory() as folder:
        sheet = Path(folder) / "world.png"
        draw_contact_sheet(make_world(recipe), sheet)
        drawn = {"world": sheet.read_bytes()}
    drawn["dial"] = stack([scenes(recipe, **change) for change in DIAL])
    drawn["distinctions"] = stack([classes(recipe, **change) for change in DISTINCTIONS])
    return drawn


def scenes(recipe: WorldRecipe, **change: Any) -> list[np.ndarray]:
    """Return images of the detection target in a changed world."""
    world = make_world(recipe.model_copy(update=change))
    stream = Stream.VOC_TRAINVAL_2007
    return [render_scene(world, world.voc, stream, FIRST_SAMPLE + i).image for i in range(6)]


def classes(recipe: WorldRecipe, **change: Any) -> list[np.ndarray]:
    """Return an image of each of six classes of the sources in a changed world."""
    few = recipe.imagenet_cls.model_copy(update={"classes": 6})
    world = make_world(recipe.model_copy(update={**change, "imagenet_cls": few}))
    stream = Stream.IMAGENET_TRAIN
    return [
        render_classification(world, spec, stream, FIRST_SAMPLE).image
        for spec in world.imagenet_cls
    ]


def stack(rows: list[list[np.ndarray]]) -> bytes:
    """Return a PNG of rows of images on white, each image centred in a square."""
    side = max(max(image.shape[:2]) for row in rows for image in row) + 6
    sheet = Image.new("RGB", (side * max(map(len, rows)), side * len(rows)), "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            height, width = image.shape[:2]
            corner = (x * side + (side - width) // 2, y * side + (side - height) // 2)
            sheet.paste(Image.fromarray(image), corner)
    file = io.BytesIO()
    sheet.save(file, "PNG", optimize=True)
    return file.getvalue()
