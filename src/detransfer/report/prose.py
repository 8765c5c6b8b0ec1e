"""Captions (reStructuredText) and documents (Markdown) as pieces of a page."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import markdown
from docutils.core import publish_parts
from markdown.extensions.toc import TocExtension, slugify
from markupsafe import Markup

from detransfer.console import InputError

TITLE = re.compile(r"\*\*(?P<title>.+?)\*\*\s*(?P<text>.*)", re.DOTALL)
SAFE = {
    "raw_enabled": False,
    "file_insertion_enabled": False,
    "_disable_config": True,
    "report_level": 2,
    "halt_level": 2,
}


@dataclass(frozen=True)
class Caption:
    """A caption: its title, which is what it begins with in bold, and the rest as HTML."""

    title: str
    text: Markup


def read_caption(path: Path) -> Caption:
    """Return the caption in a file; raises InputError if it is missing or not well-formed."""
    source = _read(path)
    match = TITLE.fullmatch(source.strip())
    if match is None:
        raise InputError(f"{path}: a caption begins with its title in **bold**")
    title = " ".join(match["title"].split())
    return Caption(title, html_of_rst(match["text"], path))


def html_of_rst(text: str, path: Path) -> Markup:
    """Return reStructuredText as HTML; raises InputError for what docutils warns of."""
    settings = {**SAFE, "warning_stream": ""}
    try:
        parts = publish_parts(text, str(path), writer="html5", settings_overrides=settings)
    except Exception as error:  # docutils raises SystemMessage, and others for broken directives
        raise InputError(f"{path}: not well-formed reStructuredText ({error})") from error
    return Markup(parts["body"])


def read_document(path: Path, level: int, prefix: str) -> Markup:
    """Return a Markdown file as HTML without its title; its sections begin at heading ``level``.

    The ids of its headings begin with ``prefix``. Links to other files of the repository, which are
    not beside the page, become plain text. Raises InputError for a file that is missing.
    """
    source = re.sub(r"\A\s*# .*\n", "", _read(path))
    source = re.sub(r"\[([^\]]+)\]\((?!https?://|#)[^)]*\)", r"\1", source)
    headings = TocExtension(
        baselevel=level - 1, slugify=lambda value, separator: prefix + slugify(value, separator)
    )
    return Markup(markdown.markdown(source, extensions=["tables", "fenced_code", headings]))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable text ({error})") from error
