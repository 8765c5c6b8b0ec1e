"""COCO's and Open Images' average precision, by a maintained evaluator (hotcoco).

COCO: ten overlaps, 101 points of recall, at most 100 detections an image; crowds match any number
of detections and count for nothing. Open Images: overlap 0.5, the whole area under the curve; a
group counts once however often it is hit, and only classes that people verified in an image,
as present or as absent, are scored there.
"""

from __future__ import annotations

import contextlib
import io
import warnings

import numpy as np
import pandas as pd
from hotcoco import COCO, COCOeval

from detransfer.console import InputError
from detransfer.data.index import BOX, Index

COCO_NAMES = {  # of this project, by the evaluator's
    "AP": "AP@[.5:.95]",
    "AP50": "AP@0.5",
    "AP75": "AP@0.75",
    "APs": "AP small",
    "APm": "AP medium",
    "APl": "AP large",
}


def coco_average_precision(
    index: Index, detections: pd.DataFrame
) -> tuple[dict[str, float], np.ndarray]:
    """Return COCO's six average precisions by name, and the first of each class (classes,).

    Shares of 1; NaN without objects.
    Sizes are areas of boxes, since the index has no outlines: the three by size differ a little
    from the official ones, which take areas of masks.
    """
    evaluation = _evaluate(index, detections, open_images=False)
    result = evaluation.get_results()
    found = {ours: float(result[name]) for name, ours in COCO_NAMES.items()}
    known = {name: np.nan if value < 0 else value for name, value in found.items()}
    return known, _by_class(index, evaluation)


def open_images_average_precision(index: Index, detections: pd.DataFrame) -> np.ndarray:
    """Return the average precision (classes,) at overlap 0.5 as shares of 1.

    NaN for a class without objects. Detections of classes that nobody verified in their image are
    left out. Raises InputError for an index without verified negatives.
    """
    kept = detections[verified(index, detections)]
    return _by_class(index, _evaluate(index, kept, open_images=True))


def verified(index: Index, detections: pd.DataFrame) -> np.ndarray:
    """Return which detections (n,) are of a class that their image has or is known not to have.

    Raises InputError for an index without verified negatives.
    """
    if index.negatives is None:
        raise InputError(
            f"{index.root}: its index has no verified negatives, which Open Images' metric needs; "
            "index Open Images again, or choose another metric"
        )
    known = pd.concat([index.objects[["image_id", "class_id"]], index.negatives])
    pairs = [
        table["image_id"].to_numpy(np.int64) * len(index.classes) + table["class_id"].to_numpy()
        for table in (detections, known)
    ]
    return np.isin(*pairs)


def _by_class(index: Index, evaluation: COCOeval) -> np.ndarray:
    """Return the average precision of each class, NaN where it has no object."""
    found = evaluation.results(per_class=True)["per_class"]
    values = [found.get(str(number), np.nan) for number in index.classes["class_id"]]
    return np.where(np.array(values, float) < 0, np.nan, np.array(values, float))


def _evaluate(index: Index, detections: pd.DataFrame, open_images: bool) -> COCOeval:
    truth = COCO()
    truth.dataset = _dataset(index)
    boxes = detections[BOX].to_numpy(np.float64)
    rows = np.column_stack(
        [
            detections["image_id"],
            boxes[:, :2],
            boxes[:, 2:] - boxes[:, :2],
            detections["score"],
            detections["class_id"],
        ]
    )
    found = truth.loadRes(rows)
    evaluation = COCOeval(truth, found, "bbox", oid_style=open_images)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a rule that `verified` has seen to
        evaluation.run()
    return evaluation


def _dataset(index: Index) -> dict[str, list[dict[str, object]]]:
    """Return the index in COCO's form; a class is called by its id."""
    boxes = index.objects[BOX].to_numpy(np.float64)
    sides = boxes[:, 2:] - boxes[:, :2]
    flags = index.objects[["crowd", "difficult", "group_of"]].to_numpy()
    annotations: list[dict[str, object]] = [
        {
            "id": number + 1,
            "image_id": int(image),
            "category_id": int(class_id),
            "bbox": [*box[:2].tolist(), *side.tolist()],
            "area": float(side.prod()),
            "iscrowd": int(crowd or difficult),
            "is_group_of": bool(group),
        }
        for number, (image, class_id, box, side, (crowd, difficult, group)) in enumerate(
            zip(
                index.objects["image_id"],
                index.objects["class_id"],
                boxes,
                sides,
                flags,
                strict=True,
            )
        )
    ]
    images: list[dict[str, object]] = [
        {"id": int(image), "width": int(width), "height": int(height)}
        for image, width, height in index.images[["image_id", "width", "height"]].itertuples(
            index=False
        )
    ]
    categories: list[dict[str, object]] = [
        {"id": int(number), "name": str(number)} for number in index.classes["class_id"]
    ]
    return {"images": images, "annotations": annotations, "categories": categories}
