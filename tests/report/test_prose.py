from __future__ import annotations

from pathlib import Path

import pytest

from detransfer.console import InputError
from detransfer.report.prose import read_caption, read_document


def write(folder: Path, text: str) -> Path:
    path = folder / "text.rst"
    path.write_text(text)
    return path


def test_a_caption_is_its_title_and_its_text(tmp_path: Path) -> None:
    path = write(tmp_path, "**Figure 1. A title\nover two lines.**\nText with ``code`` & <b>.\n")
    caption = read_caption(path)
    assert caption.title == "Figure 1. A title over two lines."
    assert "&amp; &lt;b&gt;" in caption.text and "code</" in caption.text
    assert "title" not in caption.text


@pytest.mark.parametrize(
    "text", ["No title.", "**Title.**\nAn ``open literal.", "**T.**\n\n.. x::"]
)
def test_a_bad_caption_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"text\.rst"):
        read_caption(write(tmp_path, text))


def test_captions_cannot_reach_for_files(tmp_path: Path) -> None:
    for directive in (".. include:: /etc/hostname", ".. raw:: html\n\n   <script>x</script>"):
        with pytest.raises(InputError):
            read_caption(write(tmp_path, f"**T.**\n\n{directive}\n"))


def test_every_caption_of_the_workflow_can_be_shown(repository: Path) -> None:
    captions = sorted((repository / "workflow/report").glob("*.rst"))
    titles = [read_caption(path).title for path in captions if path.stem != "workflow"]
    assert titles and all(title.endswith((".", "?")) for title in titles)


def test_a_document_loses_its_title_and_gets_lower_headings(tmp_path: Path) -> None:
    text = "# Title\nFirst.\n\n## One\n| a | b |\n|---|---|\n| `x` | y |\n\n### Two\n[t](../a.md)\n"
    html = read_document(write(tmp_path, text), level=3, prefix="p-")
    assert "Title" not in html and "<p>First.</p>" in html
    assert '<h3 id="p-one">One</h3>' in html and '<h4 id="p-two">Two</h4>' in html
    assert "<td><code>x</code></td>" in html
    assert "href" not in html and "t" in html


def test_an_absent_document_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.md"):
        read_document(tmp_path / "absent.md", 3, "")
