"""How fast mask-out maps are made, beside captum's Occlusion on the same network.

Captum moves its square inside the image alone, so what is compared is positions a second (on a
processor: a processor second, which others at work do not change). It asks about one position at a
time by default, and about several with perturbations_per_eval; both run in its layout and
precision, fp32 and channels first, on the network as it is.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import yaml
from captum.attr import Occlusion
from torch import Tensor, nn

from detransfer.backbone import build, conv5, normalise
from detransfer.recipes.classification import FeatureRecipe
from detransfer.strict import load_file
from detransfer.study import BackboneChoice
from detransfer.training_run import use_machine
from detransfer.visualization.folding import fold
from detransfer.visualization.grid import Grid
from detransfer.visualization.maskout import MaskOut, probabilities
from detransfer.visualization.recipe import VisualizationRecipe

CLASSES = 257
CONFIG = Path(__file__).parents[2] / "config"


class Classifier(nn.Module):
    """What captum is given: prepared images to scores, by average-pooled Conv5 and a probe."""

    def __init__(self, backbone: nn.Module, weight: Tensor) -> None:
        super().__init__()
        self.backbone, self.weight = backbone, weight

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone.forward_features(images).mean((2, 3)) @ self.weight


@dataclass(frozen=True)
class Case:
    """A network, the view it sees, and the square that moves over it."""

    name: str
    choice: BackboneChoice
    size: int
    mask: int
    stride: int
    batch: int


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet18", help="timm name, at the paper's view")
    parser.add_argument("--stride", type=int, default=16, help="step of its grid (paper study: 8)")
    parser.add_argument("--batch", type=int, default=16, help="positions at once")
    parser.add_argument("--repeats", type=int, default=2, help="of which the fastest counts")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def cases(arguments: argparse.Namespace) -> list[Case]:
    """Return the named network, and on a processor those of the studies that run on one."""
    choice = BackboneChoice(name=arguments.network)
    found = [Case(arguments.network, choice, 224, 60, arguments.stride, arguments.batch)]
    if torch.cuda.is_available():
        return found
    for study in ("demo", "sample"):
        content = yaml.safe_load((CONFIG / f"{study}.yaml").read_text())["backbone"]
        if "file" in content:
            content["file"] = CONFIG.parent / content["file"]
        recipes = CONFIG / "recipes" / study
        view = load_file(recipes / "features.yaml", FeatureRecipe)
        recipe = load_file(recipes / "visualization.yaml", VisualizationRecipe)
        own = BackboneChoice.model_validate(content)
        sizes = (view.size, recipe.mask, recipe.stride, recipe.batch_size)
        found.append(Case(f"{study}: {own.name}", own, *sizes))
    return found


def occlusion(classifier: Classifier, image: Tensor, case: Case, at_once: int) -> int:
    """Run captum on a prepared image (1, 3, s, s); return the number of positions."""
    Occlusion(classifier).attribute(
        image,
        sliding_window_shapes=(3, case.mask, case.mask),
        strides=(3, case.stride, case.stride),
        target=0,
        baselines=0,
        perturbations_per_eval=at_once,
    )
    side = -(-(case.size - case.mask) // case.stride) + 1
    return side * side


def rate(device: torch.device, repeats: int, run: Callable[[], int]) -> float:
    """Return the most positions a second in some repeats."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    best = 0.0
    for _ in range(repeats):
        started = clock()
        positions = run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, positions / (clock() - started))
    return best


def measure(case: Case, device: torch.device, repeats: int) -> None:
    """Print positions a second of captum and of ours, on one network."""
    torch.manual_seed(0)
    backbone = build(case.choice, 0, 16).eval().to(device)
    view = torch.randint(0, 256, (3, case.size, case.size), dtype=torch.uint8).to(device)
    with torch.inference_mode():
        channels = conv5(backbone, view[None]).shape[1]
    weight = torch.randn(channels, CLASSES, device=device)
    bias = torch.zeros(CLASSES, device=device)
    classifier, image = Classifier(backbone, weight), normalise(view[None], backbone)
    folded = fold(backbone).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def ours(masks: MaskOut) -> int:
        return len(probabilities(masks.features(view), weight, bias).cpu())

    found = {}
    with torch.no_grad():
        for at_once in (1, case.batch):
            run = partial(occlusion, classifier, image, case, at_once)
            found[f"captum, {at_once} at once"] = rate(device, repeats, run)
    grid = Grid(case.size, case.mask, case.stride)
    for precision in ("fp32", "bf16"):
        masks = MaskOut(folded, grid, case.batch, precision)
        masks.features(view)  # where the windows lie is worked out once, for all images
        found[f"ours, {precision}"] = rate(device, repeats, partial(ours, masks))
    base = next(iter(found.values()))
    print(f"{case.name}, {case.size} pixels, {device.type}, positions a second:")
    for name, speed in found.items():
        print(f"  {name}: {speed:.1f}, {speed / base:.2f} times captum one at a time")
    best = max(found["ours, fp32"], found["ours, bf16"])
    print(f"  maps of 784 positions (stride 8 of 224) a minute: {60 * best / 784:.2f}")


def main() -> None:
    arguments = parse()
    device, _ = use_machine(arguments.threads)
    for case in cases(arguments):
        measure(case, device, arguments.repeats)


if __name__ == "__main__":
    main()
