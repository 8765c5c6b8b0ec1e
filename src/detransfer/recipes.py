"""The recipes: one annotated YAML file for each stage of a study, in typed models.

``pretrain_<pre-training>.yaml`` and ``finetune_<target>.yaml`` say how a network is trained;
``evaluate_<target>.yaml`` says how it is run and scored. A recipe file is an input of its rule.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from detransfer.console import InputError
from detransfer.study import Distinct, Strict, Study, load_recipe_file

Range = tuple[float, float | None]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
POOLED_SIDES = (4, 2)  # of the RoI blob, in Table 7
REPORTED_IOUS = tuple(tenth / 10 for tenth in range(1, 10))  # by Figure 1; Table 2: two of them


class TrainingRecipe(Strict):
    """Optimiser, schedule and numerics: what the one training loop needs."""

    epochs: float = Field(gt=0, description="passes over the training set")
    batch_size: int = Field(gt=0, description="global batch, whatever the number of devices")
    micro_batch: int | None = Field(
        None,
        gt=0,
        description="images that share batch statistics and means of detection losses, whatever "
        "the number of devices, of which each holds at most so many at once; null: the batch",
    )
    optimizer: Literal["sgd", "adamw"] = Field(description="optimiser")
    learning_rate: float = Field(gt=0, description="peak rate, for mean gradients over the batch")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd")
    nesterov: bool = Field(False, description="Nesterov momentum of sgd")
    weight_decay: float = Field(ge=0, description="on convolution and linear weights only")
    warmup_steps: int = Field(0, ge=0, description="steps of linear warm-up")
    warmup_factor: float = Field(0.0, ge=0, le=1, description="first rate as a share of the peak")
    schedule: Literal["constant", "step", "cosine"] = Field(description="decay after warm-up")
    step_epochs: tuple[Positive, ...] = Field((), description="epochs at which `step` decays")
    step_factor: float = Field(0.1, gt=0, le=1, description="factor at each of them")
    clip_norm: float | None = Field(None, gt=0, description="largest gradient norm; null: any")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="autocast of the backbone")
    channels_last: bool = Field(True, description="memory layout NHWC")
    compile: bool = Field(False, description="torch.compile of the backbone")
    checkpoint_minutes: float = Field(10, gt=0, description="time between checkpoints, minutes")
    log_every: int = Field(50, gt=0, description="steps between log lines")

    @model_validator(mode="after")
    def _steps_fit(self) -> TrainingRecipe:
        if (self.schedule == "step") != bool(self.step_epochs):
            raise ValueError("step_epochs: given exactly when schedule is 'step'")
        if self.micro_batch and self.batch_size % self.micro_batch:
            raise ValueError("micro_batch: must divide batch_size")
        return self

    def splits_among(self, devices: int) -> bool:
        """Return whether each device can hold whole micro-batches, or an equal part of one."""
        images, rest = divmod(self.batch_size, devices)
        micro = self.micro_batch or self.batch_size
        return rest == 0 and (images % micro == 0 or micro % images == 0)


class BackboneRecipe(Strict):
    """How dense the backbone's Conv5 is, and what of the backbone moves."""

    output_stride: Literal[8, 16, 32] = Field(description="input pixels a step of Conv5")
    deformable_groups: int = Field(
        0,
        ge=0,
        description="groups of channels that share offsets in Conv5's deformable 3x3 convolutions "
        "(DCNv1; SNIPER's code: 4, DeepLab's: 1); 0: plain convolutions",
    )
    freeze: tuple[str, ...] = Field((), description="prefixes of parameter names kept fixed")
    batch_norm: Literal["frozen", "trained"] = Field(
        description="frozen: stored statistics, fixed scale and shift; trained: of the batch"
    )


class ImageRecipe(Strict):
    """How a classifier sees an image, in training and at test time."""

    size: int = Field(gt=0, description="side of the square input, pixels")
    resize: int = Field(gt=0, description="shorter side before the central test crop, pixels")
    minimum_area: float = Field(
        0.08, gt=0, le=1, description="smallest share of the image in a random training crop"
    )
    flip: bool = Field(True, description="mirror half of the training images")

    @model_validator(mode="after")
    def _crop_fits(self) -> ImageRecipe:
        if self.resize < self.size:
            raise ValueError("resize: must be at least `size`")
        return self


