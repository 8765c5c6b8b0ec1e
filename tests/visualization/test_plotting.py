from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt

from detransfer.visualization.plotting import save_figure


def test_text_stays_text_and_equal_figures_give_equal_files(tmp_path: Path) -> None:
    for name in "ab":
        figure, axes = plt.subplots(figsize=(1, 1))
        axes.set_title("ImageNet")
        save_figure(figure, tmp_path / f"{name}.pdf", tmp_path / f"{name}.png")
    content = (tmp_path / "a.pdf").read_bytes()
    assert b"/TrueType" in content or b"/CIDFontType2" in content
    assert b"/Type3" not in content
    assert content == (tmp_path / "b.pdf").read_bytes()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
