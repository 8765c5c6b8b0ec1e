"""Which detections overlap which objects, and who gets whom when several want one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from detransfer.data.index import BOX

CHUNK = 2**16  # detections looked at together, which bounds the memory


@dataclass(frozen=True)
class Candidates:
    """Detections by class and then by falling score, with the objects that each overlaps.

    ``row`` (n,) the detection's row in its table, equal scores in the order of the table;
    ``bounds`` (classes + 1,) where each class begins. A pair k of p is the detection at place
    ``detection[k]`` (rising), the object in row ``item[k]`` *of any class* in the same image, and
    their ``overlap[k]``: the IoU, or for a crowd the share of the detection that lies inside.
    """

    row: np.ndarray
    bounds: np.ndarray
    detection: np.ndarray
    item: np.ndarray
    overlap: np.ndarray

    @property
    def class_id(self) -> np.ndarray:
        """The class of each detection, (n,)."""
        return np.repeat(np.arange(len(self.bounds) - 1), np.diff(self.bounds))


def candidates(
    objects: pd.DataFrame, detections: pd.DataFrame, class_count: int, least: float
) -> Candidates:
    """Order the detections and pair them with every object that they overlap by ``least``.

    ``objects`` is the index's table, ``detections`` that of ``detections.parquet``; ``least`` must
    be above 0.
    """
    class_id = detections["class_id"].to_numpy()
    row = np.lexsort((-detections["score"].to_numpy(), class_id))
    detection, item = _meeting(detections.iloc[row], objects)
    boxes = detections[BOX].to_numpy(np.float64)[row][detection]
    others = objects[BOX].to_numpy(np.float64)[item]
    overlap = iou(boxes, others)
    crowd = objects["crowd"].to_numpy(bool)[item]
    overlap[crowd] = intersection(boxes[crowd], others[crowd]) / area(boxes[crowd])
    enough = overlap >= least
    bounds = np.searchsorted(class_id[row], np.arange(class_count + 1))
    return Candidates(row, bounds, detection[enough], item[enough], overlap[enough])


def _meeting(detections: pd.DataFrame, objects: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return places of detections (rising) and objects of one image whose boxes meet."""
    image, other = detections["image_id"].to_numpy(), objects["image_id"].to_numpy()
    order = np.argsort(other, kind="stable")
    first = np.searchsorted(other[order], image)
    number = np.searchsorted(other[order], image, side="right") - first
    x1, y1, x2, y2 = (detections[name].to_numpy() for name in BOX)
    left, top, right, bottom = (objects[name].to_numpy() for name in BOX)
    found = [(np.empty(0, np.int64), np.empty(0, np.int64))]
    for start in range(0, len(image), CHUNK):
        count = number[start : start + CHUNK]
        place = np.repeat(np.arange(start, start + len(count)), count)
        step = np.arange(len(place)) - np.repeat(np.cumsum(count) - count, count)
        item = order[first[place] + step]
        meets = (x1[place] < right[item]) & (left[item] < x2[place])
        meets &= (y1[place] < bottom[item]) & (top[item] < y2[place])
        found.append((place[meets], item[meets]))
    return np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])


def match_in_order(detection: np.ndarray, item: np.ndarray, reusable: np.ndarray) -> np.ndarray:
    """Let detections choose one after another; return the places of the pairs that come about.

    Pairs (p,) stand by detection in the order of choosing, and within a detection the best object
    first. Each detection takes its first object that is still free; ``reusable`` (p,) marks pairs
    with objects that are never used up.

    All ask at once: an object goes to the first in order among those who ask, the others ask for
    their next one. Since all objects prefer the same order, this ends where choosing one by one
    ends (Gale and Shapley 1962), after a few rounds on whole arrays.
    """
    if not len(detection):
        return np.empty(0, np.int64)
    start = np.flatnonzero(np.append(True, detection[1:] != detection[:-1]))
    end = np.append(start[1:], len(detection))
    choice, nobody = start.copy(), len(start)
    holder = np.full(item.max() + 1, nobody)
    asking = np.arange(nobody)
    while len(asking):
        asking = asking[~reusable[choice[asking]]]
        wanted = item[choice[asking]]
        before = holder[wanted]
        np.minimum.at(holder, wanted, asking)
        won = holder[wanted] == asking
        refused = np.append(asking[~won], before[won & (before != nobody)])
        choice[refused] += 1
        asking = refused[choice[refused] < end[refused]]
    return choice[choice < end]


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the IoU of pairs of half-open boxes (k, 4) float64: 0 where they do not meet."""
    inter = intersection(first, second)
    union = area(first) + area(second) - inter
    return np.divide(inter, union, out=np.zeros(len(inter)), where=inter > 0)


def intersection(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the area that pairs of half-open boxes (k, 4) share, in pixels."""
    sides = np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2])
    return np.where((sides > 0).all(1), sides[:, 0] * sides[:, 1], 0)


def area(boxes: np.ndarray) -> np.ndarray:
    """Return the areas of half-open boxes (k, 4) in pixels."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