class SearchRecipe(Strict):
    """Which learning rate and weight decay to train with: all pairs, on a held-out fifth."""

    learning_rates: Annotated[tuple[Positive, ...], Distinct] = Field(
        min_length=1, description="peak rates to try, instead of training.learning_rate"
    )
    weight_decays: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Distinct] = Field(
        min_length=1, description="to try with each of them, instead of training.weight_decay"
    )
    epochs: float | None = Field(
        None, gt=0, description="passes over the other four fifths; null: training.epochs"
    )


class ClassificationRecipe(Strict):
    """Training of a classifier (the paper's section 4.3; silent points after Kornblith et al.)."""

    task: Literal["classification"]
    training: TrainingRecipe
    backbone: BackboneRecipe
    images: ImageRecipe
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share spread over all classes")
    search: SearchRecipe | None = Field(
        None, description="choose learning rate and weight decay for each pre-training; null: as is"
    )


class FeatureRecipe(Strict):
    """How frozen features are recorded: of one central view of each image."""

    task: Literal["features"]
    size: int = Field(gt=0, description="side of the square input, pixels")
    resize: int = Field(gt=0, description="shorter side before the central crop, pixels")
    output_stride: Literal[8, 16, 32] = Field(
        description="input pixels a step of Conv5, for every network (a detector's: its own)"
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="autocast of the backbone")
    batch_size: int = Field(gt=0, description="images at once; changes nothing but speed")
    checkpoint_seconds: float = Field(30, gt=0, description="time between marks of progress")

    @model_validator(mode="after")
    def _crop_fits(self) -> FeatureRecipe:
        if self.resize < self.size:
            raise ValueError("resize: must be at least `size`")
        return self


class ProbeRecipe(Strict):
    """Linear and nearest-neighbour probes of frozen features (the paper's section 4.3)."""

    task: Literal["probe"]
    penalties: Annotated[tuple[Positive, ...], Distinct] = Field(
        min_length=1,
        description="weights of half the squared norm beside the mean cross-entropy, falling",
    )
    tolerance: float = Field(
        gt=0, lt=1, description="gradient norm at the end, relative to that of zero weights"
    )
    iterations: int = Field(gt=0, description="most steps of L-BFGS for one penalty")
    shots: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Distinct] = Field(
        description="training images a class of the few-shot probes"
    )
    neighbours: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Distinct] = Field(
        description="nearest training images that vote"
    )

    @model_validator(mode="after")
    def _falling(self) -> ProbeRecipe:
        if list(self.penalties) != sorted(self.penalties, reverse=True):
            raise ValueError("penalties: the largest comes first, where the path starts")
        return self


class ScaleRecipe(Strict):
    """One scale: shorter side with the longer one capped, or a factor; and what it is good for."""

    short: int | None = Field(None, gt=0, description="shorter side, pixels; null: fit `long`")
    long: int | None = Field(None, gt=0, description="largest longer side, pixels")
    factor: float | None = Field(None, gt=0, description="plain factor instead of both")
    valid_range: Range = Field(
        (0, None), description="sqrt(area) of objects it handles, original pixels; null: no end"
    )

    @model_validator(mode="after")
    def _one_form(self) -> ScaleRecipe:
        if (self.long is None) == (self.factor is None):
            raise ValueError("give either `long` (with or without `short`) or `factor`")
        if self.short is not None and (self.long is None or self.short > self.long):
            raise ValueError("short: needs `long`, and must not exceed it")
        low, high = self.valid_range
        if low < 0:
            raise ValueError(f"valid_range: begins at {low:g}; sizes are 0 or more")
        if high is not None and high <= low:
            raise ValueError(f"valid_range: {low} to {high} is empty")
        return self

    def finer_than(self, other: ScaleRecipe) -> bool:
        """Return whether every image is made larger than at ``other``; False if it depends."""
        if self.factor is not None and other.factor is not None:
            return self.factor > other.factor
        if self.long is None or other.long is None:
            return False
        mine, its = ((scale.short or math.inf, scale.long) for scale in (self, other))
        return mine != its and mine[0] >= its[0] and self.long >= other.long


