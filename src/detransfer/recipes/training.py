"""What every recipe of a training has: optimiser and schedule, and how the backbone is run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from detransfer.strict import Positive, Strict


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
    compile: bool = Field(
        False,
        description="torch.compile of the backbone, in training alone: inference meets many shapes "
        "of images, and compiling for them takes longer than it saves",
    )
    checkpoint_minutes: float = Field(10, gt=0, description="time between checkpoints, minutes")
    log_every: int = Field(50, gt=0, description="steps between log lines")

    @model_validator(mode="after")
    def _steps_fit(self) -> TrainingRecipe:
        if (self.schedule == "step") != bool(self.step_epochs):
            raise ValueError("step_epochs: given exactly when schedule is 'step'")
        late = [epoch for epoch in self.step_epochs if epoch >= self.epochs]
        if late:
            raise ValueError(f"step_epochs: {late[0]:g} is no epoch of {self.epochs:g}")
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
