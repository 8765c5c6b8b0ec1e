"""Advice on scales: SNIPER's own choice comes back for COCO-like data; ranges leave no gap."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detransfer.console import InputError
from detransfer.detection.scale_advice import advise_scales
from tests.detection.voc_records import read_records


@given(
    seed=st.integers(0, 999),
    centre=st.floats(5, 400),
    spread=st.floats(0.05, 1.5),
    image=st.integers(40, 4000),
    chip=st.sampled_from([128, 256, 512]),
)
def test_every_object_belongs_to_some_scale_and_ranges_overlap(
    seed: int, centre: float, spread: float, image: int, chip: int
) -> None:
    sizes = np.random.default_rng(seed).lognormal(math.log(centre), spread, 300).clip(1, image)
    advice = advise_scales(sizes, np.array([image]), chip)
    ranges = [a.scale.valid_range for a in advice]
    assert ranges[0][0] == 0
    assert math.isinf(ranges[-1][1])
    for finer, coarser in pairwise(ranges):
        assert finer[0] < coarser[0] < finer[1] < coarser[1]
    assert sum(a.share for a in advice) >= 1 - 1e-12
    factors = [a.scale.resize_factor(image, image) for a in advice]
    assert factors == sorted(factors, reverse=True)
    assert advice[-1].scale.resize_factor(image, image // 2 + 1) * image == pytest.approx(chip)


def test_finer_scales_hold_their_objects_in_half_a_chip() -> None:
    sizes = np.geomspace(8, 400, 500)
    advice = advise_scales(sizes, np.array([640.0]), 512)
    for found in advice[:-1]:
        assert found.scale.factor is not None
        assert found.scale.valid_range[1] * found.scale.factor == pytest.approx(246, rel=0.03)


def test_one_scale_is_enough_for_large_objects() -> None:
    (only,) = advise_scales(np.full(50, 300.0), np.array([400.0]), 512)
    assert only.share == 1
    assert only.scale.valid_range == (0, math.inf)
    assert only.median_in_chip == pytest.approx(300 * 512 / 400)


def test_a_scale_that_is_hardly_finer_is_not_advised() -> None:
    image = np.array([111.0])  # the coarsest scale enlarges 1.153 times
    assert len(advise_scales(np.full(50, 8 / 1.2), image, 128)) == 1
    assert len(advise_scales(np.full(50, 8 / 1.3), image, 128)) == 2


def test_nothing_to_advise_on_is_an_error() -> None:
    with pytest.raises(InputError, match="no object"):
        advise_scales(np.array([]), np.array([500.0]), 512)


@pytest.mark.real_data
def test_real_voc_gets_scales_near_the_authors_own(real_data: Path) -> None:
    """The authors use three scales for VOC: 3.7, 2.1 and 1.0, ranges to 80, 32-150, from 120."""
    _, objects = read_records(real_data)
    boxes = objects[["x1", "y1", "x2", "y2"]].to_numpy()
    sizes = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
    advice = advise_scales(sizes, np.array([500.0]), 512)
    assert len(advice) in (2, 3)
    assert advice[-1].scale.resize_factor(500, 375) == pytest.approx(1.024)
    assert advice[0].scale.factor is not None and 1.5 < advice[0].scale.factor <= 3
    assert 40 < advice[0].scale.valid_range[1] < 160