def _check_ranges(scales: Sequence[ScaleRecipe]) -> None:
    """Raise ValueError if there are sizes between the scales' valid ranges."""
    ranges = sorted((s.valid_range[0], s.valid_range[1] or math.inf) for s in scales)
    for place in range(1, len(ranges)):
        top, low = max(high for _, high in ranges[:place]), ranges[place][0]
        if low > top:
            raise ValueError(f"scales: no valid_range has the sizes from {top:g} to {low:g}")


def _check_order(scales: Sequence[ScaleRecipe]) -> None:
    """Raise ValueError unless the scales rise from the finest, for the smallest objects."""
    for place, (one, other) in enumerate(itertools.pairwise(scales)):
        first, second = ((s.valid_range[0], s.valid_range[1] or math.inf) for s in (one, other))
        if second[0] < first[0] or second[1] < first[1] or other.finer_than(one):
            raise ValueError(
                f"scales: the finest comes first, for the smallest objects; scales.{place + 1} is "
                f"finer than scales.{place}, or for smaller ones"
            )


class NegativeRecipe(Strict):
    """Negative chips: crops full of proposals that no object explains (SNIPER, box_assigner)."""

    rpn_epochs: float = Field(
        2, gt=0, description="a proposal network is trained so long first, by the same recipe"
    )
    proposals_before: int = Field(6000, gt=0, description="its proposals before suppression")
    proposals: int = Field(300, gt=0, description="its proposals kept a scale")
    per_image: int = Field(
        2, gt=0, description="at most so many an epoch, of each image as it is and mirrored"
    )
    minimum_proposals: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (25, 10, 10), description="a negative chip holds more proposals than this, for each scale"
    )


class ChipRecipe(Strict):
    """SNIPER's chips: the crops that a detector is trained on."""

    size: int = Field(gt=0, description="side of a chip, pixels")
    stride: tuple[int, int] = Field(description="range of the random grid step, pixels")
    minimum_side: float = Field(gt=0, description="objects cut smaller are dropped, chip pixels")
    scales: tuple[ScaleRecipe, ...] = Field(min_length=1, description="finest first")
    coarsest_takes_rest: bool = Field(
        False, description="objects that suit no scale count at the coarsest (authors: OpenImages)"
    )
    negatives: NegativeRecipe | None = Field(
        None, description="chips of background, which need proposals; null: none"
    )

    @model_validator(mode="after")
    def _stride_fits(self) -> ChipRecipe:
        low, high = self.stride
        if not 0 < low <= high < self.size - 1:
            raise ValueError("stride: needs 0 < lowest <= highest < size - 1")
        if not self.coarsest_takes_rest:
            _check_ranges(self.scales)
        _check_order(self.scales)
        return self

    @model_validator(mode="after")
    def _a_number_each_scale(self) -> ChipRecipe:
        given = len(self.negatives.minimum_proposals) if self.negatives else len(self.scales)
        if given != len(self.scales):
            raise ValueError(
                f"negatives.minimum_proposals: has {given} numbers for {len(self.scales)} scales"
            )
        return self


class RpnRecipe(Strict):
    """The region proposal network."""

    channels: int = Field(512, gt=0, description="width of its 3x3 convolution")
    anchor_sizes: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Distinct] = Field(
        min_length=1, description="square root of area, pixels"
    )
    anchor_ratios: Annotated[tuple[Positive, ...], Distinct] = Field(
        (0.5, 1.0, 2.0), min_length=1, description="height over width"
    )
    batch_per_chip: int = Field(256, gt=0, description="anchors sampled for the loss")
    ignore_iou: float = Field(
        0.3, ge=0, le=1, description="overlap with an invalid object at which anchors are left out"
    )
    border: float = Field(32, ge=0, description="anchors reaching further out are left out, pixels")
    train_before: int = Field(21504, gt=0, description="proposals a chip before suppression")
    train_proposals: int = Field(300, gt=0, description="proposals a chip after suppression")


