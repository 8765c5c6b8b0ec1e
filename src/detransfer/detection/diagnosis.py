"""The error analysis of Hoiem, Chodpathumwan and Dai (ECCV 2012), as their MATLAB code computes it.

Unlike VOC's average precision, matching lets a detection take the best object that is *still
free* (``matchDetectionsWithGroundTruth.m``): by falling score, among the objects of its class with
IoU >= 0.5 that no earlier detection has taken, the one with the largest IoU. A difficult object is
taken once and the detection ignored; a detection without a free object is a false positive, and a
*duplicate* if it overlaps any object of its class by 0.5. Crowds are ignored like difficult
objects and never used up.

Precision is normalised, because it would otherwise depend on how frequent a class or a stratum is
(``averagePrecisionNormalized.m``): with N = 0.15 times the number of images, true positives weigh
N / (number of objects).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from detransfer.console import InputError
from detransfer.detection.overlap import Candidates, match_in_order
from detransfer.strict import suggest

CORRECT = 0.5  # IoU of a correct box
CONFUSED = 0.1  # IoU from which a wrong box is about an object, and not background
MISSED = 0.05  # normalised precision below which a found object counts as missed
NORMAL_SHARE = 0.15  # N as a share of the images
QUANTILES = (1, 3, 7, 9)  # tenths that separate extra small, small, medium, large, extra large
# What becomes of a detection; a false positive is of the first kind of the last four that fits.
OUTCOMES = ("true_positive", "ignored", "localisation", "similar", "other", "background")
TRUE, IGNORED, LOCALISATION, SIMILAR, OTHER, BACKGROUND = range(6)


@dataclass(frozen=True)
class Diagnosis:
    """What became of n detections (by class, then by falling score) and m objects.

    ``outcome`` (n,) index in ``OUTCOMES``; ``duplicate`` (n,) localisation errors on objects that
    others found; ``bounds`` (classes + 1,) where each class begins; ``found_by`` (m,) the place
    of the true positive that found an object, or -1; ``counted`` (m,) False for difficult objects
    and crowds; ``object_class`` (m,); ``normal_count``: N, the number of objects that precision
    is normalised to.
    """

    outcome: np.ndarray
    duplicate: np.ndarray
    bounds: np.ndarray
    found_by: np.ndarray
    counted: np.ndarray
    object_class: np.ndarray
    normal_count: float

    @property
    def class_count(self) -> int:
        return len(self.bounds) - 1


def similar_classes(
    classes: pd.DataFrame, sets: Sequence[Sequence[str]] | None = None
) -> np.ndarray:
    """Return which classes are similar, bool (classes, classes) with a False diagonal.

    ``sets`` name classes that are similar to each other; None: those of one superclass. ``classes``
    is the index's table. Raises InputError for a name that is no class.
    """
    names = list(classes["name"])
    if sets is None:
        sets = [
            list(part["name"]) for kind, part in classes.groupby("superclass", sort=False) if kind
        ]
    similar = np.zeros((len(names), len(names)), bool)
    for group in sets:
        for name in group:
            if name not in names:
                hint = suggest(name, names)
                raise InputError(f"similar_classes: the data set has no class {name!r}{hint}")
        places = [names.index(name) for name in group]
        similar[np.ix_(places, places)] = True
    np.fill_diagonal(similar, False)
    return similar


def diagnose(
    objects: pd.DataFrame, found: Candidates, similar: np.ndarray, image_count: int
) -> Diagnosis:
    """Match detections with objects and say of each false positive what kind it is.

    ``objects`` is the index's table, ``found`` its candidates at an overlap of ``CONFUSED`` or
    less, ``similar`` as :func:`similar_classes` gives it.
    """
    object_class = objects["class_id"].to_numpy()
    counted = ~(objects["difficult"] | objects["crowd"]).to_numpy(bool)
    crowd = objects["crowd"].to_numpy(bool)
    of, other = found.class_id[found.detection], object_class[found.item]
    about = found.overlap >= CONFUSED
    outcome = np.full(len(found.row), BACKGROUND, np.int8)
    outcome[found.detection[about]] = OTHER
    outcome[found.detection[about & similar[of, other]]] = SIMILAR
    outcome[found.detection[about & (of == other)]] = LOCALISATION
    right = np.flatnonzero((of == other) & (found.overlap >= CORRECT))
    # Among equal overlaps the first object wins.
    right = right[np.lexsort((found.item[right], -found.overlap[right], found.detection[right]))]
    detection, item = found.detection[right], found.item[right]
    duplicate = np.zeros(len(outcome), bool)
    duplicate[detection] = True
    matches = match_in_order(detection, item, crowd[item])
    detection, item = detection[matches], item[matches]
    duplicate[detection] = False
    outcome[detection] = np.where(counted[item], TRUE, IGNORED)
    found_by = np.full(len(objects), -1)
    found_by[item[counted[item]]] = detection[counted[item]]
    return Diagnosis(
        outcome,
        duplicate,
        found.bounds,
        found_by,
        counted,
        object_class,
        NORMAL_SHARE * image_count,
    )


def normalised_precision(diagnosis: Diagnosis, chosen: np.ndarray) -> np.ndarray:
    """Return, for each object, the normalised precision at which it is found; 0 where it is not.

    ``chosen`` (m,) bool: the objects that count; true positives on others are ignored, as Hoiem's
    code does for a stratum. The precision is interpolated: the largest at this recall or above.
    """
    items = np.flatnonzero(chosen & (diagnosis.found_by >= 0))
    items = items[np.argsort(diagnosis.found_by[items])]
    place, of = diagnosis.found_by[items], diagnosis.object_class[items]
    bounds = np.searchsorted(place, diagnosis.bounds)
    rank = np.arange(len(items)) - bounds[of] + 1
    false = np.append(0, np.cumsum(diagnosis.outcome >= LOCALISATION))
    false_before = false[place] - false[diagnosis.bounds[of]]
    number = object_counts(diagnosis, chosen)
    weighted = rank * diagnosis.normal_count / number[of]
    envelope = weighted / (weighted + false_before)
    for first, last in pairwise(bounds):
        envelope[first:last] = np.maximum.accumulate(envelope[first:last][::-1])[::-1]
    precision = np.zeros(len(chosen))
    precision[items] = envelope
    return precision


def normalised_average(diagnosis: Diagnosis, chosen: np.ndarray) -> np.ndarray:
    """Return AP_N of the chosen objects of each class, (classes,); NaN where none is chosen.

    The mean of the interpolated precision at the true positives times the final recall, which is
    the mean over all objects with 0 for those that are not found.
    """
    return mean_by_class(diagnosis, normalised_precision(diagnosis, chosen), chosen)


def missed_objects(diagnosis: Diagnosis) -> np.ndarray:
    """Return which objects are missed, (m,): not found, or at too low a precision to be of use."""
    precision = normalised_precision(diagnosis, diagnosis.counted)
    return diagnosis.counted & (precision < MISSED)


def mean_by_class(diagnosis: Diagnosis, values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the mean of ``values`` (m,) over each class's chosen objects that count, (classes,).

    NaN where none is chosen.
    """
    chosen = chosen & diagnosis.counted
    number = object_counts(diagnosis, chosen)
    total = np.bincount(diagnosis.object_class[chosen], values[chosen], diagnosis.class_count)
    return np.divide(total, number, out=np.full(len(number), np.nan), where=number > 0)


