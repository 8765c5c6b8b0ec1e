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

import torch
from captum.attr import Occlusion
from torch import Tensor, nn

from detransfer.backbone import build, conv5, normalise
from detransfer.study import BackboneChoice
from detransfer.training_run import use_machine
from detransfer.visualization.folding import fold
from detransfer.visualization.grid import Grid
from detransfer.visualization.maskout import masked_features, probabilities

CLASSES = 257


class Classifier(nn.Module):
    """What captum is given: prepared images to scores, by average-pooled Conv5 and a probe."""

    def __init__(self, backbone: nn.Module, weight: Tensor) -> None:
        super().__init__()
        self.backbone, self.weight = backbone, weight

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone.forward_features(images).mean((2, 3)) @ self.weight


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet18", help="timm name")
    parser.add_argument("--output-stride", type=int, default=16)
    parser.add_argument("--size", type=int, default=224, help="side of the view, pixels")
    parser.add_argument("--mask", type=int, default=60, help="side of the square, pixels")
    parser.add_argument("--stride", type=int, default=16, help="step of its grid, pixels")
    parser.add_argument("--batch", type=int, default=32, help="positions at once")
    parser.add_argument("--repeats", type=int, default=2, help="of which the fastest counts")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def occlusion(
    classifier: Classifier, image: Tensor, arguments: argparse.Namespace, at_once: int
) -> int:
    """Run captum on a prepared image (1, 3, s, s); return the number of positions."""
    Occlusion(classifier).attribute(
        image,
        sliding_window_shapes=(3, arguments.mask, arguments.mask),
        strides=(3, arguments.stride, arguments.stride),
        target=0,
        baselines=0,
        perturbations_per_eval=at_once,
    )
    side = -(-(arguments.size - arguments.mask) // arguments.stride) + 1
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


def main() -> None:
    arguments = parse()
    device = use_machine(arguments.threads)
    torch.manual_seed(0)
    backbone = build(BackboneChoice(name=arguments.network), 0, arguments.output_stride).eval()
    backbone.to(device)
    view = torch.randint(0, 256, (3, arguments.size, arguments.size), dtype=torch.uint8)
    view = view.to(device)
    squares = torch.from_numpy(Grid(arguments.size, arguments.mask, arguments.stride).squares())
    squares = squares.to(device)
    with torch.inference_mode():
        channels = conv5(backbone, view[None]).shape[1]
    weight = torch.randn(channels, CLASSES, device=device)
    classifier, image = Classifier(backbone, weight), normalise(view[None], backbone)
    folded = fold(backbone).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def ours(precision: str) -> int:
        features = masked_features(folded, view, squares, arguments.batch, precision)
        probabilities(features, weight, torch.zeros(CLASSES, device=device)).cpu()
        return len(squares)

    found = {}
    with torch.no_grad():
        for at_once in (1, arguments.batch):
            name = f"captum, {at_once} at once"
            found[name] = rate(
                device,
                arguments.repeats,
                lambda at_once=at_once: occlusion(classifier, image, arguments, at_once),  # type: ignore[misc]
            )
    for precision in ("fp32", "bf16"):
        found[precision] = rate(
            device,
            arguments.repeats,
            lambda precision=precision: ours(precision),  # type: ignore[misc]
        )
    print(f"{arguments.network}, {arguments.size} pixels, on {device}, positions a second:")
    base = found["captum, 1 at once"]
    for name, speed in found.items():
        print(f"  {name}: {speed:.1f} ({speed / base:.2f} times captum one at a time)")
    best = max(found["fp32"], found["bf16"]) / len(squares)
    print(f"  whole maps of {len(squares)} positions: {60 * best:.1f} a minute")


if __name__ == "__main__":
    main()
