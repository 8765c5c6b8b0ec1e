"""The benchmark that needs a GPU runs without one, and counts the arithmetic rightly."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from detransfer.deformable import DeformableConv
from tests.detection.rectangles import call

PROGRAM = Path("tests/benchmarks/detector_gpu.py")


def test_without_a_gpu_it_takes_a_few_steps_and_says_so(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(repository / PROGRAM, ["--steps=2", "--threads=1"])
    said = capsys.readouterr().out
    assert "nothing of the goal is measured" in said and "goal of" not in said
    assert said.count("chips/s") == said.count("images/s") == 2
    assert "ours, resnet10t, not compiled" in said and "after step 1 / 1 / " in said
    assert said.count("50 detections an image") == 2


def test_a_compiled_network_is_measured_too(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["detector_gpu.py", "--steps=2", "--threads=1"])
    compiled: list[str] = []
    monkeypatch.setattr(torch, "compile", lambda f: compiled.append(f.__name__) or f)
    program = runpy.run_path(str(repository / PROGRAM))
    what = program["setting"](program["parse"]())
    program["measure"]("ours", program["ours"], True, what)
    assert compiled == ["forward_features", "forward_intermediates"] * 2
    assert capsys.readouterr().out.startswith("ours, compiled\n")


@pytest.mark.parametrize("groups", [1, 2])
def test_deformable_convolutions_count_as_plain_ones(repository: Path, groups: int) -> None:
    """As matrix products, or as torchvision's operator, which a GPU has for both."""
    conv = DeformableConv(nn.Conv2d(8, 6, 3, padding=1, groups=groups), 1)
    x = torch.randn(2, 8, 10, 12, requires_grad=True)
    program = runpy.run_path(str(repository / PROGRAM))
    flop, words = program["counted"](2, lambda: conv(x).sum().backward())
    assert flop == 3 * 2 * 120 * 9 * (8 * 6 // groups + 8 * 18)  # itself and its offsets
    assert words.endswith("ones 0.00, matrix products 0.00") and words.startswith("0.00 GFLOP")
