"""The paper's statements, each as a number that can come out otherwise.

A statement is about a sum of *statistics* of a run, and about how it compares two runs: a
pre-training on detection with the one it started from (``start``), with other detection
pre-trainings (``named``), or nothing (``alone``: the statistics themselves are compared).
Statistics are called as in the tables (``mAP@0.7``, ``mIoU``, ``missed@low``), those of classifiers
``top1 fine-tuned`` and, of linear probes of a frozen layer, ``top1 conv5``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Sign = Literal["more", "less", "same"]
HEAD: tuple[tuple[str, str, str, Sign], ...] = (  # of Table 7: a layer, another, what is claimed
    ("worse_at_the_output", "fc2", "conv5", "less"),
    ("fc1_over_fc2", "fc1", "fc2", "more"),
    ("average_over_grid", "conv_proj_avg", "conv_proj_whole", "more"),
    ("average_over_2x2", "conv_proj_avg", "conv_proj_2x2", "more"),
    ("2x2_over_4x4", "conv_proj_2x2", "conv_proj_4x4", "more"),
)
IOUS = tuple(round(0.1 * step, 1) for step in range(1, 10))
SAME = 1.0  # points within which two numbers are the same: the paper's own "within 1%"


@dataclass(frozen=True)
class Statement:
    """One statement: where it stands, the quantity in words, its terms, and what is claimed.

    ``terms`` are pairs of weight and statistic. ``expected`` is the sign of the quantity: ``more``
    (above zero), ``less`` (below), or ``same`` (within ``margin`` of zero either way). ``named``
    are the two runs of ``against="named"``. ``dataset`` is the one data set that it is about, if it
    is about one. ``published`` is the effect where no table of the paper holds it. ``seeded``:
    seeds train something that it is about (not so of frozen networks that are only looked at).
    ``controls`` are what must hold for the verdict to count.
    """

    id: str
    place: str
    quantity: str
    terms: tuple[tuple[float, str], ...]
    expected: Sign
    controls: tuple[str, ...]
    against: Literal["start", "alone", "named"] = "start"
    named: tuple[str, str] | None = None
    dataset: str | None = None
    published: float | None = None
    unit: str = "points"
    seeded: bool = True

    @property
    def margin(self) -> float | None:
        return SAME if self.expected == "same" else None

    @property
    def statistics(self) -> tuple[str, ...]:
        return tuple(name for _, name in self.terms)


EVERY = ("random", "a_against_a", "planted", "oracle", "leaks", "destroyed", "dial")
DETECTION = EVERY
SEGMENTATION = EVERY
CLASSIFICATION = (*EVERY, "shuffled_finetuning")
PROBE = (*EVERY, "shuffled_probe")
BOTH = (*EVERY, "shuffled_finetuning", "shuffled_probe")
SPACES = ("a_against_a", "planted", "oracle", "leaks", "dial")
SETS = ("imagenet_loc", "coco", "openimages")
# The slope of a least-squares line through the scores at the nine overlaps, per step of 0.1.
SLOPE = tuple((round((10 * iou - 5) / 60, 4), f"mAP@{iou:g}") for iou in IOUS)

VOC = (
    Statement(
        "map50", "4.1, Table 2", "gain in VOC mAP at IoU 0.5",
        ((1, "mAP@0.5"),), "more", DETECTION,
    ),
    Statement(
        "map70", "4.1, Table 2", "gain in VOC mAP at IoU 0.7",
        ((1, "mAP@0.7"),), "more", DETECTION,
    ),
    Statement(
        "map70_over_map50", "4.1, Pre-training helps at higher IoU",
        "gain in mAP at IoU 0.7, less the gain at 0.5",
        ((1, "mAP@0.7"), (-1, "mAP@0.5")), "more", DETECTION,
    ),
    Statement(
        "gain_grows_with_iou", "4.1, Figure 1",
        "growth of the gain in mAP for each 0.1 of IoU, from 0.1 to 0.9",
        SLOPE, "more", DETECTION,
    ),
    Statement(
        "large_errors_are_rare", "4.1, Figure 1",
        "mAP lost from IoU 0.5 to 0.7, less that lost from 0.1 to 0.5",
        ((2, "mAP@0.5"), (-1, "mAP@0.7"), (-1, "mAP@0.1")), "more", DETECTION, "alone",
    ),
    *(
        Statement(
            f"sets_agree_{'' if iou == '0.5' else 'at_0.7_'}{one}_{other}",
            "4.1, Pre-training helps at higher IoU",
            f"difference in VOC mAP at IoU {iou} between {one} and {other}",
            ((1, f"mAP@{iou}"),), "same", DETECTION, "named", (one, other),
        )
        for iou in ("0.5", "0.7")
        for one, other in (SETS[:2], SETS[::2], SETS[1:])
    ),
    *(
        Statement(
            f"fewer_missed_{level}", "4.1, Table 3",
            f"change in the share of objects missed at {level} occlusion",
            ((1, f"missed@{level}"),), "less", DETECTION,
        )
        for level in ("low", "medium")
    ),
)  # fmt: skip
COCO = (
    Statement(
        "coco_ap50", "4.1, Fine-tuning on PASCAL-VOC", "gain in COCO AP at IoU 0.5",
        ((1, "AP@0.5"),), "more", DETECTION,
    ),
    Statement(
        "coco_ap75", "4.1, Fine-tuning on PASCAL-VOC", "gain in COCO AP at IoU 0.75",
        ((1, "AP@0.75"),), "more", DETECTION,
    ),
    Statement(
        "coco_ap75_over_ap50", "4.1, Pre-training helps at higher IoU",
        "gain in COCO AP at IoU 0.75, less the gain at 0.5",
        ((1, "AP@0.75"), (-1, "AP@0.5")), "more", DETECTION,
    ),
)  # fmt: skip
MASKS = (
    Statement(
        "miou", "4.2, Table 4", "gain in mean IoU", ((1, "mIoU"),), "more", SEGMENTATION,
    ),
    Statement(
        "trimap_as_outside", "4.2, Figure 4",
        "gain in mean IoU inside the trimap less that outside, mean over the widths",
        ((1, "mIoU in trimap"), (-1, "mIoU in anti-trimap")), "same", SEGMENTATION,
    ),
    Statement(
        "trimap_gain_is_constant", "4.2, Figure 4",
        "gain in mean IoU inside the widest trimap less that inside one of 5 pixels",
        ((1, "mIoU in trimap@40"), (-1, "mIoU in trimap@5")), "same", SEGMENTATION,
    ),
    Statement(
        "gain_away_from_borders", "4.2, Figure 4",
        "gain in mean IoU outside the trimap, mean over the widths",
        ((1, "mIoU in anti-trimap"),), "more", SEGMENTATION,
    ),
    *(
        Statement(
            f"iou_{name}", "4.2, Qualitative and Semantic Analysis", f"gain in the IoU of {name}",
            ((1, f"IoU {name}"),), "same" if name == "pottedplant" else "more", SEGMENTATION,
        )
        for name in ("sheep", "cow", "diningtable", "pottedplant")
    ),
)  # fmt: skip
CLASSES = (
    Statement(
        "finetuned_top1", "4.3, Table 5", "change in top-1 after fine-tuning",
        ((1, "top1 fine-tuned"),), "less", CLASSIFICATION,
    ),
    Statement(
        "frozen_top1", "4.3, Table 6", "change in top-1 of a linear probe of Conv5",
        ((1, "top1 conv5"),), "less", PROBE,
    ),
    Statement(
        "frozen_more_than_finetuned", "4.3, Conv5 features",
        "change in top-1 of frozen features, less that after fine-tuning",
        ((1, "top1 conv5"), (-1, "top1 fine-tuned")), "less", BOTH,
    ),
    Statement(
        "frozen_imagenet_loc_as_openimages", "4.3, Conv5 features",
        "difference in top-1 of frozen Conv5 between imagenet_loc and openimages",
        ((1, "top1 conv5"),), "same", PROBE, "named", ("imagenet_loc", "openimages"),
        "caltech256", 0.0,
    ),
    Statement(
        "frozen_coco_below_openimages", "4.3, Conv5 features",
        "difference in top-1 of frozen Conv5 between coco and openimages",
        ((1, "top1 conv5"),), "less", PROBE, "named", ("coco", "openimages"), "caltech256", -2.0,
    ),
    *(
        Statement(
            f"head_{id}", "4.3, Table 7", f"top-1 of a linear probe of {one}, less that of {other}",
            ((1, f"top1 {one}"), (-1, f"top1 {other}")), sign, PROBE, "alone",
        )
        for id, one, other, sign in HEAD
    ),
)  # fmt: skip
LOOKED_AT = (
    Statement(
        "same_cluster", "4.3, Figure 6",
        "P(same cluster after classification | same after detection) less the reverse, mean over "
        "the numbers of clusters",
        ((1, "same cluster"),), "more", SPACES, "alone",
    ),
    Statement(
        "fragmented", "4.3, Figure 7",
        "change in the share of an image's nearest neighbours that are of its class",
        ((1, "neighbours alike"),), "less", SPACES, seeded=False,
    ),
    Statement(
        "activations_on_objects", "4.4, Figure 8",
        "change in the share of the activation that lies on the objects",
        ((1, "inside share"),), "more", SPACES, seeded=False,
    ),
    Statement(
        "activations_cover_objects", "4.4, Figure 8",
        "change in the IoU of the objects with the activation above its best threshold",
        ((1, "best IoU"),), "more", SPACES, seeded=False,
    ),
    Statement(
        "masking_drop", "4.4, Figure 9",
        "change in the mean drop of the true class's probability under a mask",
        ((1, "mean drop"),), "less", (*SPACES, "shuffled_probe"), seeded=False,
    ),
    Statement(
        "masking_fragile", "4.4, Figure 9",
        "change in the share of mask positions that halve the true class's probability",
        ((1, "fragile share"),), "less", (*SPACES, "shuffled_probe"), seeded=False,
    ),
)  # fmt: skip
STATEMENTS = (*VOC, *COCO, *MASKS, *CLASSES, *LOOKED_AT)
