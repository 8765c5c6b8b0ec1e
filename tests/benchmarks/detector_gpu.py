"""The paper's detector on a GPU: chips a second, memory and share of the arithmetic, both ways.

    python tests/benchmarks/detector_gpu.py [--steps N] [--images N] [--peak TFLOPS] [--threads N]

The paper's COCO recipes on ResNet-101 train and detect at their three scales by the project's own
loop, loader and inference, the backbone compiled and not; beside them torchvision's Faster R-CNN
(ResNet-101 and FPN) by the same loop on the same chips and views. Images are generated with COCO's
sizes and numbers of objects; no negative chips, networks untrained. Without a GPU the demo's
recipes and network take a few steps to show that the program works: nothing of the goal is
measured then.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.resnet import BasicBlock, Bottleneck

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from detransfer.backbone import build  # noqa: E402
from detransfer.batches import Epoch  # noqa: E402
from detransfer.data.index import BOX, Index  # noqa: E402
from detransfer.detection.detector import Detector  # noqa: E402
from detransfer.detection.predict import predict  # noqa: E402
from detransfer.detection.train import chip_epochs  # noqa: E402
from detransfer.recipes.detection import DetectionRecipe  # noqa: E402
from detransfer.recipes.evaluation import InferenceRecipe  # noqa: E402
from detransfer.strict import load_file  # noqa: E402
from detransfer.study import BackboneChoice  # noqa: E402
from detransfer.training import Fit, Run, compile_backbone, train  # noqa: E402
from detransfer.training_log import device_name, peak_memory_mb  # noqa: E402
from detransfer.training_run import use_machine  # noqa: E402
from tests.benchmarks.chips import generated  # noqa: E402

PAPER, DEMO = ROOT / "config/recipes/paper", ROOT / "config/recipes/demo"
GOAL = 400  # chips a second on one H200
H200 = 989.0  # TFLOP/s in bf16 without sparsity, of NVIDIA's data sheet; in fp32 67, in TF32 494
CLASSES, FILES = 80, 16


@dataclass(frozen=True)
class Setting:
    """What is measured, and on what.

    Networks (``body`` is torchvision's), recipes, steps, numbers of images trained and detected on,
    whose sides are one ``part`` of COCO's; ``peak`` in TFLOP/s.
    """

    choice: BackboneChoice
    body: str
    recipe: DetectionRecipe
    inference: InferenceRecipe
    steps: int
    warm_up: int
    trained: int
    detected: int
    part: int
    compiled: tuple[bool, ...]
    device: torch.device
    workers: int
    peak: float

    def share(self, speed: float, work: float) -> str:
        """Return the arithmetic of so many images a second, ``work`` FLOP each, as words."""
        done = speed * work / 1e12
        part = f", {100 * done / self.peak:.1f} % of {self.peak:g}"
        return f"{done:.3g} TFLOP/s{part if self.device.type == 'cuda' else ''}"


class Stock(nn.Module):
    """torchvision's Faster R-CNN with as many RoIs, called as our detectors are."""

    def __init__(self, what: Setting) -> None:
        super().__init__()
        self.recipe, head = what.recipe, what.recipe.head
        self.network = FasterRCNN(
            resnet_fpn_backbone(backbone_name=what.body, weights=None),
            CLASSES + 1,
            rpn_post_nms_top_n_test=what.inference.proposals,
            box_batch_size_per_image=head.rois_per_chip,
            box_score_thresh=what.inference.score_threshold,
        )
        # Chips and views have their size already.
        self.network.transform.resize = lambda image, target: (image, target)
        asked: Any = build(what.choice)  # for the colour of padding and the memory it may take
        self.backbone: Any = nn.Module()
        self.backbone.pretrained_cfg = asked.pretrained_cfg
        self.backbone.feature_info = asked.feature_info

    def prepare_inference(self, recipe: InferenceRecipe) -> None:
        self.eval()

    def forward(self, images: Tensor, targets: Any = None, sizes: Any = None) -> Any:
        shapes = sizes or [target["size"] for target in targets]
        cut = [image[:, :h, :w] / 255 for image, (h, w) in zip(images, shapes, strict=True)]
        bf16 = self.recipe.training.precision == "bf16"
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            if targets is not None:
                return self.network(cut, [_learnt(target) for target in targets])
            found = self.network(cut)
        return [{**one, "labels": one["labels"] - 1} for one in found]


def _learnt(target: dict[str, Any]) -> dict[str, Tensor]:
    learnt = target["labels"] > 0
    return {"boxes": target["boxes"][learnt], "labels": target["labels"][learnt]}


class Watch:
    """When each step ended, and what the device and this process had reserved by then, in MB."""

    def __init__(self, what: Setting) -> None:
        self.device = what.device
        self.borders = (what.warm_up, what.steps)
        self.times: list[float] = []
        self.memory: list[tuple[float, float]] = []

    def __call__(self, *_: Any) -> None:
        if self.device.type == "cuda" and len(self.times) + 1 in self.borders:
            torch.cuda.synchronize(self.device)
        self.times.append(time.perf_counter())
        self.memory.append((reserved_mb(self.device), peak_memory_mb(torch.device("cpu"))))

    def speed(self, batch: int) -> float:
        """Return the images a second after the warm-up."""
        first, last = self.borders
        return (last - first) * batch / (self.times[last - 1] - self.times[first - 1])

    def samples(self) -> str:
        """Return both memories after the first step, the warm-up, at most since then, and last."""
        warm, last = self.borders
        rows = []
        for kind, values in zip(("device", "host"), zip(*self.memory, strict=True), strict=True):
            chosen = (values[0], values[warm - 1], max(values[warm - 1 :]), values[-1])
            rows.append(f"{kind} {' / '.join(f'{value:,.0f}' for value in chosen)}")
        if self.device.type != "cuda":
            del rows[0]
        return f"after step 1 / {warm} / at most since then / {last}: {', '.join(rows)} MB"


def reserved_mb(device: torch.device) -> float:
    return torch.cuda.memory_reserved(device) / 2**20 if device.type == "cuda" else 0.0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--steps", type=int, help="steps of each training; default: 200, without a GPU 3")
    add("--images", type=int, help="images detected on; default: 256, without a GPU 1")
    add("--peak", type=float, default=H200, help="the device's TFLOP/s in bf16 (an H200's: 989)")
    add("--threads", type=int, default=os.cpu_count() or 1, help="processes that load images")
    return parser.parse_args()


def setting(arguments: argparse.Namespace) -> Setting:
    """Return the paper's networks and recipes on a GPU, the demo's on a processor."""
    device, workers = use_machine(arguments.threads)
    gpu = device.type == "cuda"
    folder = PAPER if gpu else DEMO
    slim = {"channels": [16, 32, 64, 128], "stem_width": 8}
    choice = {"name": "resnet101"} if gpu else {"name": "resnet10t", "arguments": slim}
    recipe = load_file(folder / "pretrain_coco.yaml", DetectionRecipe)
    changes: dict[str, Any] = {"learning_rate": 1e-6}  # noise must not make it diverge
    if not gpu:
        changes["batch_size"] = 2
    steps = max(2, arguments.steps or (200 if gpu else 3))
    return Setting(
        choice=BackboneChoice.model_validate(choice),
        body="resnet101" if gpu else "resnet18",
        recipe=recipe.model_copy(update={"training": recipe.training.model_copy(update=changes)}),
        inference=load_file(folder / "evaluate_coco.yaml", InferenceRecipe),
        steps=steps,
        warm_up=max(1, min(50, steps // 4)),
        trained=4096 if gpu else 16,
        detected=arguments.images or (256 if gpu else 1),
        part=1 if gpu else 4,
        compiled=(False, True) if recipe.training.compile else (False,),
        device=device,
        workers=workers,
        peak=arguments.peak,
    )


def pictures(count: int, part: int, folder: Path) -> Index:
    """Return an index of COCO's statistics whose images share a few files of noise.

    Their sides, and the objects', are one ``part`` of COCO's.
    """
    index, rng = generated(count), np.random.default_rng(0)
    images, objects = index.images.copy(), index.objects.copy()
    images[["width", "height"]] //= part
    objects[BOX] /= part
    names = [
        f"{width}x{height}_{number % FILES}.jpg"
        for number, (width, height) in enumerate(images[["width", "height"]].to_numpy())
    ]
    for name in set(names):
        width, height = (int(side) for side in name.partition("_")[0].split("x"))
        coarse = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((width, height)), float)
        pixels = (smooth + rng.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name)
    labelled = objects.assign(class_id=rng.integers(0, CLASSES, len(objects)))
    return replace(index, images=images.assign(path=names), objects=labelled, root=folder)


def ours(what: Setting) -> Detector:
    """Return the project's detector, untrained."""
    torch.manual_seed(0)
    network = what.recipe.backbone
    backbone = build(what.choice, 0, network.output_stride, network.deformable_groups)
    detector = Detector(backbone, CLASSES, what.recipe)
    head: Any = detector.head
    be_sure(head.scores)
    return detector


def stock(what: Setting) -> Stock:
    """Return torchvision's, untrained."""
    torch.manual_seed(0)
    model = Stock(what)
    for block in model.modules():  # as in ours: else values grow until no box is a number
        if isinstance(block, BasicBlock | Bottleneck):
            last: Any = block.bn3 if isinstance(block, Bottleneck) else block.bn2
            last.weight.zero_()
    be_sure(model.network.roi_heads.box_predictor.cls_score)
    return model


@torch.no_grad()
def be_sure(scores: nn.Linear) -> None:
    """Let three classes of each proposal pass the threshold; of an untrained network all would."""
    scores.bias.fill_(-8.0)
    scores.bias[0] = 4.0
    scores.bias[1:4] = 0.0


def _deformable(x: Any, weight: torch.Size, *_: Any, out_shape: torch.Size, **__: Any) -> int:
    return 2 * math.prod(weight) * out_shape[0] * math.prod(out_shape[2:])


def _deformable_backward(grad: torch.Size, x: Any, weight: torch.Size, *_: Any, **__: Any) -> int:
    return 4 * math.prod(weight) * grad[0] * math.prod(grad[2:])


DEFORMABLE = {  # torchvision's operators on a GPU, which torch does not know how to count
    torch.ops.torchvision.deform_conv2d: _deformable,
    torch.ops.torchvision._deform_conv2d_backward: _deformable_backward,
}


def counted(images: int, work: Callable[[], object]) -> tuple[float, str]:
    """Return the FLOP an image of convolutions and matrix products, and words on their kinds.

    Nothing of ``work`` may be compiled.
    """
    with FlopCounterMode(display=False, custom_mapping=DEFORMABLE) as counter:
        work()
    kinds = dict.fromkeys(("convolutions", "deformable ones", "matrix products"), 0.0)
    for operator, flop in counter.get_flop_counts()["Global"].items():
        plain = "convolutions" if "aten.convolution" in str(operator) else "matrix products"
        kinds["deformable ones" if operator in DEFORMABLE else plain] += flop / images
    line = ", ".join(f"{name} {flop / 1e9:.2f}" for name, flop in kinds.items())
    whole = sum(kinds.values())
    return whole, f"{whole / 1e9:.2f} GFLOP: {line}"


def measure_training(model: nn.Module, chips: Epoch, compiled: bool, what: Setting) -> None:
    """Train by the project's loop; print speed, share of the peak and memory."""
    recipe = what.recipe.training
    piece = recipe.micro_batch or recipe.batch_size
    epoch_steps = math.ceil(len(chips(0)) / recipe.batch_size)  # type: ignore[arg-type]
    few = {"epochs": 1e-9, "batch_size": piece, "compile": False}  # one step
    many = {"epochs": what.steps / epoch_steps, "compile": compiled}

    def run(changes: dict[str, Any]) -> Fit:
        with tempfile.TemporaryDirectory() as state:
            where = Run(Path(state), 0, what.device, what.workers)
            return train(model, chips, recipe.model_copy(update=changes), where)

    work, line = counted(piece, lambda: run(few))
    forget(what.device)
    watch = Watch(what)
    hook = register_optimizer_step_post_hook(watch)
    fit = run(many)
    hook.remove()
    speed = watch.speed(recipe.batch_size)
    print(
        f"  training: {speed:.2f} chips/s of {what.recipe.chips.size} px, {what.share(speed, work)}"
    )
    print(f"    a chip's {line}")
    print(f"    peak {fit.peak_memory_mb:,.0f} MB; {watch.samples()}")
    if what.device.type == "cuda" and isinstance(model, Detector):
        print(f"    goal of {GOAL} chips/s on an H200: {'met' if speed >= GOAL else 'MISSED'}")


def measure_inference(model: Any, index: Index, compiled: bool, what: Setting) -> None:
    """Detect at all scales; print the speed of the second time, which compiles nothing."""
    few = replace(index, images=index.images.head(4))
    work, line = counted(
        len(few.images), lambda: predict(model, few, what.inference, what.device, 0)
    )
    forget(what.device)
    if compiled:
        compile_backbone(model.backbone)
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        found = predict(model, index, what.inference, what.device, what.workers)
        seconds.append(time.perf_counter() - started)
    speed, scales = len(index.images) / seconds[1], len(what.inference.scales)
    print(f"  inference at {scales} scales: {speed:.2f} images/s, {what.share(speed, work)}")
    print(f"    an image's {line}; {len(found) / len(index.images):.0f} detections an image")
    print(
        f"    peak {peak_memory_mb(what.device):,.0f} MB; the first time, with all that is made "
        f"once, took {seconds[0] - seconds[1]:.1f} s more"
    )


def measure(name: str, make: Callable[[Setting], Any], compiled: bool, what: Setting) -> None:
    """Measure training and inference of one network, each on a new one."""
    print(f"{name}, {'compiled' if compiled else 'not compiled'}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        index = pictures(what.trained, what.part, Path(folder))
        model = make(what)
        chips = chip_epochs(index, what.recipe.chips, model.backbone, 0)
        measure_training(model, chips, compiled, what)
        model = make(what)
        measure_inference(model, pictures(what.detected, what.part, Path(folder)), compiled, what)


def forget(device: torch.device) -> None:
    """Drop what came before: compiled code, free memory and the peak."""
    torch.compiler.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def main() -> None:
    what = setting(parse())
    print(f"{device_name(what.device)}, {what.steps} steps after a warm-up of {what.warm_up}")
    if what.device.type != "cuda":
        print("no GPU: the demo's networks for a moment; nothing of the goal is measured")
    for compiled in what.compiled:
        measure(f"ours, {what.choice.name}", ours, compiled, what)
    measure(f"torchvision's Faster R-CNN, {what.body} with FPN", stock, False, what)


if __name__ == "__main__":
    main()
