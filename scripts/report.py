"""Write the report: one page with the verdicts, tables, figures, costs and origins of a study.

The page shows what lies in the folder of the results; what is missing there stands on it as the
command that makes it. It is one file that asks for nothing from anywhere, but its links lead to the
tables, pictures, logs and metrics beside it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from markupsafe import Markup

from detransfer import __version__
from detransfer.console import InputError, run
from detransfer.files import atomic, sha256
from detransfer.report.comparison import Layout, lay_out
from detransfer.report.costs import read_costs
from detransfer.report.forest import read_statements
from detransfer.report.gates import read_gates
from detransfer.report.page import (
    Backbone,
    Claims,
    Costs,
    Page,
    Part,
    Plain,
    Section,
    plain,
    render,
)
from detransfer.report.pictures import embed
from detransfer.report.prose import Caption, read_caption, read_document
from detransfer.report.runs import anchor, read_runs, targets
from detransfer.weights import read_header

BY_TARGET = Layout(("run",), ("target", "metric"), {})


@dataclass(frozen=True)
class Grid:
    """A table in the paper's layout; ``task`` names the runs behind it ({}: the layer)."""

    name: str
    layout: Layout
    task: str = ""
    heading: str = "pre-training"


@dataclass(frozen=True)
class List:
    """A table that is shown as it is, in some of its columns."""

    name: str
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figure:
    """A picture, drawn from the table of the same name; ``command``, if a file's name is none."""

    name: str
    command: str = ""


@dataclass(frozen=True)
class Gates:
    """The table of controls."""

    name: str


@dataclass(frozen=True)
class Beside:
    """A page of its own, which is linked to."""

    name: str


Item = Grid | List | Figure | Gates | Beside
TOP1 = {"metric": ("top1",)}
OCCLUDED = {"occlusion": ("low", "medium"), "classes": ("labelled",)}
INTERVAL = ("top1_low", "top1_high")
SECTIONS: dict[str, tuple[str, tuple[Item, ...]]] = {
    "data": ("Data sets", (List("table1"),)),
    "pretraining": (
        "Quality of the pre-trainings",
        (Grid("pretraining", Layout(("run",), ("metric",), {}), "pretraining"),),
    ),
    "detection": (
        "Detection",
        (
            Grid("table2", BY_TARGET, "detection"),
            Figure("figure1"),
            Figure("figure2"),
            Grid(
                "table3",
                Layout(("run",), ("target", "occlusion"), OCCLUDED),
                "detection",
            ),
            Figure("diagnosis"),
            Grid("coco_finetuning", BY_TARGET, "detection"),
        ),
    ),
    "segmentation": (
        "Segmentation",
        (
            Grid("table4", BY_TARGET, "segmentation"),
            Grid("table4_classes", Layout(("class",), ("target", "pair"), {}), heading="class"),
            Figure("figure3"),
            Figure("figure4"),
        ),
    ),
    "classification": (
        "Classification",
        (
            Grid("table5", Layout(("run",), ("target",), TOP1), "classification"),
            Grid("table6", Layout(("run",), ("target",), TOP1, INTERVAL), "probe/conv5"),
            Grid(
                "table7",
                Layout(("layer",), ("target", "run"), TOP1, INTERVAL),
                "probe/{}",
                "layer",
            ),
            Figure("few_shot"),
            List("breakdown"),
        ),
    ),
    "spaces": (
        "Feature spaces",
        (*(Figure(f"figure{n}") for n in (5, 6, 7)), List("similarity"), Beside("explorer")),
    ),
    "attention": ("What the networks look at", (Figure("figure8"), Figure("figure9"))),
}  # fmt: skip
TASKS = ("pretraining", "detection", "segmentation", "classification", "probe", "visualization")
OF_CONTROLS = ("controls/shuffled_probe", "controls/shuffled_finetuning")
DESCRIBED = {
    "classes": ("classes",),
    "images": ("train_images", "eval_images"),
    "objects": ("train_objects", "eval_objects"),
}
CONTROLS: tuple[Item, ...] = (Gates("controls"), Figure("dial", "make controls"))
DIGESTED = ("recipe", "data", "start", "code")
PAPER_SECTIONS = {
    "4.1": "Detection (section 4.1)",
    "4.2": "Segmentation (section 4.2)",
    "4.3": "Classification (section 4.3)",
    "4.4": "Visualization (section 4.4)",
}