def object_counts(diagnosis: Diagnosis, chosen: np.ndarray) -> np.ndarray:
    """Return how many of each class's chosen objects count, (classes,)."""
    class_id = diagnosis.object_class[chosen & diagnosis.counted]
    return np.bincount(class_id, minlength=diagnosis.class_count)


def count_outcomes(diagnosis: Diagnosis) -> tuple[np.ndarray, np.ndarray]:
    """Return outcomes (classes, ``OUTCOMES``) and duplicates (classes,) of the top detections.

    Counted are as many detections of a class, best first, as it has objects.
    """
    number = object_counts(diagnosis, diagnosis.counted)
    size = np.diff(diagnosis.bounds)
    class_id = np.repeat(np.arange(diagnosis.class_count), size)
    rank = np.arange(len(class_id)) - diagnosis.bounds[class_id]
    top = rank < number[class_id]
    counts = np.zeros((diagnosis.class_count, len(OUTCOMES)), np.int64)
    np.add.at(counts, (class_id[top], diagnosis.outcome[top]), 1)
    twice = np.bincount(class_id[top & diagnosis.duplicate], minlength=diagnosis.class_count)
    return counts, twice


def quantile_strata(diagnosis: Diagnosis, values: np.ndarray) -> np.ndarray:
    """Return 0 to 4 for each counted object by its class's quantiles of ``values``, else -1.

    The limits are the values at ranks n / 10, 3 n / 10, 7 n / 10 and 9 n / 10 of the n counted
    objects, rounded half up; an object at a limit lies below it (``analyzeTrueDetections.m``).
    """
    strata = np.full(len(values), -1)
    for class_id in range(diagnosis.class_count):
        mine = np.flatnonzero(diagnosis.counted & (diagnosis.object_class == class_id))
        if len(mine):
            ranks = [max((2 * tenths * len(mine) + 10) // 20, 1) for tenths in QUANTILES]
            limits = np.sort(values[mine])[np.array(ranks) - 1]
            strata[mine] = np.searchsorted(limits, values[mine])
    return strata
