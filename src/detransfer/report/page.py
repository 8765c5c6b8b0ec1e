"""The report as one page of HTML that asks for nothing from anywhere."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from detransfer.report import comparison
from detransfer.report.comparison import Grid
from detransfer.report.forest import Statement, counted, sections
from detransfer.report.gates import Gate
from detransfer.report.pictures import Picture
from detransfer.report.runs import Run, targets

NUMBER = re.compile(r"[+−]?[\d,]+(\.\d+)?")
TEMPLATES = Path(__file__).parent / "templates"
SIGNS = {
    comparison.ABOVE: "▲", comparison.BELOW: "▼", comparison.WITHIN: "≈", comparison.UNTESTED: "?",
    "": "",
}  # fmt: skip
MARKS = {
    "reproduced": "✓",
    "contradicted": "✗",
    "inconclusive": "~",
    "invalid": "⊘",
    "not run": "–",
    "holds": "✓",
    "fails": "✗",
    "printed": "·",
}
WORDS = {"more": "above zero", "less": "below zero", "same": "the same, within the margin"}


@dataclass(frozen=True)
class Plain:
    """A table as it is, of texts and formatted numbers."""

    columns: list[str]
    rows: list[list[str]]

    def is_numeric(self, column: int) -> bool:
        """Whether a column holds numbers, and nothing else but gaps."""
        return all(NUMBER.fullmatch(row[column]) for row in self.rows if row[column])


@dataclass(frozen=True)
class Part:
    """A table or a figure of the page; with a ``command``, one that is not made yet.

    ``links`` are the anchors of the runs behind the cells of a grid; ``file`` is what a picture
    links to.
    """

    id: str
    title: str
    text: Markup = Markup("")  # noqa: RUF009
    command: str = ""
    files: tuple[str, ...] = ()
    grid: Grid | None = None
    heading: str = ""
    links: Mapping[comparison.Place, str] | None = None
    plain: Plain | None = None
    gates: tuple[Gate, ...] = ()
    picture: Picture | None = None
    file: str = ""

    @property
    def spans(self) -> list[tuple[str, int]]:
        """The names above the columns of a grid with two levels of them, with their widths."""
        columns = self.grid.columns if self.grid else []
        if not columns or len(columns[0]) < 2:
            return []
        names = [column[0] for column in columns]
        return [(name, names.count(name)) for name in dict.fromkeys(names)]


@dataclass(frozen=True)
class Section:
    """Tables and figures of one subject; ``absent`` are those that the study does not make."""

    id: str
    title: str
    parts: tuple[Part, ...]
    absent: tuple[str, ...] = ()

    @property
    def has_grids(self) -> bool:
        return any(part.grid for part in self.parts)


@dataclass(frozen=True)
class Claims:
    """The statements of the paper; with a ``command``, not tested yet."""

    statements: tuple[Statement, ...] = ()
    names: Mapping[str, str] | None = None
    file: str = ""
    command: str = ""

    @property
    def count(self) -> int:
        return len(self.statements)

    @property
    def tally(self) -> dict[str, int]:
        return counted(self.statements)

    @property
    def sections(self) -> dict[str, list[Statement]]:
        names = self.names or {}
        return {names.get(key, key): part for key, part in sections(self.statements).items()}

    @property
    def tallies(self) -> dict[str, dict[str, int]]:
        return {name: counted(part) for name, part in self.sections.items()}


@dataclass(frozen=True)
class Costs:
    """Costs by rule (``detransfer.report.costs``), and their sums."""

    table: pd.DataFrame

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [
            {str(key): value for key, value in row.items()} for row in self.table.to_dict("records")
        ]

    @property
    def jobs(self) -> int:
        return int(self.table["jobs"].sum())

    @property
    def hours(self) -> float:
        return float(self.table["seconds"].sum()) / 3600

    @property
    def cpu_hours(self) -> float:
        return float(self.table["cpu_seconds"].sum()) / 3600

    @property
    def gpu_hours(self) -> float:
        return float(self.table["gpu_hours"].sum())


@dataclass(frozen=True)
class Backbone:
    """A backbone file: its network, how it came about, and digests.

    ``digest`` is the file's own, ``model`` that of the whole network it was taken from (empty where
    there is none), the others name what it was made from; ``card`` is its model card.
    """

    name: str
    network: str
    kind: str
    card: str
    digest: str
    model: str
    recipe: str
    data: str
    start: str
    code: str


@dataclass(frozen=True)
class Page:
    """All that the report of a study shows."""

    study: str
    rendered: bool
    version: str
    claims: Claims
    controls: tuple[Part, ...]
    sections: tuple[Section, ...]
    deviations: Markup
    costs: Costs
    runs: tuple[Run, ...]
    control_runs: tuple[Run, ...]
    backbones: tuple[Backbone, ...]

    @property
    def pretrainings(self) -> list[str]:
        return sorted({run.metrics.run.pretraining for run in self.runs})

    @property
    def targets(self) -> list[str]:
        own = {run.metrics.run.pretraining for run in self.runs}
        return sorted({run.metrics.run.target for run in self.runs} - own)

    @property
    def seeds(self) -> list[int]:
        return sorted({run.metrics.run.seed for run in self.runs})

    @property
    def backbone_names(self) -> dict[str, str]:
        """The names of the backbones by the digests of their files, and of their networks'."""
        return {
            digest: backbone.name
            for backbone in self.backbones
            for digest in (backbone.digest, backbone.model)
            if digest
        }

    @property
    def run_groups(self) -> dict[str, list[Run]]:
        """The runs by target; those that were made for a control by its name, after all others."""
        return targets([*self.runs, *self.control_runs])


def render(page: Page) -> str:
    """Return the page as HTML; text from files is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "signed": signed,
        "slug": slug,
        "tick": lambda value: f"{value:g}".replace("-", "−"),
    }
    environment.globals |= {"signs": SIGNS, "marks": MARKS, "words": WORDS}
    return environment.get_template("report.html").render(page=page)


def number(value: float, decimals: int = 1) -> str:
    """Return a number as tables print it, with a true minus sign; a dash where there is none."""
    if not math.isfinite(value):
        return "–"
    text = f"{value:,.{decimals}f}"
    return text.replace("-", "−") if float(text.replace(",", "")) else text.lstrip("-")


def signed(value: float) -> str:
    """Return a difference with its sign; nothing has none."""
    text = number(value)
    return text if text[0] in "−–" or not float(text.replace(",", "")) else f"+{text}"


def slug(text: str) -> str:
    """Return a text as (part of) an id or a class."""
    return re.sub(r"[^\w.-]", "-", text)


def plain(table: pd.DataFrame, columns: Sequence[str] | None = None) -> Plain:
    """Return a table (or some columns of it) as texts; numbers to three significant digits."""
    names = [str(name) for name in (columns or table.columns)]
    return Plain(names, [[_text(row[name]) for name in names] for row in table.to_dict("records")])


def _text(value: Any) -> str:
    if value is None or (not isinstance(value, str) and pd.isna(value)):
        return ""
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral):
        whole = float(value).is_integer() or abs(float(value)) >= 1000
        text = f"{value:,.0f}" if whole else f"{value:.3g}"
        return text.replace("-", "−")
    return str(value)