@dataclass(frozen=True)
class Study:
    """Where a study's files lie, what it makes (None: whatever there is), and by which command."""

    results: Path
    captions: Path
    planned: frozenset[str] | None
    command: str

    def is_there(self, item: Item) -> bool:
        return (self.results / shown(item)).is_file()

    def makes(self, item: Item) -> bool:
        return self.planned is None or shown(item) in self.planned


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--results", type=Path, required=True, help="folder of the study's outputs")
    add("--study", help="its name (default: that of the folder)")
    add("--rendered", action="store_true", help="the study runs in the miniature world")
    add("--planned", nargs="*", metavar="FILE", help="what the study makes (default: all there is)")
    add("--command", default="snakemake --", help="what, before a file's name, makes the file")
    add("--gpus", nargs="*", default=[], metavar="RULE=N", help="devices that a job holds")
    add("--captions", type=Path, default=Path("workflow/report"), help="folder of captions (.rst)")
    add("--deviations", type=Path, default=Path("docs/deviations.md"), help="what deviates")
    add("--output", type=Path, required=True, help="HTML to write, in the folder of the results")
    return parser.parse_args()


def shown(item: Item) -> str:
    """Return the name of the file that an item shows."""
    kinds = {Figure: "png", Beside: "html"}
    return f"{item.name}.{kinds.get(type(item), 'csv')}"


def part(item: Item, study: Study, places: set[str]) -> Part:
    """Return an item with its caption, or with the command that makes it.

    ``places`` are the anchors of the runs on the page, and the names that these are grouped under.
    """
    caption = caption_of(item, study)
    path = study.results / shown(item)
    if not path.is_file():
        own = item.command if isinstance(item, Figure) else ""
        return Part(shown(item), caption.title, command=own or f"{study.command} {path}")
    names = [f"{item.name}.{kind}" for kind in ("csv", "png", "pdf", "html")]
    files = tuple(name for name in names if (study.results / name).is_file())
    if isinstance(item, Figure):
        picture = embed(path)
        return Part(
            shown(item), caption.title, caption.text, files=files, picture=picture, file=path.name
        )
    if isinstance(item, Beside):
        return Part(shown(item), caption.title, caption.text, files=files)
    table = read_table(path)
    if isinstance(item, Gates):
        gates = tuple(read_gates(table, places))
        return Part(shown(item), caption.title, caption.text, files=files, gates=gates)
    if isinstance(item, List):
        rows = table1(table) if item.name == "table1" else plain(table, item.columns)
        return Part(shown(item), caption.title, caption.text, files=files, plain=rows)
    grid = lay_out(prepared(item, table), fitting(item, table))
    links = {
        place: name
        for place, cell in grid.cells.items()
        if (name := anchor(item.task.format(place[0][0].split()[0]), cell.target, cell.run))
        in places
    }
    return Part(
        shown(item), caption.title, caption.text,
        files=files, grid=grid, heading=item.heading, links=links,
    )  # fmt: skip


def caption_of(item: Item, study: Study) -> Caption:
    path = study.captions / f"{item.name}.rst"
    return read_caption(path) if path.is_file() else Caption(shown(item), Markup(""))


