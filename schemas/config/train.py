"""What both trainers share: the loop's cadence, the engine and the optimiser."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas.config.base import Config


class OptimConfig(Config):
    """One optimiser."""

    optimizer: Literal["adam", "adamw"] = Field("adamw", description="Adam (coupled decay) or AdamW (decoupled).")
    lr: float = Field(3e-4, gt=0, description="Peak learning rate.")
    betas: tuple[float, float] = Field((0.9, 0.95), description="Adam's moving-average coefficients.")
    weight_decay: float = Field(0.01, ge=0, description="Decay of the weights of linear layers.")
    warmup_steps: int = Field(0, ge=0, description="Steps of linear warm-up.")
    schedule: Literal["constant", "cosine"] = Field("constant", description="After warm-up: constant, or cosine to 0.")
    clip_grad_norm: float | None = Field(1.0, gt=0, description="Largest global gradient norm; null: no clipping.")


class TrainConfig(Config):
    """The training loop."""

    engine: Literal["deepspeed", "plain"] = Field(
        "deepspeed", description="`deepspeed`, or `plain` torch in one process with the same results."
    )
    zero_stage: Literal[0, 1] = Field(1, description="DeepSpeed: ZeRO stage.")
    steps: int = Field(1000, ge=1, description="Batches to train on.")
    batch_size: int = Field(8, ge=1, description="Clips in a batch, summed over all ranks.")
    threads: int | Literal["auto"] = Field(
        "auto",
        description="torch threads on the CPU; `auto` times one step with 1 and with all cores and keeps the faster.",
    )
    log_every: int = Field(10, ge=1, description="Batches between two step lines.")
    validate_every: int = Field(200, ge=1, description="Batches between two validations (and previews).")
    validate_clips: int = Field(64, ge=1, description="Held-out clips used in a validation.")
    checkpoint_every: int = Field(500, ge=1, description="Batches between two checkpoints.")
    keep_checkpoints: int = Field(2, ge=1, description="Checkpoints kept besides the export.")
