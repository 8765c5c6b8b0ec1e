"""Time trimaps, confusion matrices and a whole evaluation at the size of VOC's validation set.

Made-up masks of 500 x 375 pixels with void borders. The goals: trimaps of all 40 widths 30 times as
fast as a dilation by a disc for each width, confusion matrices 10 times as fast as torchmetrics,
and 1,449 images scored at both resolutions and all distances within 12 s on one core, files
included. Run from the repository: python tests/benchmarks/segmentation.py
"""

from __future__ import annotations

import runpy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "src"), str(REPOSITORY)]

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from torchmetrics.classification import MulticlassConfusionMatrix  # noqa: E402

from detransfer.data.index import Index, empty_objects, read_index, write_index  # noqa: E402
from detransfer.data.masks import VOID, encode_mask, resize_labels  # noqa: E402
from detransfer.recipes.segmentation import ResizeRecipe  # noqa: E402
from detransfer.segmentation.by_distance import WIDTHS  # noqa: E402
from detransfer.segmentation.confusion import confusion  # noqa: E402
from detransfer.segmentation.predictions import Predictions, write_predictions  # noqa: E402
from detransfer.segmentation.trimap import confusion_by_distance  # noqa: E402

CLASSES, IMAGES, DRAWN = 21, 1449, 50
HEIGHT, WIDTH = 375, 500
RECIPE = ResizeRecipe(short=360, long=600)
Masks = list[tuple[np.ndarray, np.ndarray]]


def draw_masks() -> Masks:
    """Return pairs of a true mask with void borders and a prediction that is a little off."""
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(DRAWN):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        for _ in range(4):
            centre = int(rng.integers(WIDTH)), int(rng.integers(HEIGHT))
            axes = int(rng.integers(20, 150)), int(rng.integers(20, 120))
            colour = int(rng.integers(1, CLASSES))
            cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1)
        square = np.ones((5, 5), np.uint8)
        rim = cv2.dilate(mask, square) != cv2.erode(mask, square)
        pairs.append((np.where(rim, np.uint8(VOID), mask), np.roll(mask, 4, 1)))
    return pairs


def seconds(call: Callable[[], object], runs: int = 3) -> float:
    """Return the median processor time of ``call``, which is called once before."""
    call()
    times = []
    for _ in range(runs):
        started = time.process_time()
        call()
        times.append(time.process_time() - started)
    return statistics.median(times)


def by_dilation(truth: np.ndarray, predicted: np.ndarray) -> None:
    """Score each width as the definition says: dilate the void by a disc, count inside."""
    void = (truth == VOID).astype(np.uint8)
    for width in range(1, WIDTHS + 1):
        away = np.arange(-width, width + 1) ** 2
        disc = (away[:, None] + away[None, :] <= width**2).astype(np.uint8)
        band = cv2.dilate(void, disc, borderValue=0) > 0
        confusion(np.where(band, truth, np.uint8(VOID)), predicted, CLASSES)


def trimaps(masks: Masks) -> None:
    ours = seconds(lambda: [confusion_by_distance(*pair, CLASSES) for pair in masks])
    some = masks[:5]
    theirs = seconds(lambda: [by_dilation(*pair) for pair in some], 1) * len(masks) / len(some)
    print(
        f"{WIDTHS} trimaps of {len(masks)} masks: {ours:.2f} s; by dilation {theirs:.1f} s: "
        f"{theirs / ours:.0f} times (goal: 30)"
    )


def confusions(masks: Masks) -> None:
    ours = seconds(lambda: [confusion(*pair, CLASSES) for pair in masks])
    for check in (True, False):
        metric = MulticlassConfusionMatrix(CLASSES, ignore_index=VOID, validate_args=check)
        pairs = [(torch.from_numpy(p).long(), torch.from_numpy(t).long()) for t, p in masks]
        theirs = seconds(lambda m=metric, p=pairs: [m.update(*pair) for pair in p])  # type: ignore[misc]
        print(
            f"confusion of a mask: {1e3 * ours / len(masks):.2f} ms; torchmetrics "
            f"{'with' if check else 'without'} checks {1e3 * theirs / len(masks):.1f} ms: "
            f"{theirs / ours:.0f} times (goal: 10)"
        )


def write_set(folder: Path, masks: Masks) -> tuple[Index, Predictions]:
    """Write files for 1,449 images, the drawn masks over and over."""
    (folder / "masks").mkdir()
    rows, predicted = [], []
    for number in range(IMAGES):
        truth, found = masks[number % len(masks)]
        (folder / "masks" / f"{number}.png").write_bytes(encode_mask(truth))
        predicted.append((number, resize_labels(found, *RECIPE.size(HEIGHT, WIDTH))))
        rows.append((number, "none.jpg", WIDTH, HEIGHT, "val", f"masks/{number}.png"))
    columns = ["image_id", "path", "width", "height", "split", "mask"]
    classes = pd.DataFrame({"class_id": range(CLASSES), "name": [str(c) for c in range(CLASSES)]})
    classes = classes.assign(source_id="", superclass="")
    write_index(
        folder / "index",
        Index(pd.DataFrame(rows, columns=columns), empty_objects(), classes, folder),
    )
    write_predictions(folder / "predictions.zip", predicted)
    index = read_index(folder / "index")
    return index, Predictions(folder / "predictions.zip", list(range(IMAGES)), CLASSES)


def evaluation(masks: Masks) -> None:
    evaluate = runpy.run_path(str(REPOSITORY / "scripts/evaluate_segmentation.py"))["evaluate"]
    with tempfile.TemporaryDirectory() as name:
        index, predictions = write_set(Path(name), masks)
        taken = seconds(lambda: evaluate(index, predictions, RECIPE), 1)
    print(f"evaluation of {IMAGES} images, files included: {taken:.1f} s (goal: 12)")


def main() -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    masks = draw_masks()
    trimaps(masks)
    confusions(masks)
    evaluation(masks)


if __name__ == "__main__":
    main()