def prepared(item: Grid, table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with what its layout asks for beyond the file."""
    if item.name == "table7":
        return table.assign(layer=[f"{name} ({sizes})" for name, sizes in dimensions(table)])
    if item.name != "table4_classes":
        return table
    pair = table["run"].where(table["baseline"] == "", table["run"] + " − " + table["baseline"])
    return table.assign(pair=pair, difference=table["mean"] - table["published"])


def dimensions(table: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Yield for each row its layer and that layer's dimensions, which may differ between heads."""
    sizes = table.groupby("feature")["dimension"].unique()
    for name in table["feature"]:
        yield name, ", ".join(f"{size:,}" for size in sorted(sizes[name]))


def fitting(item: Grid, table: pd.DataFrame) -> Layout:
    """Return an item's layout, without the choice of rows where it leaves none."""
    layout, kept = item.layout, pd.Series(True, table.index)
    for name, values in layout.where.items():
        kept &= table[name].isin(values)
    return layout if kept.any() else Layout(layout.rows, layout.columns, {}, layout.interval)


def table1(table: pd.DataFrame) -> Plain:
    """Return Table 1 as the paper prints it, its counts beside ours."""
    columns, rows = ["data set"], []
    for kind, quantities in DESCRIBED.items():
        columns += [kind + (": training / evaluation" if len(quantities) > 1 else ""), "paper"]
    for name, part in table.groupby("dataset", sort=False):
        row = [str(name)]
        known = part.set_index("quantity")
        for quantities in DESCRIBED.values():
            counts = [known["value"].get(each) for each in quantities]
            printed = [known["published"].get(each, "") for each in quantities]
            row.append(beside(["" if count is None else f"{count:,}" for count in counts]))
            row.append(beside(printed) + agreement(known["agrees"], quantities))
        rows.append(row)
    return Plain(columns, rows)


def agreement(agrees: pd.Series, quantities: tuple[str, ...]) -> str:
    """Return a mark that says whether our counts round to the same digits as the paper's."""
    known = [str(agrees[each]) for each in quantities if pd.notna(agrees.get(each))]
    return {True: " ✓", False: " ≠"}[set(known) == {"True"}] if known else ""


def beside(texts: list[str]) -> str:
    """Return the counts of training and evaluation as the paper prints them."""
    return " / ".join(text or "–" for text in texts) if any(texts) else "–"


def read_table(path: Path) -> pd.DataFrame:
    """Return a table of the study; raises InputError."""
    texts = ["baseline", "published"] if path.stem == "table1" else ["baseline"]
    try:
        table = pd.read_csv(path, dtype={"published": str} if path.stem == "table1" else None)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable table ({error})") from error
    for name in texts:
        if name in table:
            table[name] = table[name].fillna("")
    return table


def section(name: str, study: Study, places: set[str]) -> Section:
    """Return a section with what is there or will be; the rest is only named."""
    title, items = SECTIONS[name]
    parts = tuple(part(i, study, places) for i in items if study.is_there(i) or study.makes(i))
    absent = [i for i in items if not study.is_there(i) and not study.makes(i)]
    names = tuple(caption_of(item, study).title.rstrip(".") for item in absent)
    return Section(name, title, parts, names)


def claims(study: Study) -> Claims:
    path = study.results / "claims.csv"
    if not path.is_file():
        return Claims(command=f"{study.command} {path}")
    return Claims(tuple(read_statements(read_table(path))), PAPER_SECTIONS, path.name)


def backbones(results: Path) -> tuple[Backbone, ...]:
    found = []
    for path in sorted((results / "pretraining").glob("*/backbone.safetensors")):
        header = read_header(path)
        card, model = path.with_name("README.md"), path.with_name("model.safetensors")
        digests = [str(header.get(f"{what}_digest", "")) for what in DIGESTED]
        found.append(
            Backbone(
                path.parent.name,
                header["architecture"]["name"],
                header["kind"],
                str(card.relative_to(results)) if card.is_file() else "",
                sha256(path),
                sha256(model) if model.is_file() else "",
                *digests,
            )
        )
    return tuple(found)


def held(words: list[str]) -> dict[str, int]:
    """Return the devices that the jobs of each rule hold; raises InputError."""
    found = {}
    for word in words:
        rule, _, number = word.partition("=")
        if not number.isdecimal():
            raise InputError(f"--gpus {word}: give a rule and a number, such as pretrain=1")
        found[rule] = int(number)
    return found


def main() -> None:
    arguments = parse()
    results: Path = arguments.results
    if not results.is_dir():
        raise InputError(f"{results}: there is no such folder of results; run the study first")
    planned = None if arguments.planned is None else frozenset(map(str, arguments.planned))
    study = Study(results, arguments.captions, planned, arguments.command)
    runs = read_runs(results, TASKS, results / "logs")
    control_runs = read_runs(results, OF_CONTROLS, results / "logs")
    places = {each.anchor for each in runs} | targets([*runs, *control_runs]).keys()
    page = Page(
        study=arguments.study or results.name,
        rendered=arguments.rendered,
        version=__version__,
        claims=claims(study),
        controls=tuple(part(item, study, places) for item in CONTROLS),
        sections=tuple(section(name, study, places) for name in SECTIONS),
        deviations=read_document(arguments.deviations, level=3, prefix="deviations-"),
        costs=Costs(read_costs(results, held(arguments.gpus))),
        runs=tuple(runs),
        control_runs=tuple(control_runs),
        backbones=backbones(results),
    )
    with atomic(arguments.output) as temporary:
        temporary.write_text(render(page), encoding="utf-8")


if __name__ == "__main__":
    run(main)