class FasterRcnnRecipe(Strict):
    """The Faster R-CNN head: ConvProj, RoI blob, FC1, FC2, class scores, one box regression."""

    kind: Literal["faster_rcnn"] = Field(description="which head")
    conv_proj: int = Field(256, gt=0, description="channels of ConvProj")
    roi_size: int = Field(14, gt=0, description="side of the RoI blob (paper: 14, code: 7)")
    hidden: int = Field(1024, gt=0, description="width of FC1 and FC2")
    rois_per_chip: int = Field(300, gt=0, description="RoIs sampled for the loss")
    positive_share: float = Field(
        1.0, gt=0, le=1, description="largest share of positives (1: no balancing, as the code)"
    )

    @property
    def grids(self) -> tuple[int, ...]:
        """The sides to which Table 7 pools the RoI blob, the blob's own first."""
        return (self.roi_size, *(side for side in POOLED_SIDES if side < self.roi_size))

    @property
    def layers(self) -> tuple[str, ...]:
        """The head's layers as Table 7 calls them, from its entrance to its exit."""
        grids = [f"conv_proj_{side}x{side}" for side in self.grids]
        return (*grids, "conv_proj_avg", "fc1", "fc2")


class Rfcn3000Recipe(Strict):
    """The R-FCN-3000 head: super-classes by position-sensitive pooling, a decoupled classifier."""

    kind: Literal["rfcn3000"] = Field(description="which head")
    superclasses: int = Field(
        1, gt=0, description="groups that the classes are clustered into (code: 1, objectness)"
    )
    projection: int = Field(1024, gt=0, description="channels that position-sensitive maps read")
    roi_size: int = Field(7, gt=0, description="cells a side of position-sensitive pooling")
    hidden: int = Field(1024, gt=0, description="width of the classifier's hidden layer")
    rois_per_chip: int = Field(300, gt=0, description="RoIs sampled for the losses")
    positive_share: float = Field(
        1.0, gt=0, le=1, description="largest share of positives (1: no balancing, as the code)"
    )
    class_rois_per_chip: int = Field(
        50, gt=0, description="objects' RoIs a chip that the classifier learns from, at most"
    )

    @property
    def layers(self) -> tuple[str, ...]:
        """The head's layers that have a vector a RoI: the projection's mean, the hidden layer."""
        return ("projection_avg", "hidden")


class DetectionRecipe(Strict):
    """Training of the detector (the paper's section 4.1 and the authors' public code)."""

    task: Literal["detection"]
    training: TrainingRecipe
    backbone: BackboneRecipe
    features: Literal["conv5", "conv4+conv5"] = Field(
        "conv5",
        description="what RPN and head read (paper: conv5; code: both, one after the other)",
    )
    chips: ChipRecipe
    rpn: RpnRecipe
    head: Annotated[FasterRcnnRecipe | Rfcn3000Recipe, Field(discriminator="kind")] = Field(
        description="Faster R-CNN (COCO, OpenImages, VOC) or R-FCN-3000 (ImageNet-LOC)"
    )

    @model_validator(mode="after")
    def _maps_fit(self) -> DetectionRecipe:
        if self.features == "conv4+conv5" and self.backbone.output_stride > 16:
            raise ValueError("features: conv4+conv5 needs backbone.output_stride 16 or 8")
        return self


class VocRecipe(Strict):
    """The convention of VOC's average precision (definitions: VOCevaldet.m, VOCdevkit 2007)."""

    kind: Literal["voc"] = Field(description="which metric")
    ious: Annotated[tuple[Share, ...], Distinct] = Field(
        min_length=1, description="overlap thresholds; a study's tables need 0.1, 0.2, ..., 0.9"
    )
    convention: Literal["AP07", "AP10"] = Field(description="the headline; both are computed")
    strict_overlap: bool = Field(False, description="IoU must exceed the threshold (authors)")
    round_scores: int | None = Field(None, ge=0, description="decimals kept (authors: 3)")
    round_boxes: int | None = Field(None, ge=0, description="decimals kept (authors: 1)")

    @model_validator(mode="after")
    def _thresholds(self) -> VocRecipe:
        if 0.5 not in self.ious:
            raise ValueError("ious: 0.5 must be among them")
        return self


class CocoRecipe(Strict):
    """COCO's average precisions: overlaps .5 to .95, 101 points, 100 detections an image."""

    kind: Literal["coco"] = Field(description="which metric")


