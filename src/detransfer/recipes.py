"""The recipes: one annotated YAML file for each stage of a study, in typed models.

``pretrain_<pre-training>.yaml`` and ``finetune_<target>.yaml`` say how a network is trained;
``evaluate_<target>.yaml`` says how it is run and scored. A recipe file is an input of its rule.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from detransfer.study import Strict, Study, load_recipe_file

Range = tuple[float, float | None]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]


class TrainingRecipe(Strict):
    """Optimiser, schedule and numerics: what the one training loop needs."""

    epochs: float = Field(gt=0, description="passes over the training set")
    batch_size: int = Field(gt=0, description="global batch, whatever the number of devices")
    micro_batch: int | None = Field(
        None, gt=0, description="images a device holds at once; null: the whole batch"
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


class BackboneRecipe(Strict):
    """How dense the backbone's Conv5 is, and what of the backbone moves."""

    output_stride: Literal[8, 16, 32] = Field(description="input pixels a step of Conv5")
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


class ClassificationRecipe(Strict):
    """Training of a classifier (the paper's section 4.3; silent points after Kornblith et al.)."""

    task: Literal["classification"]
    training: TrainingRecipe
    backbone: BackboneRecipe
    images: ImageRecipe
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share spread over all classes")


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
        low, high = self.valid_range
        if high is not None and high <= low:
            raise ValueError(f"valid_range: {low} to {high} is empty")
        return self


class ChipRecipe(Strict):
    """SNIPER's chips: the crops that a detector is trained on."""

    size: int = Field(gt=0, description="side of a chip, pixels")
    stride: tuple[int, int] = Field(description="range of the random grid step, pixels")
    minimum_side: float = Field(gt=0, description="objects cut smaller are dropped, chip pixels")
    scales: tuple[ScaleRecipe, ...] = Field(min_length=1, description="finest first")

    @model_validator(mode="after")
    def _stride_fits(self) -> ChipRecipe:
        low, high = self.stride
        if not 0 < low <= high < self.size:
            raise ValueError("stride: needs 0 < lowest <= highest < size")
        return self


class RpnRecipe(Strict):
    """The region proposal network."""

    channels: int = Field(512, gt=0, description="width of its 3x3 convolution")
    anchor_sizes: tuple[Annotated[int, Field(gt=0)], ...] = Field(
        min_length=1, description="square root of area, pixels"
    )
    anchor_ratios: tuple[Positive, ...] = Field((0.5, 1.0, 2.0), description="height over width")
    batch_per_chip: int = Field(256, gt=0, description="anchors sampled for the loss")
    ignore_iou: float = Field(
        0.3, ge=0, le=1, description="overlap with an invalid object at which anchors are left out"
    )
    border: float = Field(32, ge=0, description="anchors reaching further out are left out, pixels")
    train_before: int = Field(21504, gt=0, description="proposals a chip before suppression")
    train_proposals: int = Field(300, gt=0, description="proposals a chip after suppression")


class HeadRecipe(Strict):
    """The Faster R-CNN head: ConvProj, RoI blob, FC1, FC2, class scores, one box regression."""

    conv_proj: int = Field(256, gt=0, description="channels of ConvProj")
    roi_size: int = Field(14, gt=0, description="side of the RoI blob (paper: 14, code: 7)")
    hidden: int = Field(1024, gt=0, description="width of FC1 and FC2")
    rois_per_chip: int = Field(300, gt=0, description="RoIs sampled for the loss")
    positive_share: float = Field(
        1.0, gt=0, le=1, description="largest share of positives (1: no balancing, as the code)"
    )


class DetectionRecipe(Strict):
    """Training of the detector (the paper's section 4.1 and the authors' public code)."""

    task: Literal["detection"]
    training: TrainingRecipe
    backbone: BackboneRecipe
    chips: ChipRecipe
    rpn: RpnRecipe
    head: HeadRecipe


class VocRecipe(Strict):
    """The convention of VOC's average precision (definitions: VOCevaldet.m, VOCdevkit 2007)."""

    ious: tuple[Share, ...] = Field(min_length=1, description="overlap thresholds")
    convention: Literal["AP07", "AP10"] = Field(description="the headline; both are computed")
    strict_overlap: bool = Field(False, description="IoU must exceed the threshold (authors)")
    round_scores: int | None = Field(None, ge=0, description="decimals kept (authors: 3)")
    round_boxes: int | None = Field(None, ge=0, description="decimals kept (authors: 1)")

    @model_validator(mode="after")
    def _thresholds(self) -> VocRecipe:
        if 0.5 not in self.ious or not all(0 < iou <= 1 for iou in self.ious):
            raise ValueError("ious: between 0 and 1, with 0.5 among them")
        return self


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
    score_threshold: float = Field(0.001, ge=0, lt=1, description="detections below are dropped")
    nms_iou: float = Field(gt=0, le=1, description="overlap at which a class suppresses itself")
    per_image: int = Field(200, gt=0, description="detections kept an image")
    training_images: int = Field(200, gt=0, description="training images scored to see the fit")
    voc: VocRecipe
    diagnosis: DiagnosisRecipe = DiagnosisRecipe()


def check_recipes(study: Study) -> None:
    """Read every recipe that the study will use; raises InputError at the first that is wrong."""
    training: dict[str, type[Strict]] = {
        "classification": ClassificationRecipe,
        "detection": DetectionRecipe,
    }
    for name, pretraining in study.trained.items():
        load_recipe_file(study.recipe(f"pretrain_{name}"), training[pretraining.kind])
    for name, target in study.targets.items():
        load_recipe_file(study.recipe(f"finetune_{name}"), training[target.task])
    for name in study.targets_of("detection"):
        load_recipe_file(study.recipe(f"evaluate_{name}"), InferenceRecipe)
