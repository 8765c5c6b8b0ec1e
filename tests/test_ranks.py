"""What several processes tell each other. This file is also the program that they run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detransfer import batches
from detransfer.batch_norm import synchronise
from detransfer.batches import Part, split_batch
from detransfer.console import InputError
from detransfer.locks import LEASED
from detransfer.ranks import (
    add_up,
    first,
    gather,
    in_turn,
    join,
    largest,
    mean_count,
    own,
    rank,
    sharing,
)
from detransfer.recipes.training import TrainingRecipe
from tests.launch import launch


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of four processes found, two of which hold a micro-batch together."""
    output = tmp_path_factory.mktemp("told") / "found.pt"
    launch(4, __file__, output)
    found: list[dict[str, Any]] = torch.load(output, weights_only=True)
    return found


def normalised(x: Tensor, weighted: bool = True) -> dict[str, Tensor]:
    """Return batch normalisation of x (n, 3, 4, 5) with running statistics and gradients."""
    module = nn.BatchNorm2d(3, affine=weighted)
    if weighted:
        with torch.no_grad():
            module.weight.copy_(torch.tensor([0.5, -1.0, 2.0]))
    synchronise(module)
    x = x.clone().requires_grad_()
    y = module(x)
    (y * torch.arange(y.numel() // len(y)).view(y.shape[1:]).sin()).square().sum().backward()
    assert x.grad is not None
    result = {"y": y.detach(), "of_x": x.grad, **module.state_dict()}
    if weighted:
        result |= {"of_weight": module.weight.grad, "of_bias": module.bias.grad}
    return result


def batch(seed: int) -> Tensor:
    """Return five images; of two processes one holds two and the other three."""
    return torch.randn(5, 3, 4, 5, generator=torch.Generator().manual_seed(seed)) * 3 + 7


def talk() -> dict[str, Any]:
    own_part = slice(0, 2) if rank() % 2 == 0 else slice(2, 5)
    with sharing(2):
        counts = [mean_count(number) for number in (rank(), 0)]
        parts = {w: normalised(batch(rank() // 2)[own_part], w) for w in (True, False)}
    sums = [torch.full((2, 2), float(rank())), torch.tensor(10.0 ** rank())]
    add_up(sums)
    return {
        "rank": rank(),
        "largest": largest(rank(), -rank()),
        "gathered": gather(f"from {rank()}"),
        "in_turn": list(in_turn(iter(own([n * n for n in range(10)])), 10)),
        "counts": [*counts, mean_count(rank())],
        "sums": [each.tolist() for each in sums],
        "with weights": parts[True],
        "without": parts[False],
    }


def test_numbers_and_objects_reach_every_process(told: list[dict[str, Any]]) -> None:
    assert [found["rank"] for found in told] == [0, 1, 2, 3]
    for found in told:
        assert found["largest"] == [3, 0]
        assert found["gathered"] == [f"from {number}" for number in range(4)]
        assert found["in_turn"] == [n * n for n in range(10)], "all parts, once each, in order"
        assert found["sums"] == [[[6.0, 6.0], [6.0, 6.0]], 1111.0]


def test_counts_are_means_of_those_who_share_and_never_zero(told: list[dict[str, Any]]) -> None:
    assert [found["counts"] for found in told] == [
        [0.5, 0.5, 1.0],
        [0.5, 0.5, 1.0],
        [2.5, 0.5, 2.0],
        [2.5, 0.5, 3.0],
    ]


@pytest.mark.parametrize("weights", ["with weights", "without"])
def test_batch_normalisation_is_torchs_over_all_images(
    told: list[dict[str, Any]], weights: str
) -> None:
    for pair in (0, 1):
        parts = [told[2 * pair + member][weights] for member in (0, 1)]
        expected = normalised(batch(pair), weights == "with weights")
        for name in ("y", "of_x"):
            assert torch.allclose(torch.cat([p[name] for p in parts]), expected[name], atol=1e-5)
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            assert all(torch.allclose(part[name], expected[name]) for part in parts), name
        if weights == "with weights":
            for name in ("of_weight", "of_bias"):
                both = parts[0][name] + parts[1][name]
                assert torch.allclose(both, expected[name], rtol=1e-4, atol=1e-3), name


def test_a_batch_that_cannot_be_split_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = TrainingRecipe(
        epochs=1,
        batch_size=12,
        micro_batch=4,
        optimizer="sgd",
        learning_rate=0.1,
        weight_decay=0,
        schedule="constant",
    )
    for processes, part in {1: (12, 4, 1), 3: (4, 4, 1), 6: (2, 2, 2), 12: (1, 1, 4)}.items():
        monkeypatch.setattr(batches, "world_size", lambda number=processes: number)
        assert split_batch(recipe) == Part(*part)
    for processes in (2, 5, 24):
        monkeypatch.setattr(batches, "world_size", lambda number=processes: number)
        with pytest.raises(InputError, match=rf"batch_size 12 in micro-.* among {processes} pro"):
            split_batch(recipe)


@pytest.fixture
def leased(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lease of GPU 5, on a machine where no GPU can be opened; returns the device's mark."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    monkeypatch.setenv(LEASED, str(tmp_path / "gpu-5.lock"))
    monkeypatch.delenv("DETRANSFER_GPUS", raising=False)
    return tmp_path / "gpu-5.lock.broken"


def test_a_leased_gpu_that_cannot_be_opened_is_not_replaced_by_the_processor(leased: Path) -> None:
    with pytest.raises(InputError, match=r"^GPU 5 of \S+ was given .* nvidia-smi") as caught:
        join()
    assert "12.8" in str(caught.value) and f"rm {leased}" in str(caught.value)
    assert leased.read_text().endswith(" start of a job: cannot be opened\n")


def test_a_pytorch_without_cuda_says_so_and_blames_no_device(
    leased: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(InputError, match=r"^GPU 5 of \S+ was given .* is built without CUDA"):
        join()
    assert not leased.exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [("DETRANSFER_GPUS", "8"), ("CUDA_VISIBLE_DEVICES", ""), (LEASED, "")],
    ids=["a pretended device", "--gpus 0", "no lease"],
)
@pytest.mark.usefixtures("leased")
def test_without_a_leased_gpu_the_processor_is_used(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert join() == torch.device("cpu")


if __name__ == "__main__":
    torch.set_num_threads(1)
    join()
    found = gather(talk())
    if first():
        torch.save(found, Path(sys.argv[1]))