class OpenImagesRecipe(Strict):
    """Open Images' average precision at overlap 0.5: groups count once, verified classes only."""

    kind: Literal["open_images"] = Field(description="which metric")


class DiagnosisRecipe(Strict):
    """The error analysis of detections (Hoiem et al., ECCV 2012)."""

    similar_classes: tuple[tuple[str, ...], ...] | None = Field(
        None, description="sets of classes that are taken for each other; null: of one superclass"
    )


class InferenceRecipe(Strict):
    """How a detector is run and scored."""

    task: Literal["detection"]
    scales: tuple[ScaleRecipe, ...] = Field(min_length=1, description="images are run at each")
    batch_size: int = Field(gt=0, description="images of one shape at once")
    proposals_before: int = Field(6000, gt=0, description="proposals kept before suppression")
    proposals: int = Field(300, gt=0, description="proposals kept a scale")
    score_threshold: float = Field(
        0.001, ge=0, lt=1, description="detections below are dropped, before and after suppression"
    )
    soft_nms_sigma: float = Field(
        0.55, gt=0, description="width of the Gaussian by which a class suppresses itself"
    )
    per_image: int = Field(200, gt=0, description="detections kept an image")
    training_images: int = Field(200, gt=0, description="training images scored to see the fit")
    metric: Annotated[VocRecipe | CocoRecipe | OpenImagesRecipe, Field(discriminator="kind")] = (
        Field(description="VOC's, COCO's or Open Images' average precision")
    )
    diagnosis: DiagnosisRecipe = DiagnosisRecipe()

    @model_validator(mode="after")
    def _scales_meet(self) -> InferenceRecipe:
        _check_ranges(self.scales)
        return self


class ResizeRecipe(Strict):
    """The size at which a segmenter sees an image, whole, in training and at test time."""

    short: int = Field(gt=0, description="shorter side, pixels")
    long: int = Field(gt=0, description="largest longer side, pixels; it wins")
    flip: bool = Field(True, description="an epoch shows every image mirrored, too")

    @model_validator(mode="after")
    def _sides_fit(self) -> ResizeRecipe:
        if self.short > self.long:
            raise ValueError("short: must not exceed `long`")
        return self

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return an image's height and width for the network (``resize`` in DCN's image.py)."""
        scale = self.short / min(height, width)
        if round(scale * max(height, width)) > self.long:
            scale = self.long / max(height, width)
        return max(1, round(scale * height)), max(1, round(scale * width))


class PlainHeadRecipe(Strict):
    """The head of the authors' segmentation code: two 1x1 convolutions."""

    kind: Literal["plain"] = Field(description="which head")
    hidden: int = Field(1024, gt=0, description="width of fc6")


class AsppRecipe(Strict):
    """Atrous spatial pyramid pooling as in DeepLab v2: branches that are added up."""

    kind: Literal["aspp"] = Field(description="which head")
    hidden: int = Field(1024, gt=0, description="width of fc6 and fc7 of a branch")
    rates: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Distinct] = Field(
        (6, 12, 18, 24), min_length=1, description="dilation of the branches, steps of Conv5"
    )


class SegmentationRecipe(Strict):
    """Training of DeepLab (the paper's section 4.2; silent points from its code for DCN)."""

    task: Literal["segmentation"]
    training: TrainingRecipe
    backbone: BackboneRecipe
    offsets: Literal["zero", "keep"] = Field(
        "zero", description="of Conv5 at the start; keep: those of a detector trained here"
    )
    images: ResizeRecipe
    head: Annotated[PlainHeadRecipe | AsppRecipe, Field(discriminator="kind")] = Field(
        description="what reads Conv5: plain (the authors' code) or aspp"
    )

    @model_validator(mode="after")
    def _offsets_exist(self) -> SegmentationRecipe:
        if self.offsets == "keep" and not self.backbone.deformable_groups:
            raise ValueError("offsets: there are none to keep at backbone.deformable_groups 0")
        return self


def load_recipes(study: Study) -> dict[str, Strict]:
    """Return every recipe that the study's networks use, by stage.

    Raises InputError at the first that is missing, wrong, or for another task, and at one that
    leaves out a threshold that a table or figure shows.
    """
    training: dict[str, type[Strict]] = {
        "classification": ClassificationRecipe,
        "detection": DetectionRecipe,
        "segmentation": SegmentationRecipe,
    }
    wanted = {f"pretrain_{name}": training[p.kind] for name, p in study.trained.items()}
    wanted |= {f"finetune_{name}": training[t.task] for name, t in study.targets.items()}
    for name in (*study.detectors, *study.targets_of("detection")):
        wanted[f"evaluate_{name}"] = InferenceRecipe
    recipes = {
        stage: load_recipe_file(study.recipe(stage), model) for stage, model in wanted.items()
    }
    for stage, recipe in recipes.items():
        _check_stage(study.recipe(stage), stage, recipe)
        _check_split(study.recipe(stage), recipe, max(1, study.resources.train.gpu))
    grouped = any(superclasses(recipe) > 1 for recipe in recipes.values())
    if grouped or study.targets_of("classification"):
        recipes["features"] = load_recipe_file(study.recipe("features"), FeatureRecipe)
    if study.targets_of("classification"):
        recipes["probe"] = load_recipe_file(study.recipe("probe"), ProbeRecipe)
    for name in study.targets_of("detection"):
        evaluation = recipes[f"evaluate_{name}"]
        assert isinstance(evaluation, InferenceRecipe)
        if isinstance(evaluation.metric, VocRecipe):
            _check_thresholds(study.recipe(f"evaluate_{name}"), evaluation.metric)
    for name in study.targets_of("segmentation"):
        _check_offsets(study, recipes, name)
    return recipes


def superclasses(recipe: Strict) -> int:
    """Return into how many super-classes a recipe groups the classes; 1 where it groups none."""
    grouped = isinstance(recipe, DetectionRecipe) and isinstance(recipe.head, Rfcn3000Recipe)
    return recipe.head.superclasses if grouped else 1  # type: ignore[attr-defined]


def _check_stage(path: Path, stage: str, recipe: Strict) -> None:
    """Raise InputError for what only a pre-training, or only a fine-tuning, can have."""
    if stage.startswith("finetune_") and superclasses(recipe) > 1:
        raise InputError(
            f"{path}: head.superclasses: only a pre-training's classes are clustered; give 1"
        )
    searching = isinstance(recipe, ClassificationRecipe) and recipe.search is not None
    if stage.startswith("pretrain_") and searching:
        raise InputError(f"{path}: search: is for targets; a pre-training takes one rate as given")


def _check_split(path: Path, recipe: Strict, devices: int) -> None:
    """Raise InputError where a training's batch cannot be split among the devices of its job."""
    training = getattr(recipe, "training", None)
    if training is not None and not training.splits_among(devices):
        raise InputError(
            f"{path}: training.batch_size {training.batch_size} (micro_batch "
            f"{training.micro_batch or 'null'}) cannot be split among {devices} GPUs "
            "(resources.train.gpu), so that each holds whole micro-batches or an equal part of one"
        )


def _check_thresholds(path: Path, recipe: VocRecipe) -> None:
    missing = [f"{iou:g}" for iou in REPORTED_IOUS if iou not in recipe.ious]
    if missing:
        raise InputError(
            f"{path}: metric.ious: Table 2 and Figure 1 show the overlaps 0.1, 0.2, ..., 0.9; add "
            f"{', '.join(missing)}"
        )


def _check_offsets(study: Study, recipes: Mapping[str, Strict], target: str) -> None:
    """Raise InputError where a segmenter keeps offsets of another number of groups than its own."""
    recipe, path = recipes[f"finetune_{target}"], study.recipe(f"finetune_{target}")
    assert isinstance(recipe, SegmentationRecipe)
    if recipe.offsets == "zero":
        return
    wanted = recipe.backbone.deformable_groups
    for name in [each for each in study.fine_tuned(target) if each in study.detectors]:
        source = recipes[f"pretrain_{name}"]
        assert isinstance(source, DetectionRecipe)
        given = source.backbone.deformable_groups
        if given != wanted:
            raise InputError(
                f"{path}: offsets: keep needs backbone.deformable_groups {given} as in "
                f"{study.recipe(f'pretrain_{name}')}, not {wanted}; make them equal, or give "
                "offsets: zero"
            )
